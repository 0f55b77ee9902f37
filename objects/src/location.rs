//! Where objects are kept, as a user names it.

use std::path::{Path, PathBuf};

use object_store::path::Path as Key;

use crate::ObjectsError;

/// `s3://bucket/prefix`, or `file:///folder`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    pub(crate) kind: Kind,
    pub(crate) prefix: Key,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    S3 { bucket: String },
    Folder(PathBuf),
}

/// How object storage is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Variables of the standard AWS environment: credentials, region, endpoint.
    pub variables: Vec<(String, String)>,
    /// Certificate authorities in place of the usual ones, as a PEM file.
    pub authorities: Option<PathBuf>,
}

impl Location {
    /// Whether a text names object storage, and not a folder.
    #[must_use]
    pub fn is_url(text: &Path) -> bool {
        text.to_str().is_some_and(|text| text.contains("://"))
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// [`ObjectsError::Url`].
    pub fn parse(text: &str) -> Result<Self, ObjectsError> {
        let wrong = || ObjectsError::Url {
            text: text.to_owned(),
        };
        let trimmed = text.trim_end_matches('/');
        if let Some(folder) = trimmed.strip_prefix("file://") {
            return match Path::new(folder).is_absolute() {
                true => Ok(Self {
                    kind: Kind::Folder(folder.into()),
                    prefix: Key::default(),
                }),
                false => Err(wrong()),
            };
        }
        let place = trimmed.strip_prefix("s3://").ok_or_else(wrong)?;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if bucket.is_empty() || !bucket.bytes().all(plain) {
            return Err(wrong());
        }
        Ok(Self {
            kind: Kind::S3 {
                bucket: bucket.to_owned(),
            },
            prefix: Key::parse(prefix).map_err(|_| wrong())?,
        })
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::S3 { bucket } => write!(formatter, "s3://{bucket}")?,
            Kind::Folder(path) => write!(formatter, "file://{}", path.display())?,
        }
        match self.prefix.as_ref() {
            "" => Ok(()),
            prefix => write!(formatter, "/{prefix}"),
        }
    }
}

impl std::str::FromStr for Location {
    type Err = ObjectsError;

    fn from_str(text: &str) -> Result<Self, ObjectsError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_place_is_shown_as_it_was_named() {
        for (text, shown) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("file:///srv/objects", "file:///srv/objects"),
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "bucket",
            "s3://",
            "s3:///a",
            "s3://b/a//c",
            "s3://b c",
            "gs://b",
            "file://a",
        ] {
            let refused = Location::parse(text).unwrap_err();
            assert!(refused.is_usage(), "{text}: {refused}");
        }
    }
}
