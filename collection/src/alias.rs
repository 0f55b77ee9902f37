//! `aliases.json`: which generation each alias names.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::durable::write_atomic;
use crate::{AliasName, CollectionError, GenerationId};

const FORMAT_VERSION: u64 = 1;

/// Which generation each alias names, sorted by alias.
pub type Aliases = BTreeMap<AliasName, GenerationId>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AliasFile {
    format_version: u64,
    aliases: Aliases,
}

/// Reads the alias file; a collection without one has no aliases.
pub(crate) fn read(path: &Path) -> Result<Aliases, CollectionError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Aliases::new()),
        Err(error) => return Err(CollectionError::read(path, error)),
    };
    let damaged = |reason: String| CollectionError::Aliases {
        path: path.to_path_buf(),
        reason,
    };
    let file: AliasFile =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match file.format_version {
        FORMAT_VERSION => Ok(file.aliases),
        found => Err(damaged(format!(
            "format version {found}, expected {FORMAT_VERSION}"
        ))),
    }
}

pub(crate) fn write(path: &Path, aliases: &Aliases) -> Result<(), CollectionError> {
    let file = AliasFile {
        format_version: FORMAT_VERSION,
        aliases: aliases.clone(),
    };
    let mut text = serde_json::to_string_pretty(&file).expect("names are strings");
    text.push('\n');
    write_atomic(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_survive_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases.json");
        assert_eq!(read(&path).unwrap(), Aliases::new());
        let aliases = Aliases::from([(
            AliasName::parse("live").unwrap(),
            GenerationId::parse("g1").unwrap(),
        )]);
        write(&path, &aliases).unwrap();
        assert_eq!(read(&path).unwrap(), aliases);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn damaged_alias_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases.json");
        let whole = r#"{"format_version":1,"aliases":{"live":"g1"}}"#;
        let mut hostile: Vec<Vec<u8>> = (0..whole.len())
            .map(|n| whole.as_bytes()[..n].to_vec())
            .collect();
        hostile.extend(
            [
                r#"{"format_version":2,"aliases":{}}"#,
                r#"{"format_version":1}"#,
                r#"{"format_version":1,"aliases":{},"more":1}"#,
                r#"{"format_version":1,"aliases":{"live":7}}"#,
                r#"{"format_version":1,"aliases":{"live":"../../etc"}}"#,
                r#"{"format_version":1,"aliases":{"../x":"g1"}}"#,
                r#"{"format_version":1,"aliases":["live","g1"]}"#,
            ]
            .map(|text| text.as_bytes().to_vec()),
        );
        hostile.push(b"{\"format_version\":1,\"aliases\":{\"live\":\"g\xff\"}}".to_vec());
        for bytes in hostile {
            fs::write(&path, &bytes).unwrap();
            let error = read(&path).unwrap_err();
            assert!(
                matches!(error, CollectionError::Aliases { .. }),
                "{error}: {}",
                String::from_utf8_lossy(&bytes)
            );
            assert!(error.is_corrupt());
        }
    }
}
