//! `aliases.json`: which generation each alias names.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::durable::write_atomic;
use crate::{AliasName, CollectionError, GenerationId, canonical_json, sha256_hex};

const FORMAT_VERSION: u64 = 1;

/// Which generation each alias names, sorted by alias.
pub type Aliases = BTreeMap<AliasName, GenerationId>;

/// What `aliases.json` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AliasTable {
    /// What each alias names.
    pub now: Aliases,
    /// What each alias named before its last change.
    pub before: Aliases,
    /// The last position of the write log that is left out of a generation.
    pub dropped: BTreeMap<GenerationId, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AliasFile {
    format_version: u64,
    aliases: Aliases,
    #[serde(default, skip_serializing_if = "Aliases::is_empty")]
    previous: Aliases,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    dropped: BTreeMap<GenerationId, u64>,
    /// sha256 of the canonical JSON of the rest; files written before there were rollbacks have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

impl AliasFile {
    fn digest(&self) -> String {
        let mut value = serde_json::to_value(self).expect("names are strings");
        value
            .as_object_mut()
            .expect("a struct is an object")
            .remove("checksum");
        sha256_hex(canonical_json(&value).as_bytes())
    }
}

impl AliasTable {
    /// Reads the content of an alias file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, String> {
        let file: AliasFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match file.format_version {
            FORMAT_VERSION => {}
            found => return Err(format!("format version {found}, expected {FORMAT_VERSION}")),
        }
        if let Some(checksum) = &file.checksum
            && *checksum != file.digest()
        {
            return Err("does not match its own checksum".to_owned());
        }
        Ok(Self {
            now: file.aliases,
            before: file.previous,
            dropped: file.dropped,
        })
    }

    /// The content of an alias file, checksum included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = AliasFile {
            format_version: FORMAT_VERSION,
            aliases: self.now.clone(),
            previous: self.before.clone(),
            dropped: self.dropped.clone(),
            checksum: None,
        };
        file.checksum = Some(file.digest());
        let mut text = serde_json::to_string_pretty(&file).expect("names are strings");
        text.push('\n');
        text.into_bytes()
    }

    /// Makes `alias` name the generation `id`, and keeps in mind what it named.
    pub fn set(&mut self, alias: &AliasName, id: &GenerationId) {
        if let Some(before) = self.now.insert(alias.clone(), id.clone())
            && before != *id
        {
            self.before.insert(alias.clone(), before);
        }
    }
}

/// Reads the alias file; a collection without one has no aliases.
pub(crate) fn read(path: &Path) -> Result<AliasTable, CollectionError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(AliasTable::default()),
        Err(error) => return Err(CollectionError::read(path, error)),
    };
    AliasTable::from_slice(&bytes).map_err(|reason| CollectionError::Aliases {
        path: path.to_path_buf(),
        reason,
    })
}

pub(crate) fn write(path: &Path, table: &AliasTable) -> Result<(), CollectionError> {
    write_atomic(path, &table.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> AliasTable {
        let table = |id| {
            Aliases::from([(
                AliasName::parse("live").unwrap(),
                GenerationId::parse(id).unwrap(),
            )])
        };
        AliasTable {
            now: table("g2"),
            before: table("g1"),
            dropped: BTreeMap::from([(GenerationId::parse("g1").unwrap(), 7)]),
        }
    }

    #[test]
    fn aliases_survive_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases.json");
        assert_eq!(read(&path).unwrap(), AliasTable::default());
        write(&path, &example()).unwrap();
        assert_eq!(read(&path).unwrap(), example());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_without_checksum_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases.json");
        fs::write(&path, r#"{"format_version":1,"aliases":{"live":"g2"}}"#).unwrap();
        let found = read(&path).unwrap();
        assert_eq!((found.now, found.before), (example().now, Aliases::new()));
    }

    /// `g1` is one bit from `g3`: only the checksum tells.
    #[test]
    fn every_flipped_bit_is_an_error_or_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases.json");
        write(&path, &example()).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut n_harmless = 0;
        for bit in 0..8 * whole.len() {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            match read(&path) {
                Ok(table) => {
                    assert_eq!(table, example(), "bit {bit}");
                    n_harmless += 1; // white space became other white space
                }
                Err(error) => assert!(error.is_corrupt(), "bit {bit}: {error}"),
            }
        }
        assert!(n_harmless < whole.len(), "{n_harmless}");
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
                r#"{"format_version":1,"aliases":{"live":"g1"},"checksum":"00"}"#,
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
