use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row after which a proxy is left alone.
const FAILURES: u32 = 5;
/// For how long.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps calls from a proxy that does not answer.
#[derive(Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    n_failed: u32,
    /// When the next call may be made.
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether a call may be made. After a pause one may, and no other until it is known how that one ends or another pause is over.
    pub fn lets(&self, now: Instant) -> bool {
        let mut state = self.state();
        match state.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + PAUSE);
                true
            }
            None => true,
        }
    }

    /// Whether no call may be made.
    pub fn is_open(&self, now: Instant) -> bool {
        self.state().open_until.is_some_and(|until| now < until)
    }

    pub fn succeeded(&self) {
        *self.state() = State::default();
    }

    pub fn failed(&self, now: Instant) {
        let mut state = self.state();
        state.n_failed += 1;
        if state.n_failed >= FAILURES {
            state.open_until = Some(now + PAUSE);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_failed_often_is_asked_once_a_pause() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES {
            breaker.failed(start);
            assert!(breaker.lets(start));
        }
        breaker.failed(start);
        assert!(breaker.is_open(start) && !breaker.lets(start));
        assert!(!breaker.lets(start + PAUSE / 2));
        assert!(!breaker.is_open(start + PAUSE) && breaker.lets(start + PAUSE));
        assert!(!breaker.lets(start + PAUSE), "one call at a time");
        breaker.failed(start + PAUSE);
        assert!(!breaker.lets(start + PAUSE * 3 / 2));
        assert!(breaker.lets(start + PAUSE * 2));
        breaker.succeeded();
        assert!(breaker.lets(start));
        breaker.failed(start);
        assert!(breaker.lets(start), "failures are counted in a row");
    }
}
