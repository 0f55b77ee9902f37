use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{LossError, Result, normalize};

/// One of the widths at which vectors are trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Width {
    /// Columns that are kept, from the first.
    pub width: usize,
    /// w: what the loss at this width counts.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// Sum of a loss over truncated vectors, so that their first columns can be used alone.
///
/// `L = Σ_d w_d ℓ(q₁…q_d, p₁…p_d)` with the truncated vectors brought to length 1 again,
/// Kusupati et al. 2022 (arXiv 2205.13147), eq. 1.
///
/// `queries` is (B, H) and `passages` (B·N, H), or whatever else `loss` takes.
///
/// Deviation: the paper classifies with one matrix for each width; here as in sentence-transformers ℓ is a loss on the
/// vectors. FlagEmbedding takes the mean: weights of 1 over the number of widths.
///
/// # Errors
/// [`LossError::Setting`] without widths, or for one outside 1…H; those of `loss`.
pub fn matryoshka(
    queries: &Tensor,
    passages: &Tensor,
    widths: &[Width],
    mut loss: impl FnMut(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let whole = queries.dims2()?.1;
    let mut sum: Option<Tensor> = None;
    for &Width { width, weight } in widths {
        if width == 0 || width > whole {
            return Err(LossError::Setting {
                name: "matryoshka width",
                value: width as f64,
                rule: "it is at least 1 and at most that of the vectors",
            });
        }
        let truncate = |x: &Tensor| normalize(&x.narrow(1, 0, width)?);
        let term = (loss(&truncate(queries)?, &truncate(passages)?)? * weight)?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.ok_or(LossError::Setting {
        name: "number of matryoshka widths",
        value: 0.0,
        rule: "it is at least 1",
    })
}
