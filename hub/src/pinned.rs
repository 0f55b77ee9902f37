//! The default model's files, pinned.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::PullError;

pub const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";
#[cfg(feature = "hub")]
pub const DEFAULT_MODEL_ON_HUB: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// Every file of the default model that is read, with its sha256. The hub and the Python package carry the same.
pub const DEFAULT_MODEL_FILES: [(&str, &str); 9] = [
    (
        "1_Pooling/config.json",
        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    ),
    (
        "config.json",
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
    (
        "config_sentence_transformers.json",
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    ),
    (
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    (
        "modules.json",
        "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    ),
    (
        "sentence_bert_config.json",
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    ),
    (
        "special_tokens_map.json",
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    ),
    (
        "tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    (
        "tokenizer_config.json",
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
];

/// Compares every file of the default model in `folder` with its pin.
pub fn check_default_model(folder: &Path, from: &str) -> Result<(), PullError> {
    for (name, expected) in DEFAULT_MODEL_FILES {
        check_file(&folder.join(name), name, expected, from)?;
    }
    Ok(())
}

/// Compares a file with its sha256.
pub fn check_file(path: &Path, name: &str, expected: &str, from: &str) -> Result<(), PullError> {
    let missing = || PullError::Missing {
        file: name.to_owned(),
        from: from.to_owned(),
    };
    let found = sha256(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing(),
        _ => PullError::write(path, error),
    })?;
    if found == expected {
        return Ok(());
    }
    Err(PullError::Checksum {
        file: name.to_owned(),
        from: from.to_owned(),
        expected: expected.to_owned(),
        found,
    })
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
