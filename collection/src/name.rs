//! Names that become parts of paths: checked once, when they are made.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::NameError;

const MAX_LENGTH: usize = 100;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks that `text` is a name.
            ///
            /// # Errors
            /// [`NameError`] for anything but 1 to 100 of `A-Z a-z 0-9 . _ -`, or a leading `.` or `-`.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.to_owned()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                Path::new(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a generation, e.g. `20261120T195500Z-3f9a1c`.
    GenerationId
);
name!(
    /// The name under which readers find a generation, e.g. `live`.
    AliasName
);

impl GenerationId {
    /// Makes an id from the UTC time and 24 random bits; ids of later seconds sort later.
    pub(crate) fn new(now: OffsetDateTime) -> Self {
        let stamp = now
            .format(format_description!(
                "[year][month][day]T[hour][minute][second]Z"
            ))
            .expect("every component of a UTC time can be formatted");
        let random = RandomState::new().build_hasher().finish() & 0xff_ffff;
        Self(format!("{stamp}-{random:06x}"))
    }
}

fn check(text: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=MAX_LENGTH).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with(['.', '-'])
    {
        return Ok(());
    }
    Err(NameError {
        text: text.chars().take(MAX_LENGTH).collect(),
        max_length: MAX_LENGTH,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_plain_words() {
        for good in [
            "live",
            "20261120T195500Z-3f9a1c",
            "a",
            "v1.2_b-c",
            &"x".repeat(MAX_LENGTH),
        ] {
            assert!(AliasName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "-flag",
            "a/b",
            "../x",
            "a\\b",
            "a b",
            "é",
            "a\0",
            &"x".repeat(MAX_LENGTH + 1),
        ] {
            assert!(AliasName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn generation_ids_are_names_that_sort_by_time() {
        let early = GenerationId::new(OffsetDateTime::UNIX_EPOCH);
        let late = GenerationId::new(OffsetDateTime::UNIX_EPOCH + time::Duration::DAY);
        assert!(early < late);
        assert!(early.as_str().starts_with("19700101T000000Z-"), "{early}");
        assert_eq!(early.as_str().len(), 23);
        assert_eq!(GenerationId::parse(early.as_str()), Ok(early));
    }

    proptest! {
        #[test]
        fn a_name_is_one_component_of_a_path(text in ".*") {
            if let Ok(name) = AliasName::parse(&text) {
                let joined = Path::new("root").join(&name);
                prop_assert_eq!(joined.components().count(), 2);
                prop_assert!(joined.starts_with("root"));
                prop_assert_eq!(joined.file_name(), Some(name.as_str().as_ref()));
            }
        }
    }
}
