//! The default reranker, which travels inside the binary.

use std::fs;
use std::path::Path;

use crate::PullError;

/// The reranker that trawl brings along.
pub const DEFAULT_RERANKER: &str = "trawl-reranker-small";

/// A file of `models/` with its name.
macro_rules! shipped {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../models/trawl-reranker-small/", $name)),
        )
    };
}

/// What `models/` has of it.
const FILES: [(&str, &[u8]); 5] = [
    shipped!("README.md"),
    shipped!("config.json"),
    shipped!("model.safetensors"),
    shipped!("tokenizer.json"),
    shipped!("tokenizer_config.json"),
];

/// Whether `folder` holds the files of this release, byte for byte.
pub fn is_current(folder: &Path) -> bool {
    let same = |(name, bytes): &(&str, &[u8])| {
        let path = folder.join(name);
        // The length first: an older model need not be read.
        fs::metadata(&path).is_ok_and(|file| file.len() == bytes.len() as u64)
            && fs::read(&path).is_ok_and(|found| found == *bytes)
    };
    FILES.iter().all(same)
}

/// Writes the files into a folder that is there.
pub fn unpack(into: &Path) -> Result<String, PullError> {
    for (name, bytes) in FILES {
        let path = into.join(name);
        fs::write(&path, bytes).map_err(|source| PullError::write(&path, source))?;
    }
    Ok("this binary".to_owned())
}
