use std::time::{Duration, Instant};

/// The moment after which an answer is of no use to the caller; passed through every step of a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline.
    pub const NONE: Self = Self(None);

    /// At the given moment.
    #[must_use]
    pub fn at(moment: Instant) -> Self {
        Self(Some(moment))
    }

    /// After the given time from now; none when the clock cannot express it.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now().checked_add(duration))
    }

    /// The moment itself.
    #[must_use]
    pub fn moment(&self) -> Option<Instant> {
        self.0
    }

    /// Whether the moment has passed.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.0.is_some_and(|moment| moment <= Instant::now())
    }

    /// The earlier of the two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }
}
