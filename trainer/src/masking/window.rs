use rand::{Rng, RngExt};

use super::Vocabulary;

/// Returns a window of at most `max_tokens` ids: all of them, or a part that begins anywhere with equal chance.
pub fn crop<'a>(ids: &'a [u32], max_tokens: usize, random: &mut impl Rng) -> &'a [u32] {
    let Some(n_dropped) = ids.len().checked_sub(max_tokens) else {
        return ids;
    };
    let left = random.random_range(0..=n_dropped);
    &ids[left..left + max_tokens]
}

/// Puts `[CLS]` before and `[SEP]` behind the ids.
pub fn wrap(vocabulary: &Vocabulary, ids: &[u32]) -> Vec<u32> {
    let special = vocabulary.special();
    let mut wrapped = Vec::with_capacity(ids.len() + 2);
    wrapped.push(special.cls);
    wrapped.extend(ids);
    wrapped.push(special.sep);
    wrapped
}

/// Makes the mask of ids that of the wrapped ids: neither `[CLS]` nor `[SEP]` is hidden.
pub fn wrap_mask(mask: &[bool]) -> Vec<bool> {
    [&[false], mask, &[false]].concat()
}

#[cfg(test)]
mod tests {
    use super::super::example_random;
    use super::super::test_data::vocabulary;
    use super::*;

    #[test]
    fn every_window_is_drawn_as_often() {
        let ids: Vec<u32> = (0..10).collect();
        let mut counts = [0i32; 4];
        for example in 0..10_000 {
            let window = crop(&ids, 7, &mut example_random(1, 0, example));
            assert_eq!(window, &ids[window[0] as usize..][..7]);
            counts[window[0] as usize] += 1;
        }
        // Four standard deviations of a binomial with p = 1/4.
        assert!(counts.iter().all(|n| (n - 2500).abs() < 174), "{counts:?}");
    }

    #[test]
    fn short_texts_are_left_alone() {
        let mut random = example_random(1, 0, 0);
        assert_eq!(crop(&[7, 8], 2, &mut random), [7, 8]);
        assert_eq!(crop(&[7, 8], 9, &mut random), [7, 8]);
        assert_eq!(crop(&[], 3, &mut random), [0u32; 0]);
        assert_eq!(crop(&[7], 0, &mut random), [0u32; 0]);
        assert_eq!(wrap(&vocabulary("a"), &[5]), [2, 5, 3]);
        assert_eq!(wrap_mask(&[true]), [false, true, false]);
    }
}
