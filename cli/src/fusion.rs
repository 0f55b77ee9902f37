//! How a hybrid search is fused, as flags and files name it.

use retriever::{FusionMethod, Weights};

/// How two rankings become one, as `--fusion` names it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FusionName {
    Rrf,
    Weighted,
}

impl FusionName {
    /// The method; `k` is the constant of `rrf`.
    pub fn method(self, k: u32) -> FusionMethod {
        match self {
            Self::Rrf => FusionMethod::ReciprocalRank { k },
            Self::Weighted => FusionMethod::Weighted,
        }
    }
}

/// Reads `DENSE,BM25`.
pub fn weights(text: &str) -> Result<Weights, String> {
    let expected = "expected two numbers from 0 on, one of them above, such as 0.7,0.3";
    let numbers: Result<Vec<f32>, _> = text
        .split(',')
        .map(|number| number.trim().parse())
        .collect();
    match numbers.as_deref() {
        Ok(&[dense, bm25]) if (Weights { dense, bm25 }).are_valid() => Ok(Weights { dense, bm25 }),
        _ => Err(expected.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_two_numbers() {
        let read = |dense, bm25| Ok(Weights { dense, bm25 });
        assert_eq!(weights("0.7,0.3"), read(0.7, 0.3));
        assert_eq!(weights("1, 0"), read(1.0, 0.0));
        for text in ["", "1", "1,2,3", "a,1", "0,0", "-1,2", "NaN,1", "inf,1"] {
            assert!(weights(text).is_err(), "{text}");
        }
    }
}
