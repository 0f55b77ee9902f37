use std::collections::HashMap;

/// One passage of a fused list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fused {
    /// The passage.
    pub ordinal: u32,
    /// Its fused score.
    pub score: f32,
}

/// Fuses ranked lists of ordinals by reciprocal rank, best first.
///
/// `score(d) = Σ over lists of 1 / (k + rank(d))`, ranks from 1; a list that lacks `d` adds nothing.
/// Cormack, Clarke and Büttcher 2009 (SIGIR), where k = 60.
///
/// Equal scores are ordered by the rank in the first list that tells the two apart (a passage that a list lacks comes
/// after those it has), then by ordinal.
#[must_use]
pub fn reciprocal_rank_fusion(lists: &[Vec<u32>], k: u32) -> Vec<Fused> {
    let mut ranks: HashMap<u32, Vec<usize>> = HashMap::new();
    for (list_number, list) in lists.iter().enumerate() {
        for (position, &ordinal) in list.iter().enumerate() {
            let of_passage = ranks
                .entry(ordinal)
                .or_insert_with(|| vec![usize::MAX; lists.len()]);
            of_passage[list_number] = of_passage[list_number].min(position + 1);
        }
    }
    let score = |ranks: &[usize]| -> f64 {
        let found = ranks.iter().filter(|&&rank| rank != usize::MAX);
        found.map(|&rank| 1.0 / (f64::from(k) + rank as f64)).sum()
    };
    let mut fused: Vec<(f64, Vec<usize>, u32)> = ranks
        .into_iter()
        .map(|(ordinal, ranks)| (score(&ranks), ranks, ordinal))
        .collect();
    fused.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| a.1.cmp(&b.1))
            .then(a.2.cmp(&b.2))
    });
    fused
        .into_iter()
        .map(|(score, _, ordinal)| Fused {
            ordinal,
            score: score as f32,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lists: &[&[u32]], expected: &[(u32, f64)]) {
        let lists: Vec<Vec<u32>> = lists.iter().map(|list| list.to_vec()).collect();
        let fused = reciprocal_rank_fusion(&lists, 60);
        let expected: Vec<Fused> = expected
            .iter()
            .map(|&(ordinal, score)| Fused {
                ordinal,
                score: score as f32,
            })
            .collect();
        assert_eq!(fused, expected);
    }

    #[test]
    fn a_passage_of_both_lists_beats_the_tops_of_one() {
        check(
            &[&[1, 2, 3], &[4, 2]],
            &[
                (2, 2.0 / 62.0),
                (1, 1.0 / 61.0),
                (4, 1.0 / 61.0),
                (3, 1.0 / 63.0),
            ],
        );
    }

    #[test]
    fn ties_go_to_the_first_list_then_to_the_smaller_ordinal() {
        check(&[&[9], &[3]], &[(9, 1.0 / 61.0), (3, 1.0 / 61.0)]);
        check(
            &[&[5, 1], &[1, 5]],
            &[(5, 1.0 / 61.0 + 1.0 / 62.0), (1, 1.0 / 61.0 + 1.0 / 62.0)],
        );
        check(&[], &[]);
        check(&[&[], &[7]], &[(7, 1.0 / 61.0)]);
    }
}
