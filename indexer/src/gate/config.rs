//! What a candidate has to reach.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sample::DEFAULT_SAMPLE;

/// What is asked of a candidate, and what it has to reach. The default needs no judged queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateConfig {
    /// Queries, as JSON lines. Without them the titles of sampled passages are asked for, or their first words, and each is
    /// expected to find its passage.
    pub queries: Option<PathBuf>,
    /// Judgments of the queries. Where documents were split, they are of documents: of those of the `k` passages found.
    pub qrels: Option<PathBuf>,
    /// Queries that are asked at most.
    pub n_queries: usize,
    /// Hits that are looked at.
    pub k: usize,
    /// Decides which queries and rows are drawn.
    pub seed: u64,
    /// Rows that are made anew and compared with the stored ones.
    pub sample_rows: usize,
    /// Whether the candidate may have another fingerprint than what is live: another model, or other texts.
    pub fingerprint: FingerprintRule,
    /// What the measures have to be.
    pub require: Requirements,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            queries: None,
            qrels: None,
            n_queries: 200,
            k: 10,
            seed: 1,
            sample_rows: DEFAULT_SAMPLE,
            fingerprint: FingerprintRule::Same,
            require: Requirements::default(),
        }
    }
}

/// Which fingerprints a candidate may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FingerprintRule {
    /// That of what is live.
    #[default]
    Same,
    /// Any: the model is meant to change.
    Any,
}

/// What each measure has to be; one that is given takes the place of its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requirements {
    /// Part of the k nearest rows that the candidate's own search finds. Default: 0.9 or more.
    pub recall: Limit,
    /// nDCG@k of the judgments, or of the sampled passages. Default: at most 5 % less than live.
    pub ndcg: Limit,
    /// MRR@k, likewise. Default: at most 5 % less than live.
    pub mrr: Limit,
    /// Part of live's k hits, as far as the candidate has them at all, that are the candidate's, too. Default: 0.5 or more.
    pub overlap: Limit,
    /// Mean difference of the scores of hits that both have. Default: any.
    pub score_drift: Limit,
    /// 95th percentile of the time of one search, in milliseconds. Default: any.
    pub latency_p95_ms: Limit,
    /// Bytes of the generation. Default: any.
    pub bytes: Limit,
    /// Passages of the generation. Default: at most 20 % less than live.
    pub passages: Limit,
}

impl Default for Requirements {
    fn default() -> Self {
        let any = Limit::default();
        let min = |min| Limit {
            min: Some(min),
            ..any
        };
        let max_drop = |percent| Limit {
            max_drop: Some(Change::Percent(percent)),
            ..any
        };
        Self {
            recall: min(0.9),
            ndcg: max_drop(5.0),
            mrr: max_drop(5.0),
            overlap: min(0.5),
            score_drift: any,
            latency_p95_ms: any,
            bytes: any,
            passages: max_drop(20.0),
        }
    }
}

/// The limits of one measure. Those that compare with live hold of themselves where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// It must not be less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// It must not be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// It must not be less than live by more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<Change>,
    /// It must not be more than live by more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rise: Option<Change>,
}

/// How far a measure may move.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Change {
    /// By so much.
    Absolute(f64),
    /// By so many hundredths of what live has.
    Percent(f64),
}

/// A change as it is written: a number, or a text such as `5%`.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, or a part of live's value such as \"5%\""
)]
enum Written {
    Number(f64),
    Text(String),
}

impl TryFrom<Written> for Change {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let (text, change) = match written {
            Written::Number(number) => (number.to_string(), Self::Absolute(number)),
            Written::Text(text) => {
                let number = text
                    .strip_suffix('%')
                    .and_then(|number| number.trim().parse().ok());
                let change = Self::Percent(number.unwrap_or(f64::NAN));
                (text, change)
            }
        };
        let (Self::Absolute(number) | Self::Percent(number)) = change;
        match number >= 0.0 && number.is_finite() {
            true => Ok(change),
            false => Err(format!(
                "`{text}` is neither a number from 0 on nor one with `%`"
            )),
        }
    }
}

impl From<Change> for Written {
    fn from(change: Change) -> Self {
        match change {
            Change::Absolute(number) => Self::Number(number),
            Change::Percent(number) => Self::Text(format!("{number}%")),
        }
    }
}

impl Change {
    /// The change from a value.
    fn of(self, value: f64) -> f64 {
        match self {
            Self::Absolute(change) => change,
            Self::Percent(percent) => percent / 100.0 * value.abs(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(number) => write!(formatter, "{number}"),
            Self::Percent(number) => write!(formatter, "{number} %"),
        }
    }
}

impl Limit {
    /// What is wrong with a value, beside that of live where there is one.
    pub(crate) fn violation(&self, value: f64, live: Option<f64>) -> Option<String> {
        const SLACK: f64 = 1e-9; // what rounding may do to a limit
        let below = |least: f64| value < least - SLACK || value.is_nan();
        let above = |most: f64| value > most + SLACK || value.is_nan();
        if let Some(min) = self.min.filter(|&min| below(min)) {
            return Some(format!("less than {min}"));
        }
        if let Some(max) = self.max.filter(|&max| above(max)) {
            return Some(format!("more than {max}"));
        }
        let live = live?;
        if let Some(drop) = self.max_drop.filter(|drop| below(live - drop.of(live))) {
            return Some(format!("more than {drop} below live"));
        }
        if let Some(rise) = self.max_rise.filter(|rise| above(live + rise.of(live))) {
            return Some(format!("more than {rise} above live"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> Limit {
        serde_json::from_str(text).unwrap()
    }

    fn check(text: &str, value: f64, live: Option<f64>, expected: Option<&str>) {
        let found = limit(text).violation(value, live);
        assert_eq!(
            found.as_deref(),
            expected,
            "{text}: {value} beside {live:?}"
        );
    }

    #[test]
    fn limits_are_absolute_or_relative_to_live() {
        check(r#"{"min": 0.9}"#, 0.9, None, None);
        check(r#"{"min": 0.9}"#, 0.89, None, Some("less than 0.9"));
        check(r#"{"max": 2}"#, 2.5, Some(3.0), Some("more than 2"));
        check(r#"{"max_drop": "5%"}"#, 0.95, Some(1.0), None);
        check(
            r#"{"max_drop": "5%"}"#,
            0.94,
            Some(1.0),
            Some("more than 5 % below live"),
        );
        check(r#"{"max_drop": 0.1}"#, 0.94, Some(1.0), None);
        check(r#"{"max_drop": 0.1}"#, 0.1, None, None);
        check(
            r#"{"max_rise": "50%"}"#,
            16.0,
            Some(10.0),
            Some("more than 50 % above live"),
        );
        check(r#"{"max_rise": 0}"#, 10.0, Some(10.0), None);
        check(r#"{"min": 0.5}"#, f64::NAN, None, Some("less than 0.5"));
        check("{}", f64::NAN, None, None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            r#"{"max_drop": "5"}"#,
            r#"{"max_drop": "x%"}"#,
            r#"{"max_drop": -1}"#,
            r#"{"minimum": 1}"#,
        ] {
            assert!(serde_json::from_str::<Limit>(text).is_err(), "{text}");
        }
        let error = serde_json::from_str::<Limit>(r#"{"max_drop": true}"#).unwrap_err();
        assert!(error.to_string().contains("such as \"5%\""), "{error}");
        let again =
            serde_json::to_string(&limit(r#"{"max_drop": "5%", "max_rise": 0.5}"#)).unwrap();
        assert_eq!(
            limit(&again),
            limit(r#"{"max_drop": "5%", "max_rise": 0.5}"#)
        );
    }
}
