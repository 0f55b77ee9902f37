use corpus::{Passage, Template};
use serde::{Deserialize, Serialize};

use super::Content;

/// What an encoder reads of a passage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassageText {
    /// One text, a template filled with the passage's fields.
    Template(Template),
    /// Title and text as a pair, with token types 0 and 1.
    Pair,
}

impl PassageText {
    /// Makes the content of a passage.
    pub fn content(&self, passage: &Passage) -> Content {
        match self {
            Self::Template(template) => Content::Text(template.render(passage).text),
            Self::Pair => Content::Pair(passage.title.clone(), passage.text.clone()),
        }
    }
}

impl Default for PassageText {
    /// `<title> <text>`
    fn default() -> Self {
        Self::Template(Template::default())
    }
}
