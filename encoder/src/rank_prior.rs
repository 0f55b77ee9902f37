use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::LoadError;

/// What the order of the first stage adds to the score of a cross-encoder: `weight / (offset + rank)`, ranks from 1.
///
/// A small reranker knows less of rare words than BM25 does, and less of paraphrases than many bi-encoders, so that the
/// two orders together are better than its own: the interpolation of Lin, Nogueira & Yates 2021 (arXiv 2010.06467)
/// with the reciprocal rank in place of the first stage's score, which is of another scale for each kind
/// of first stage. It stands in `config.json` as `"trawl": {"rank_prior": {"weight": 4, "offset": 2}}`; other libraries
/// see the scores alone. Without it nothing is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankPrior {
    /// Of the reciprocal rank, beside a score of weight 1.
    pub weight: f32,
    /// The larger, the less the first places are apart.
    pub offset: f32,
}

impl RankPrior {
    /// What is added at a rank, from 1.
    pub fn at(self, rank: usize) -> f32 {
        self.weight / (self.offset + rank as f32)
    }

    /// Says what makes no sense about the numbers.
    pub fn flaw(self) -> Option<&'static str> {
        let is_at_least_0 = |x: f32| x.is_finite() && x >= 0.0;
        let is_fine = is_at_least_0(self.weight) && is_at_least_0(self.offset);
        (!is_fine).then_some("weight and offset of rank_prior are finite and at least 0")
    }

    /// That of a `config.json`; `has_raw_scores` where no activation follows the logits.
    pub(crate) fn read(
        path: &Path,
        config: &serde_json::Map<String, Value>,
        has_raw_scores: bool,
    ) -> Result<Self, LoadError> {
        let refuse = |reason: String| LoadError::Config {
            path: path.to_path_buf(),
            reason,
        };
        let Some(prior) = config.get("trawl").and_then(|own| own.get("rank_prior")) else {
            return Ok(Self::default());
        };
        let prior: Self = serde_json::from_value(prior.clone())
            .map_err(|error| refuse(format!("trawl.rank_prior: {error}")))?;
        match prior.flaw() {
            Some(flaw) => Err(refuse(format!("trawl.rank_prior: {flaw}"))),
            None if !has_raw_scores => Err(refuse(
                "trawl.rank_prior stands beside an activation, and it is added to logits".into(),
            )),
            None => Ok(prior),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: Value, has_raw_scores: bool) -> Result<RankPrior, String> {
        let config = config.as_object().unwrap();
        let read = RankPrior::read(Path::new("config.json"), config, has_raw_scores);
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_read_checked_and_absent_by_default() {
        assert_eq!(read(json!({}), false).unwrap().at(1), 0.0);
        let config = json!({"trawl": {"rank_prior": {"weight": 4, "offset": 2}}});
        let prior = read(config.clone(), true).unwrap();
        assert_eq!(
            (prior.at(1), prior.at(2), prior.at(6)),
            (4.0 / 3.0, 1.0, 0.5)
        );
        assert!(read(config, false).unwrap_err().contains("activation"));
        for bad in [
            json!({"weight": -1, "offset": 2}),
            json!({"weight": 1}),
            json!({"weight": 1, "offset": 0, "k": 1}),
        ] {
            let error = read(json!({"trawl": {"rank_prior": bad}}), true).unwrap_err();
            assert!(
                error.contains("config.json") && error.contains("rank_prior"),
                "{error}"
            );
        }
    }
}
