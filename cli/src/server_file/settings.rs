//! What is in force, setting by setting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{CollectionSection, ModelRole, PREFIX, ServerFile, refused, set};
use crate::failure::Failure;

impl ServerFile {
    /// Every setting as it is in force, by name, and where it comes from.
    pub fn settings(
        named: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<BTreeMap<String, Setting>> {
        let (text, place) = Self::text(named)?;
        let ours = |(name, _): &(String, String)| name.starts_with(PREFIX);
        let variables: Vec<(String, String)> = variables.filter(ours).collect();
        let file = Self::merge(&text, &place, variables.clone().into_iter())?;

        let mut settings = BTreeMap::new();
        for (name, section) in Self::default().sections()? {
            flatten(name, section, "default", &mut settings);
        }
        for (name, model) in &file.models {
            if model.role == ModelRole::Encoder {
                let name = format!("models.{name}.dimensions");
                flatten(&name, Value::Array(Vec::new()), "default", &mut settings);
            }
        }
        for name in file.collections.keys() {
            let section = Value::try_from(CollectionSection::at(PathBuf::new()))?;
            let name = format!("collections.{name}");
            flatten(&name, section, "default", &mut settings);
        }
        let mut table: Table = text.parse().map_err(|error| refused(&place, &error))?;
        flatten(
            "",
            Value::Table(table.clone()),
            place.trim_matches('`'),
            &mut settings,
        );
        for (name, value) in &variables {
            let before = table.clone();
            let keys = name.strip_prefix(PREFIX).unwrap_or_default();
            set(&mut table, keys, value).map_err(Failure::usage)?;
            flatten_changed(&before, &table, name, &mut settings);
        }
        Ok(settings)
    }

    /// The sections whose settings have defaults, by name.
    fn sections(&self) -> Result<[(&'static str, Value); 8], toml::ser::Error> {
        Ok([
            ("server", Value::try_from(&self.server)?),
            ("limits", Value::try_from(self.limits)?),
            ("queue", Value::try_from(&self.queue)?),
            ("documents", Value::try_from(self.documents)?),
            ("cors", Value::try_from(&self.cors)?),
            ("query_log", Value::try_from(&self.query_log)?),
            ("observability", Value::try_from(&self.observability)?),
            ("auth.public", Value::try_from(&self.auth.public)?),
        ])
    }
}

/// A setting in force.
pub struct Setting {
    /// As the file would have it.
    pub value: Value,
    /// `default`, a file, or a variable.
    pub origin: String,
}

/// Lists the settings of a table, under the name of their section.
fn flatten(name: &str, value: Value, origin: &str, settings: &mut BTreeMap<String, Setting>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let name = match name {
                    "" => key,
                    name => format!("{name}.{key}"),
                };
                flatten(&name, value, origin, settings);
            }
        }
        value => {
            let origin = origin.to_owned();
            settings.insert(name.to_owned(), Setting { value, origin });
        }
    }
}

/// Lists the settings that are in one table and not, or differently, in another.
fn flatten_changed(
    before: &Table,
    after: &Table,
    origin: &str,
    settings: &mut BTreeMap<String, Setting>,
) {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten("", Value::Table(before.clone()), origin, &mut old);
    flatten("", Value::Table(after.clone()), origin, &mut new);
    for (name, setting) in new {
        if old.get(&name).is_none_or(|old| old.value != setting.value) {
            settings.insert(name, setting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceChoice;

    #[test]
    fn the_page_has_every_setting_with_its_default() {
        let page = include_str!("../../../docs/server.md");
        let block = page.split("### Every setting").nth(1);
        let block = block.and_then(|rest| rest.split("```toml\n").nth(1));
        let block = block.and_then(|rest| rest.split("```").next());
        let block = block.expect("the page has all settings as TOML");

        let mut file = ServerFile::merge(block, "docs/server.md", std::iter::empty())
            .expect("the settings of the page are known");
        file.server.device = DeviceChoice::default(); // other builds have another one
        let defaults = ServerFile::default().sections().expect("defaults are TOML");
        assert_eq!(
            file.sections().expect("what was TOML is TOML again"),
            defaults
        );
        let collection = CollectionSection::at("data/docs".into());
        assert_eq!(
            format!("{:?}", file.collections["docs"]),
            format!("{collection:?}")
        );

        let (mut written, mut expected) = (BTreeMap::new(), BTreeMap::new());
        let table: Table = block.parse().expect("the settings of the page are TOML");
        flatten("", Value::Table(table), "page", &mut written);
        for (name, section) in defaults {
            flatten(name, section, "default", &mut expected);
        }
        for name in expected.keys() {
            assert!(written.contains_key(name), "`{name}` is not in the page");
        }
    }
}
