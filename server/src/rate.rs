use std::str::FromStr;
use std::time::{Duration, Instant};

/// Requests that a key may make: so many at once, and as many again in the time named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests.
    pub requests: u32,
    /// In which they come back.
    pub period: Duration,
}

impl FromStr for Rate {
    type Err = String;

    /// Reads `200/s`, `60/m`, `1000/h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(requests, period)| {
            let requests = requests.trim().parse().ok().filter(|&n| n > 0)?;
            let seconds = match period.trim() {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            let period = Duration::from_secs(seconds);
            Some(Self { requests, period })
        });
        parsed.ok_or_else(|| format!("`{text}` is no rate such as `200/s`, `60/m` or `1000/h`"))
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: Option<Rate>, now: Instant) -> Self {
        Self {
            tokens: rate.map_or(0.0, |rate| f64::from(rate.requests)),
            filled: now,
        }
    }

    /// Takes a token, or says when there will be one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let most = f64::from(rate.requests);
        let per_second = most / rate.period.as_secs_f64();
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * per_second).min(most);
        self.filled = self.filled.max(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    #[test]
    fn rates_are_read() {
        assert_eq!(rate("200/s").requests, 200);
        assert_eq!(rate("60/m").period, Duration::from_secs(60));
        for bad in ["", "200", "0/s", "-1/s", "5/d", "a/s", "1/s/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (rate, start) = (rate("10/s"), Instant::now());
        let mut bucket = Bucket::full(Some(rate), start);
        let mut taken = 0;
        for millis in 0..3000 {
            let now = start + Duration::from_millis(millis);
            match bucket.take(rate, now) {
                Ok(()) => taken += 1,
                Err(wait) => {
                    assert!(wait <= Duration::from_millis(100), "{wait:?}");
                    let mut later = bucket;
                    let enough = wait + Duration::from_micros(1);
                    assert!(later.take(rate, now + enough).is_ok());
                }
            }
        }
        assert_eq!(taken, 10 + 29);
        // A clock that stands still, or goes back, gives nothing.
        assert!(bucket.take(rate, start).is_err());
    }
}
