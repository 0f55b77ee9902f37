use serde::{Deserialize, Serialize};

/// How the next token is drawn of a model's scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Tokens of a text at most.
    pub max_tokens: usize,
    /// Tokens that are drawn from: those of the best scores, ties to the smaller id. 1 takes the best, 0 stands for all.
    pub top_k: usize,
    /// What scores are divided by: below 1 the best are drawn more often.
    pub temperature: f64,
}

impl Sampling {
    /// Draws a token with the chances `softmax(scores / temperature)` of the best; `draw` gives a number from 0 to 1, which
    /// is asked for where there is a choice.
    ///
    /// # Errors
    /// A score that is NaN or infinite.
    pub(super) fn draw(&self, scores: &[f32], draw: &mut impl FnMut() -> f64) -> Result<u32, f32> {
        if let Some(&value) = scores.iter().find(|score| !score.is_finite()) {
            return Err(value);
        }
        let mut best: Vec<(f32, u32)> = scores.iter().copied().zip(0..).collect();
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if (1..best.len()).contains(&self.top_k) {
            best.select_nth_unstable_by(self.top_k - 1, order);
            best.truncate(self.top_k);
        }
        best.sort_unstable_by(order);
        let (greatest, first) = best[0];
        if best.len() == 1 {
            return Ok(first);
        }
        let chance =
            |&(score, _): &(f32, u32)| (f64::from(score - greatest) / self.temperature).exp();
        let total: f64 = best.iter().map(chance).sum();
        let mut left = draw() * total;
        for candidate in &best {
            left -= chance(candidate);
            if left < 0.0 {
                return Ok(candidate.1);
            }
        }
        Ok(first) // the sum in one order and the other may differ in the last bit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(top_k: usize, temperature: f64, scores: &[f32], draw: f64) -> u32 {
        let sampling = Sampling {
            max_tokens: 1,
            top_k,
            temperature,
        };
        let token = sampling.draw(scores, &mut || draw);
        token.expect("the scores are finite")
    }

    #[test]
    fn chances_are_those_of_the_best() {
        let scores = [0.0, 3f32.ln(), 2f32.ln(), 3f32.ln(), -1.0];
        for (value, token) in [(0.0, 1), (0.49, 1), (0.51, 3), (0.999_999, 3)] {
            assert_eq!(draw(2, 1.0, &scores, value), token, "{value}");
        }
        // 3 : 3 : 2 of eight, and 9 : 9 : 4 with half the temperature.
        for (value, token) in [(2.9, 1), (3.1, 3), (5.9, 3), (6.1, 2)] {
            assert_eq!(draw(3, 1.0, &scores, value / 8.0), token, "{value}");
        }
        for (value, token) in [(8.9, 1), (9.1, 3), (17.9, 3), (18.1, 2)] {
            assert_eq!(draw(3, 0.5, &scores, value / 22.0), token, "{value}");
        }
        // All of them: 9 and 1/e.
        for top_k in [0, 5, 9] {
            assert_eq!(draw(top_k, 1.0, &scores, 0.961), 4);
            assert_eq!(draw(top_k, 1.0, &scores, 0.959), 0);
        }
        assert_eq!(draw(1, 1.0, &scores, 0.99), 1);
    }

    #[test]
    fn scores_that_are_no_numbers_are_told() {
        let sampling = Sampling {
            max_tokens: 1,
            top_k: 1,
            temperature: 1.0,
        };
        let bad = sampling.draw(&[0.0, f32::NAN], &mut || 0.0);
        assert!(bad.is_err_and(f32::is_nan));
    }
}
