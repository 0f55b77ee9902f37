//! The forward passes of one step, held together or one after the other.

use std::ops::Range;

use candle_core::{Tensor, Var};
use encoder::Tokens;
use encoder::training::{First, TrainingError};
use serde::{Deserialize, Serialize};

use super::Step;

/// How a batch is cut into parts that fit into memory.
///
/// GradCache (Gao et al. 2021, arXiv 2101.06983): (1) every part goes through the encoder and leaves its vectors alone;
/// (2) the loss over all of them gives the gradient of each vector; (3) every part goes through the encoder again, with
/// the same dropout, and takes its vectors' gradients back to the weights. Memory for one part at a time, and the
/// gradient of the whole batch, for one more forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradCacheConfig {
    /// Queries of one part.
    pub queries: usize,
    /// Passages, or pairs of a cross-encoder, of one part.
    pub passages: usize,
    /// Most tokens of one part, where it has more than one text.
    pub max_tokens: Option<usize>,
}

impl Default for GradCacheConfig {
    /// 4 queries and 32 passages, as Tevatron and OpenMatch cut them.
    fn default() -> Self {
        Self {
            queries: 4,
            passages: 32,
            max_tokens: None,
        }
    }
}

/// Cuts texts into parts of up to `n_texts` texts and `max_tokens` tokens, at least one text each.
pub(super) fn cut(
    texts: &[Tokens],
    n_texts: usize,
    max_tokens: Option<usize>,
) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut n_tokens) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        let is_full =
            index - start >= n_texts || max_tokens.is_some_and(|most| n_tokens + text.len() > most);
        if index > start && is_full {
            parts.push(start..index);
            (start, n_tokens) = (index, 0);
        }
        n_tokens += text.len();
    }
    if start < texts.len() {
        parts.push(start..texts.len());
    }
    parts
}

/// The number of a pass among all of a run, for its dropout: no two passes share one, and a repeated one has its own. The
/// parts of a batch share one, and are told apart by where they begin.
///
/// `stream` tells towers, or R-Drop's two passes, apart.
pub(super) fn number(step: &Step, stream: u64) -> u64 {
    (step.index << 24) | (stream << 20)
}

/// The place behind these texts.
pub(super) fn behind(texts: &[Tokens]) -> First {
    First {
        text: texts.len() as u64,
        row: texts.iter().map(|text| text.len() as u64).sum(),
    }
}

/// Computes the loss over what all parts give and adds `weight` times its gradients to the parameters.
///
/// With `cached` by GradCache, else with all parts held at once.
pub(super) fn backward<P>(
    parts: &[P],
    cached: bool,
    weight: f64,
    forward: impl Fn(&P) -> Result<Tensor, TrainingError>,
    loss: impl FnOnce(&[Tensor]) -> Result<Tensor, TrainingError>,
) -> Result<f64, TrainingError> {
    if !cached {
        let outputs: Vec<Tensor> = parts.iter().map(forward).collect::<Result<_, _>>()?;
        let loss = loss(&outputs)?;
        let value = finite(&loss)?;
        (loss * weight)?.backward()?;
        return Ok(value);
    }
    let variables: Vec<Var> = parts
        .iter()
        .map(|part| Ok(Var::from_tensor(&forward(part)?.detach())?))
        .collect::<Result<_, TrainingError>>()?;
    let outputs: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let loss = loss(&outputs)?;
    let value = finite(&loss)?;
    let gradients = (loss * weight)?.backward()?;
    for (part, variable) in parts.iter().zip(&variables) {
        if let Some(gradient) = gradients.get(variable) {
            // Its slope along the outputs is the gradient that they have.
            (forward(part)? * gradient.detach())?
                .sum_all()?
                .backward()?;
        }
    }
    Ok(value)
}

/// The value of a loss, refused when it is NaN or infinite: nothing is added to gradients then.
pub(super) fn finite(loss: &Tensor) -> Result<f64, TrainingError> {
    let value = f64::from(loss.to_scalar::<f32>()?);
    if value.is_finite() {
        return Ok(value);
    }
    Err(TrainingError::Loss { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_cut(lengths: &[usize], n_texts: usize, max_tokens: Option<usize>, ends: &[usize]) {
        let text = |&length: &usize| Tokens {
            ids: vec![1; length],
            ..Tokens::default()
        };
        let texts: Vec<Tokens> = lengths.iter().map(text).collect();
        let parts = cut(&texts, n_texts, max_tokens);
        let starts = [0].into_iter().chain(ends.iter().copied());
        let expected: Vec<Range<usize>> =
            starts.zip(ends).map(|(start, &end)| start..end).collect();
        assert_eq!(parts, expected);
    }

    #[test]
    fn parts_keep_both_limits_where_a_text_does() {
        check_cut(&[], 2, None, &[]);
        check_cut(&[5, 5, 5], 2, None, &[2, 3]);
        check_cut(&[5, 5, 5], 9, Some(10), &[2, 3]);
        check_cut(&[50, 3, 3, 3], 2, Some(10), &[1, 3, 4]);
        check_cut(&[1, 1], 0, None, &[1, 2]);
    }

    #[test]
    fn passes_have_numbers_of_their_own() {
        let mut numbers = std::collections::HashSet::new();
        for index in [0, 1, 2, 1 << 30] {
            let step = Step {
                seed: 0,
                index,
                optimizer_step: index,
                weight: 1.0,
            };
            for stream in 0..16 {
                assert!(numbers.insert(number(&step, stream)));
            }
        }
    }
}
