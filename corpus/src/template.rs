use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Passage, Query, Schema};

/// How the text that an encoder reads is made of a record: text with `<field>` in it.
///
/// `<title>` and `<text>` are the record's own, `<_id>` is its id, any other name is a metadata field; dots lead into
/// nested objects (`<meta.name>`), and BEIR's `metadata` object may be named or not. Substitution is a
/// single pass: a `<` inside a value is only a character. What is not `<name>`, with a name of letters, digits, `_`, `.`
/// and `-`, stands for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    source: String,
    parts: Vec<Part>,
    fields: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field(String),
}

/// Why a template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Every text would be the same.
    #[error("template `{template}` names no field")]
    NoField {
        /// The template.
        template: String,
    },
    /// A field that the corpus does not have.
    #[error("template field `{field}` is not one of {}", known.join(", "))]
    UnknownField {
        /// The field.
        field: String,
        /// The fields of the corpus.
        known: Vec<String>,
    },
}

/// A text made by a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text, without white space at its ends.
    pub text: String,
    /// Fields of the template that the record does not have, or has as null. An empty title is not missing.
    pub n_missing: usize,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError::NoField`] when it names none.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut fields, mut literal) = (Vec::new(), Vec::new(), String::new());
        let mut rest = source;
        while let Some(start) = rest.find('<') {
            literal.push_str(&rest[..start]);
            rest = &rest[start..];
            let n_name = rest[1..]
                .find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c)))
                .unwrap_or(0);
            if n_name > 0 && rest[1 + n_name..].starts_with('>') {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                let name = rest[1..=n_name].to_owned();
                if !fields.contains(&name) {
                    fields.push(name.clone());
                }
                parts.push(Part::Field(name));
                rest = &rest[n_name + 2..];
            } else {
                literal.push('<');
                rest = &rest[1..];
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if fields.is_empty() {
            return Err(TemplateError::NoField {
                template: source.to_owned(),
            });
        }
        Ok(Self {
            source: source.to_owned(),
            parts,
            fields,
        })
    }

    /// The template of a query's text when nothing else is asked for: `<text>`.
    pub fn query_default() -> Self {
        Self::parse("<text>").expect("the template names a field")
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The fields it names, each once, in order.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Makes the text of a passage.
    pub fn render(&self, passage: &Passage) -> Rendered {
        self.render_with(&passage.metadata, |name| match name {
            "_id" => Some(&passage.id),
            "title" => Some(&passage.title),
            "text" => Some(&passage.text),
            _ => None,
        })
    }

    /// Makes the text of a query.
    pub fn render_query(&self, query: &Query) -> Rendered {
        self.render_with(&query.metadata, |name| match name {
            "_id" => Some(&query.id),
            "text" => Some(&query.text),
            _ => None,
        })
    }

    /// The fields that a passage does not have, or has as null.
    pub fn missing<'a>(&'a self, passage: &'a Passage) -> impl Iterator<Item = &'a str> {
        let own = ["_id", "title", "text"];
        self.fields
            .iter()
            .map(String::as_str)
            .filter(move |name| !own.contains(name) && value(&passage.metadata, name).is_none())
    }

    /// Checks that the corpus has every field.
    ///
    /// # Errors
    /// [`TemplateError::UnknownField`] for the first that it has not.
    pub fn check_fields(&self, schema: &Schema) -> Result<(), TemplateError> {
        let own = ["title", "text", "_id"];
        let is_known = |field: &str| {
            own.contains(&field)
                || prefixes(flat(field)).any(|prefix| schema.fields.contains_key(prefix))
        };
        match self.fields.iter().find(|field| !is_known(field)) {
            None => Ok(()),
            Some(field) => Err(TemplateError::UnknownField {
                field: field.clone(),
                known: own
                    .iter()
                    .map(|name| (*name).to_owned())
                    .chain(schema.fields.keys().cloned())
                    .collect(),
            }),
        }
    }

    fn render_with<'a>(
        &self,
        metadata: &Map<String, Value>,
        own: impl Fn(&str) -> Option<&'a String>,
    ) -> Rendered {
        let (mut text, mut n_missing) = (String::new(), 0);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Field(name) => match (own(name), value(metadata, name)) {
                    (Some(value), _) => text.push_str(value),
                    (None, None) => n_missing += 1,
                    (None, Some(value)) => push_value(&mut text, value),
                },
            }
        }
        Rendered {
            text: text.trim().to_owned(),
            n_missing,
        }
    }
}

impl Default for Template {
    /// `<title> <text>`
    fn default() -> Self {
        Self::parse("<title> <text>").expect("the template names a field")
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(source: String) -> Result<Self, TemplateError> {
        Self::parse(&source)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.source
    }
}

/// A metadata field's name without BEIR's `metadata`, whose fields stand beside the others.
fn flat(name: &str) -> &str {
    name.strip_prefix("metadata.").unwrap_or(name)
}

/// `a.b.c`, `a.b`, `a`.
fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| Some(name.rsplit_once('.')?.0))
}

/// The value of a field that is not null. A name with dots is a field of that name, else leads into objects.
fn value<'a>(metadata: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let name = if metadata.contains_key(name) {
        name
    } else {
        flat(name)
    };
    let (found, prefix) =
        prefixes(name).find_map(|prefix| Some((metadata.get(prefix)?, prefix)))?;
    let mut inner = name[prefix.len()..].split('.').skip(1);
    let found = inner.try_fold(found, |value, key| value.get(key))?;
    (!found.is_null()).then_some(found)
}

/// Strings stand as they are, the elements of an array are separated by commas, anything else is its JSON.
fn push_value(text: &mut String, value: &Value) {
    match value {
        Value::String(value) => text.push_str(value),
        Value::Array(values) => {
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    text.push_str(", ");
                }
                push_value(text, value);
            }
        }
        value => text.push_str(&value.to_string()),
    }
}
