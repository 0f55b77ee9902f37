//! Masks made of other masks.

/// Returns the complement of a mask at every position: what MASTER's decoder hides when its encoder hides the rest.
///
/// It hides special tokens too; [`super::Corruption`] leaves those as they are, so that encoder and decoder together hide
/// each ordinary token once.
pub fn complement(mask: &[bool]) -> Vec<bool> {
    mask.iter().map(|hidden| !hidden).collect()
}

/// Returns the mask of what either hides.
///
/// # Panics
/// When their lengths differ.
pub fn union(mask: &[bool], other: &[bool]) -> Vec<bool> {
    assert_eq!(mask.len(), other.len(), "masks of one list of tokens");
    mask.iter().zip(other).map(|(a, b)| a | b).collect()
}

/// Returns the ratio of a further whole-word mask whose [`union`] with one of ratio `encoder` hides about `decoder`:
/// `(p_dec − p_enc) / (1 − p_enc)`, SimLM's decoder mask, which holds the encoder's.
///
/// None when that is at most 1e-4: the decoder then reads what the encoder reads.
pub fn extra_ratio(encoder: f64, decoder: f64) -> Option<f64> {
    let extra = (decoder - encoder) / (1.0 - encoder);
    (extra > 1e-4).then_some(extra)
}

#[cfg(test)]
mod tests {
    use super::super::test_data::vocabulary;
    use super::super::{Skipped, Words, example_random};
    use super::*;

    #[test]
    fn a_mask_and_its_complement_share_nothing_and_miss_nothing() {
        let mask = [true, false, true];
        assert_eq!(complement(&mask), [false, true, false]);
        assert_eq!(union(&mask, &complement(&mask)), [true; 3]);
    }

    #[test]
    fn the_decoder_hides_half_and_all_that_the_encoder_hides() {
        let extra = extra_ratio(0.3, 0.5).expect("there is more to hide");
        assert!((extra - 2.0 / 7.0).abs() < 1e-12, "{extra}");
        assert_eq!(extra_ratio(0.3, 0.3), None);
        assert_eq!(extra_ratio(0.5, 0.3), None);
        let words = Words::group(&vocabulary("a"), &[5; 100], Skipped::Bounds);
        let mut n_hidden = 0;
        for example in 0..10_000 {
            let mut random = example_random(5, 0, example);
            let encoder = words.mask(0.3, &mut random);
            let decoder = union(&encoder, &words.mask(extra, &mut random));
            assert!(encoder.iter().zip(&decoder).all(|(e, d)| e <= d));
            n_hidden += decoder.iter().filter(|hidden| **hidden).count();
        }
        // 30 + 29 − 30·29/100 = 50.3 of 100 on average, and 2.05 is the hypergeometric deviation of one draw.
        let mean = f64::from(n_hidden as u32) / 10_000.0;
        assert!((mean - 50.3).abs() < 4.0 * 2.05 / 100.0, "{mean}");
    }
}
