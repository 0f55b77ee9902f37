//! What is in force, setting by setting.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::{PREFIX, ServerFile, refused, set};
use crate::failure::Failure;

impl ServerFile {
    /// Every setting as it is in force, by name, and where it comes from.
    pub fn settings(
        named: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<Vec<Setting>> {
        let (text, place) = Self::text(named)?;
        let ours = |(name, _): &(String, String)| name.starts_with(PREFIX);
        let variables: Vec<(String, String)> = variables.filter(ours).collect();
        Self::merge(&text, &place, variables.clone().into_iter())?;

        let mut settings = BTreeMap::new();
        let defaults = Self::default();
        for (name, section) in [
            ("server", Value::try_from(&defaults.server)?),
            ("limits", Value::try_from(defaults.limits)?),
            ("queue", Value::try_from(&defaults.queue)?),
            ("documents", Value::try_from(defaults.documents)?),
            ("cors", Value::try_from(&defaults.cors)?),
            ("query_log", Value::try_from(&defaults.query_log)?),
            ("observability", Value::try_from(&defaults.observability)?),
            ("auth.public", Value::try_from(&defaults.auth.public)?),
        ] {
            flatten(name, section, "default", &mut settings);
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
        Ok(settings.into_values().collect())
    }
}

/// A setting in force.
pub struct Setting {
    /// `section.key = value`.
    pub line: String,
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
            let line = format!("{name} = {value}");
            let origin = origin.to_owned();
            settings.insert(name.to_owned(), Setting { line, origin });
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
        if old.get(&name).is_none_or(|old| old.line != setting.line) {
            settings.insert(name, setting);
        }
    }
}
