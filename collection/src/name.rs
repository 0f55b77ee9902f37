//! Names that become parts of paths: checked once, when they are made.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

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

/// How an id tells the second in which its generation was made.
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// An id tells time in ticks of 2⁻²⁴ s.
const TICK_BITS: u32 = 24;

impl GenerationId {
    /// Makes an id from the UTC time: the second and, as hexadecimal digits, the ticks since it began.
    ///
    /// It sorts after every id of `existing` that was made so, even when the clock has been set back.
    pub(crate) fn new(now: OffsetDateTime, existing: &[Self]) -> Self {
        let fraction = (i64::from(now.nanosecond()) << TICK_BITS) / 1_000_000_000;
        let now = (now.unix_timestamp() << TICK_BITS) + fraction;
        let next = existing.iter().filter_map(Self::ticks).max();
        next.and_then(|last| Self::from_ticks(now.max(last + 1)))
            .or_else(|| Self::from_ticks(now))
            .expect("the present has a year of four digits")
    }

    /// `None` after the year 9999.
    fn from_ticks(ticks: i64) -> Option<Self> {
        let second = OffsetDateTime::from_unix_timestamp(ticks >> TICK_BITS).ok()?;
        let fraction = ticks & ((1 << TICK_BITS) - 1);
        Some(Self(format!(
            "{}-{fraction:06x}",
            second.format(STAMP).ok()?
        )))
    }

    /// `None` of a name that was given otherwise.
    fn ticks(&self) -> Option<i64> {
        let (stamp, fraction) = self.0.split_once('-')?;
        let second = PrimitiveDateTime::parse(stamp, STAMP).ok()?.assume_utc();
        let fraction = i64::from_str_radix(fraction, 16).ok()?;
        let ticks = (second.unix_timestamp() << TICK_BITS).checked_add(fraction)?;
        (Self::from_ticks(ticks).as_ref() == Some(self)).then_some(ticks)
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
        let early = GenerationId::new(OffsetDateTime::UNIX_EPOCH, &[]);
        let late = GenerationId::new(OffsetDateTime::UNIX_EPOCH + time::Duration::DAY, &[]);
        assert!(early < late);
        assert!(early.as_str().starts_with("19700101T000000Z-"), "{early}");
        assert_eq!(early.as_str().len(), 23);
        assert_eq!(GenerationId::parse(early.as_str()), Ok(early));
        let half = OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(500);
        let half = GenerationId::new(half, &[]);
        assert_eq!(half.as_str(), "19700101T000000Z-800000");
    }

    #[test]
    fn a_new_generation_id_sorts_after_the_existing_ones() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for (existing, expected) in [
            ("19691231T235959Z-ffffff", "19700101T000000Z-000000"),
            ("19700101T000000Z-000000", "19700101T000000Z-000001"),
            ("19700101T000000Z-ffffff", "19700101T000001Z-000000"),
            ("20261120T195500Z-3f9a1c", "20261120T195500Z-3f9a1d"),
            ("99991231T235959Z-ffffff", "19700101T000000Z-000000"),
            ("20261120T195500Z-3F9A1C", "19700101T000000Z-000000"),
            ("mine", "19700101T000000Z-000000"),
        ] {
            let existing = GenerationId::parse(existing).unwrap();
            let id = GenerationId::new(now, &[existing]);
            assert_eq!(id.as_str(), expected);
        }
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
