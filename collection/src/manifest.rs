//! `manifest.json`: what a generation contains and how it was made.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::sha256_hex;
use crate::{GenerationId, ManifestError};

/// The format version that this program writes and reads.
pub const FORMAT_VERSION: u64 = 1;

/// Length of the longest manifest that is read.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// What a generation contains and how it was made.
///
/// [`crate::Writer::promote`] fills `format_version`, `generation`, `created`, `spec_digest`, `files` and `checksum`; a builder leaves
/// them at their defaults and states the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout and of this file.
    pub format_version: u64,
    /// sha256 of this file with this value emptied.
    pub checksum: String,
    /// The folder this manifest belongs to.
    pub generation: GenerationId,
    /// When the build finished, RFC 3339 UTC.
    pub created: String,
    /// sha256 of `spec.json`: everything that decided the content.
    pub spec_digest: String,
    /// Which vector space the rows live in, in full.
    pub fingerprint: Value,
    /// Digest of `fingerprint`.
    pub fingerprint_digest: String,
    /// Digest of the corpus that was read.
    pub corpus_digest: String,
    /// sha256 over vectors, ids and stored records in ordinal order.
    pub content_digest: String,
    /// How much was read and written.
    pub counts: Counts,
    /// Values in a row.
    pub width: usize,
    /// How rows are compared: `inner_product`, `cosine` or `l2`.
    pub metric: String,
    /// The shards in ordinal order.
    pub shards: Vec<Shard>,
    /// Whether the encoder gave every text the same vector whatever it was batched with.
    pub batch_invariant: bool,
    /// How texts were made.
    pub templates: Templates,
    /// Metadata fields and their types.
    pub schema: Value,
    /// The resolved configuration of the build.
    pub build: Value,
    /// Last position of the write log that the generation contains.
    pub log_position: u64,
    /// The report of a gate that was asked before the manifest was written; that of `publish` is beside the generations
    /// ([`crate::Collection::gate_report`]), because a manifest does not change.
    pub gate: Option<Value>,
    /// What was taken over from an earlier generation, if there was one to take from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<Reused>,
    /// Every file of the generation but this one, sorted by path.
    pub files: Vec<FileEntry>,
}

/// How much a build read and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Passages indexed.
    pub passages: u64,
    /// Documents that were split into the passages; 0 when passages are what the corpus held.
    #[serde(default)]
    pub documents: u64,
    /// Lines of the corpus that were skipped as bad.
    pub bad_lines: u64,
    /// Passages longer than the model reads.
    pub truncated: u64,
    /// Template fields that a passage did not have.
    pub missing_fields: u64,
    /// Tokens encoded.
    pub tokens: u64,
}

/// Vectors that were not encoded again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reused {
    /// The generation that they were taken from; it may be gone since.
    pub generation: GenerationId,
    /// Passages whose vectors were taken.
    pub passages: u64,
}

/// One contiguous range of ordinals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The vectors, relative to the generation.
    pub path: String,
    /// Ordinal of the first row.
    pub first_ordinal: u32,
    /// Number of rows.
    pub n_rows: u32,
    /// The encoder's arithmetic: `f32`, `fixed16`, `bf16x3`, `bf16` or `int8`.
    pub arithmetic: String,
    /// The graph over the vectors, relative to the generation, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
}

/// How texts were made from records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Templates {
    /// Template of a passage's text.
    pub passage: String,
    /// Template of a query's text.
    pub query: String,
}

/// A file of the generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the generation, parts separated by `/`.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// sha256 as hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Reads and checks a manifest: size, version, checksum, types, paths and shard ranges, in this order.
    ///
    /// # Errors
    /// [`ManifestError`] names the first check that failed.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let file = File::open(path).map_err(ManifestError::Io)?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(ManifestError::Io)?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge {
                bytes: bytes.len() as u64,
                max_bytes: MAX_MANIFEST_BYTES,
            });
        }
        Self::from_slice(&bytes)
    }

    /// Reads and checks the content of a manifest, as [`Self::read`] does.
    ///
    /// # Errors
    /// [`ManifestError`] names the first check that failed.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Header {
            format_version: u64,
            checksum: String,
        }
        let header: Header = serde_json::from_slice(bytes)?;
        if header.format_version != FORMAT_VERSION {
            return Err(ManifestError::Version {
                found: header.format_version,
                supported: FORMAT_VERSION,
            });
        }
        let text = str::from_utf8(bytes).map_err(|_| ManifestError::Checksum)?;
        if header.checksum.is_empty()
            || sha256_hex(text.replacen(&header.checksum, "", 1).as_bytes()) != header.checksum
        {
            return Err(ManifestError::Checksum);
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes of the file, checksum included.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let text = |checksum: String| {
            let manifest = Self {
                checksum,
                ..self.clone()
            };
            serde_json::to_string_pretty(&manifest).expect("a manifest has string keys only") + "\n"
        };
        text(sha256_hex(text(String::new()).as_bytes())).into_bytes()
    }

    fn check(&self) -> Result<(), ManifestError> {
        let paths = self
            .files
            .iter()
            .map(|file| &file.path)
            .chain(self.shards.iter().map(|shard| &shard.path))
            .chain(self.shards.iter().filter_map(|shard| shard.graph.as_ref()));
        if let Some(path) = paths.into_iter().find(|path| !is_inside(path)) {
            return Err(ManifestError::Path { path: path.clone() });
        }
        let mut next = 0;
        for (i, shard) in self.shards.iter().enumerate() {
            if u64::from(shard.first_ordinal) != next {
                return Err(ManifestError::Shards { shard: i });
            }
            next += u64::from(shard.n_rows);
        }
        if next != self.counts.passages {
            return Err(ManifestError::Shards {
                shard: self.shards.len(),
            });
        }
        Ok(())
    }
}

/// Whether `path` is relative, goes through plain names only, and is written in the one way it can be.
pub fn is_inside(path: &str) -> bool {
    let plain = |part: &str| {
        (1..=255).contains(&part.len())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && matches!(
                Path::new(part).components().next(),
                Some(Component::Normal(_))
            )
    };
    path.len() <= 1024 && path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn example() -> Manifest {
        Manifest {
            format_version: FORMAT_VERSION,
            generation: GenerationId::parse("g1").unwrap(),
            counts: Counts {
                passages: 3,
                ..Counts::default()
            },
            width: 2,
            metric: "cosine".to_owned(),
            shards: vec![shard(0, 2), shard(2, 1)],
            build: json!({"threads": 2, "rate": 0.1}),
            files: vec![file("ids"), file("shards/000/vectors.trawl")],
            ..Manifest::default()
        }
    }

    fn shard(first_ordinal: u32, n_rows: u32) -> Shard {
        Shard {
            path: "shards/000/vectors.trawl".to_owned(),
            first_ordinal,
            n_rows,
            arithmetic: "f32".to_owned(),
            graph: None,
        }
    }

    fn file(path: &str) -> FileEntry {
        FileEntry {
            path: path.to_owned(),
            bytes: 3,
            sha256: "00".to_owned(),
        }
    }

    /// Rewrites one field and makes the checksum right again, as a liar would.
    fn forged(pointer: &str, value: Value) -> Result<Manifest, ManifestError> {
        let mut manifest = serde_json::to_value(example()).unwrap();
        *manifest.pointer_mut(pointer).unwrap() = value;
        manifest["checksum"] = "".into();
        let checksum = sha256_hex(serde_json::to_string(&manifest).unwrap().as_bytes());
        manifest["checksum"] = checksum.into();
        Manifest::from_slice(serde_json::to_string(&manifest).unwrap().as_bytes())
    }

    #[test]
    fn what_is_written_is_read() {
        let read = Manifest::from_slice(&example().to_bytes()).unwrap();
        assert_eq!(
            Manifest {
                checksum: String::new(),
                ..read
            },
            example()
        );
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error() {
        let bytes = example().to_bytes();
        for n in 0..bytes.len() - 1 {
            assert!(
                Manifest::from_slice(&bytes[..n]).is_err(),
                "first {n} bytes"
            );
        }
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[i] ^= 1;
            assert!(Manifest::from_slice(&flipped).is_err(), "byte {i}");
        }
    }

    #[test]
    fn another_version_is_named_before_anything_else() {
        let error =
            Manifest::from_slice(br#"{"format_version":2,"checksum":"","news":true}"#).unwrap_err();
        assert!(
            matches!(
                error,
                ManifestError::Version {
                    found: 2,
                    supported: 1
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn wrong_types_are_errors() {
        for (pointer, value) in [
            ("/width", json!(-1)),
            ("/width", json!("2")),
            ("/shards", json!({})),
            ("/shards/0/first_ordinal", json!(1u64 << 32)),
            ("/counts", json!(null)),
            ("/generation", json!("../g")),
            ("/files/0/bytes", json!(1.5)),
        ] {
            let error = forged(pointer, value).unwrap_err();
            assert!(
                matches!(error, ManifestError::Json(_)),
                "{pointer}: {error}"
            );
        }
    }

    #[test]
    fn paths_stay_inside_the_generation() {
        for path in [
            "",
            "/etc/passwd",
            "..",
            "../ids",
            "shards/../../ids",
            "./ids",
            "a//b",
            "a/",
            "a\\b",
            "a\0",
            "é",
            &"a/".repeat(600),
        ] {
            for pointer in ["/files/0/path", "/shards/1/path"] {
                let error = forged(pointer, json!(path)).unwrap_err();
                assert!(
                    matches!(error, ManifestError::Path { .. }),
                    "{path:?}: {error}"
                );
            }
        }
        assert!(forged("/files/0/path", json!("lexical/.managed.json")).is_ok());
    }

    #[test]
    fn shards_cover_the_ordinals_without_gap() {
        for (pointer, value) in [
            ("/shards/1/first_ordinal", 1),
            ("/shards/0/n_rows", 3),
            ("/shards/1/n_rows", 9),
            ("/counts/passages", 4),
        ] {
            let error = forged(pointer, json!(value)).unwrap_err();
            assert!(
                matches!(error, ManifestError::Shards { .. }),
                "{pointer}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Manifest::from_slice(&bytes).is_err());
        }

        #[test]
        fn an_accepted_path_stays_inside(path in "[a./\\\\]{0,12}") {
            if is_inside(&path) {
                prop_assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
