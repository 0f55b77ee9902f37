use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{StoreError, Verify, header};

/// List of the files of `lexical/` with their checksums. tantivy has checksums of its own, but reads parts of a file
/// before it checks them, and panics on what it finds there.
const NAME: &str = "files.json";

/// Length and checksum of a file.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sum {
    bytes: u64,
    xxh3: u64,
}

impl Sum {
    fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            xxh3: xxh3_64(bytes),
        }
    }
}

/// Takes tantivy's lock files out of a folder, lists the others, and syncs everything.
pub(crate) fn seal(folder: &Path) -> io::Result<()> {
    let mut list = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "lock")
        {
            fs::remove_file(path)?;
        } else {
            let file = File::open(&path)?;
            file.sync_all()?;
            let name = path
                .file_name()
                .expect("an entry of a folder has a name")
                .to_string_lossy();
            list.insert(name.into_owned(), Sum::of(&header::map(&file)?));
        }
    }
    let mut file = File::create(folder.join(NAME))?;
    file.write_all(&serde_json::to_vec(&list)?)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

/// Checks the files of a folder against its list: that they are there, their lengths, and if asked their checksums.
pub(crate) fn check(folder: &Path, verify: Verify) -> Result<(), StoreError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        |source| StoreError::Read { path, source }
    };
    let list_path = folder.join(NAME);
    let list = fs::read(&list_path).map_err(read(&list_path))?;
    let list: BTreeMap<String, Sum> =
        serde_json::from_slice(&list).map_err(|_| StoreError::Malformed {
            path: list_path,
            part: "list of files".into(),
        })?;
    for (name, sum) in list {
        let path = folder.join(name);
        let map = File::open(&path)
            .and_then(|file| header::map(&file))
            .map_err(read(&path))?;
        let (expected, found) = (sum.bytes, map.len() as u64);
        if found != expected {
            return Err(StoreError::Length {
                path,
                expected,
                found,
            });
        }
        if verify == Verify::Checksums && Sum::of(&map) != sum {
            return Err(StoreError::Checksum {
                path,
                part: "content".into(),
            });
        }
    }
    Ok(())
}
