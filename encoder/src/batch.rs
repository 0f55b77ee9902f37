//! Groups of texts for the threads.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::backbone::Limits;
use crate::crew::Crew;
use crate::error::EncodeError;
use crate::network::Workspace;
use crate::threads::{Threads, count_in};
use crate::tokenizer::Tokens;

/// Fewer tokens than this are not worth a thread of their own.
const LEAST_TOKENS: usize = 64;

/// Calls `compute` for groups of about `batch_tokens` tokens of texts of about equal length, longest first, and writes
/// what it returns, one row of `width(text)` values per text, at the places of the input. Groups are smaller where a thread
/// would otherwise have nothing to do, and a lone group is shared by all threads. Beside other calls neither is: a few texts are
/// computed on the caller's thread, since the pool's take what is new only when all groups of a call before are taken.
pub(crate) fn for_groups(
    threads: Option<&Threads>,
    texts: &[Tokens],
    batch_tokens: usize,
    width: impl Fn(&Tokens) -> usize,
    compute: impl Fn(&[&Tokens], &mut Workspace) -> Vec<f32> + Sync,
) -> Vec<f32> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(texts[index].len()));
    let n_tokens: usize = texts.iter().map(Tokens::len).sum();
    let counted = threads.map(|threads| (&threads.pool, count_in(&threads.n_running)));
    let n_threads = match &counted {
        Some((pool, (0, _))) => pool.current_num_threads(),
        _ => 1,
    };
    let share = n_tokens.div_ceil(n_threads).max(LEAST_TOKENS);
    let groups = cut(texts, &order, batch_tokens.min(share));
    let run = |workspace: &mut Workspace, group: &Range<usize>| {
        let group: Vec<&Tokens> = order[group.clone()]
            .iter()
            .map(|&index| &texts[index])
            .collect();
        compute(&group, workspace)
    };
    let computed: Vec<Vec<f32>> = match &counted {
        // One group at a time to each thread, in order: the long ones start first.
        Some((pool, _)) if groups.len() > 1 => pool.install(|| {
            groups
                .par_iter()
                .with_max_len(1)
                .map_init(Workspace::default, |workspace, group| run(workspace, group))
                .collect()
        }),
        // One group and nobody else at work: all threads share it.
        Some((pool, (0, _))) => Crew::gather(pool, |crew| {
            let mut workspace = Workspace::default();
            workspace.crew = Some(Arc::clone(crew));
            groups
                .iter()
                .map(|group| run(&mut workspace, group))
                .collect()
        }),
        _ => {
            let mut workspace = Workspace::default();
            groups
                .iter()
                .map(|group| run(&mut workspace, group))
                .collect()
        }
    };
    let computed = groups
        .iter()
        .zip(&computed)
        .map(|(group, rows)| (&order[group.clone()], rows.as_slice()));
    in_order_of_input(texts, width, computed)
}

/// The rows of groups at the places of their texts: `width(text)` values for each of the texts whose numbers come with the rows.
pub(crate) fn in_order_of_input<'a>(
    texts: &[Tokens],
    width: impl Fn(&Tokens) -> usize,
    groups: impl Iterator<Item = (&'a [usize], &'a [f32])>,
) -> Vec<f32> {
    let mut ends = Vec::with_capacity(texts.len());
    let mut n_values = 0;
    for text in texts {
        n_values += width(text);
        ends.push(n_values);
    }
    let mut values = vec![0.0; n_values];
    for (numbers, mut rows) in groups {
        for &index in numbers {
            let (row, rest) = rows.split_at(width(&texts[index]));
            values[ends[index] - row.len()..ends[index]].copy_from_slice(row);
            rows = rest;
        }
    }
    values
}

/// Calls `compute` for each text alone and joins the rows that it returns, in the order of the input.
pub(crate) fn for_texts<E: Send>(
    threads: Option<&Threads>,
    texts: &[Tokens],
    compute: impl Fn(usize, &Tokens) -> Result<Vec<f32>, E> + Sync,
) -> Result<Vec<f32>, E> {
    let rows = || {
        let texts = texts.par_iter().enumerate().with_max_len(1);
        let rows: Result<Vec<_>, E> = texts.map(|(row, text)| compute(row, text)).collect();
        Ok(rows?.concat())
    };
    match threads {
        Some(threads) => {
            let _counted = count_in(&threads.n_running);
            threads.pool.install(rows)
        }
        None => rows(),
    }
}

/// Cuts texts in `order` into groups of up to `batch_tokens` tokens, at least one text each.
fn cut(texts: &[Tokens], order: &[usize], batch_tokens: usize) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut n_tokens) = (0, 0);
    for (place, &index) in order.iter().enumerate() {
        let length = texts[index].len();
        if place > start && n_tokens + length > batch_tokens {
            groups.push(start..place);
            (start, n_tokens) = (place, 0);
        }
        n_tokens += length;
    }
    if start < order.len() {
        groups.push(start..order.len());
    }
    groups
}

/// Refuses tokens that the tables have no row for.
pub(crate) fn check(limits: Limits, texts: &[Tokens]) -> Result<(), EncodeError> {
    let most = limits.max_tokens;
    for (row, text) in texts.iter().enumerate() {
        if text.is_empty() {
            return Err(EncodeError::Empty { row });
        }
        if text.len() > most {
            return Err(EncodeError::TooLong {
                row,
                n_tokens: text.len(),
                most,
            });
        }
        if text.ids.len() != text.type_ids.len() {
            return Err(EncodeError::Uneven {
                row,
                n_ids: text.ids.len(),
                n_type_ids: text.type_ids.len(),
            });
        }
        let known = |what, ids: &[u32], n_known: usize| match ids
            .iter()
            .find(|&&id| id as usize >= n_known)
        {
            Some(&id) => Err(EncodeError::UnknownId {
                row,
                what,
                id,
                n_known,
            }),
            None => Ok(()),
        };
        known("token id", &text.ids, limits.n_vocabulary)?;
        if limits.n_types > 0 {
            known("type id", &text.type_ids, limits.n_types)?;
        }
    }
    Ok(())
}

/// Refuses NaN and infinity, naming the row; `lengths` are the rows' numbers of values.
pub(crate) fn check_finite(
    values: &[f32],
    lengths: impl Iterator<Item = usize>,
) -> Result<(), EncodeError> {
    let Some(position) = values.iter().position(|value| !value.is_finite()) else {
        return Ok(());
    };
    let mut end = 0;
    let before = lengths.take_while(|length| {
        end += length;
        end <= position
    });
    Err(EncodeError::NotFinite {
        row: before.count(),
        value: values[position],
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    fn texts(lengths: &[usize]) -> Vec<Tokens> {
        lengths
            .iter()
            .map(|&length| Tokens {
                ids: vec![1; length],
                ..Tokens::default()
            })
            .collect()
    }

    fn check_cut(lengths: &[usize], batch_tokens: usize, expected: &[Range<usize>]) {
        let texts = texts(lengths);
        let order: Vec<usize> = (0..texts.len()).collect();
        assert_eq!(cut(&texts, &order, batch_tokens), expected);
    }

    #[test]
    fn groups_keep_the_budget_where_a_text_does() {
        check_cut(&[], 10, &[]);
        check_cut(&[5, 5, 5], 10, &[0..2, 2..3]);
        check_cut(&[50, 3, 3], 10, &[0..1, 1..3]);
        check_cut(&[4, 4, 4], 0, &[0..1, 1..2, 2..3]);
    }

    #[test]
    fn rows_come_back_in_the_order_of_the_input() {
        let texts = texts(&[3, 9, 1, 5, 2]);
        for threads in [None, Some(Threads::start(2).expect("two threads start"))] {
            let threads = threads.as_ref();
            let lengths = for_groups(
                threads,
                &texts,
                6,
                |_| 1,
                |group, _| group.iter().map(|text| text.len() as f32).collect(),
            );
            assert_eq!(lengths, [3.0, 9.0, 1.0, 5.0, 2.0]);
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_in_its_row() {
        let mut values = [1.0; 9];
        for (position, rows) in [
            (0, [0, 0]),
            (2, [0, 0]),
            (3, [1, 1]),
            (4, [2, 1]),
            (8, [2, 2]),
        ] {
            values[position] = f32::NAN;
            for (lengths, expected) in [[3, 1, 5], [3, 3, 3]].into_iter().zip(rows) {
                match check_finite(&values, lengths.into_iter()) {
                    Err(EncodeError::NotFinite { row, value }) => {
                        assert_eq!(row, expected, "{position} of {lengths:?}");
                        assert!(value.is_nan());
                    }
                    other => panic!("{position}: {other:?}"),
                }
            }
            values[position] = 1.0;
        }
        assert!(check_finite(&values, [3, 1, 5].into_iter()).is_ok());
    }

    #[test]
    fn a_lone_group_is_shared_only_while_no_other_call_is_at_work() {
        let threads = Threads::start(2).expect("two threads start");
        let lengths: [(&[usize], _); 3] = [(&[9], 0), (&[9], 1), (&[80, 80], 0)];
        for ((lengths, n_others), is_shared) in lengths.into_iter().zip([true, false, false]) {
            threads.n_running.store(n_others, Ordering::Relaxed);
            let shared = for_groups(
                Some(&threads),
                &texts(lengths),
                80,
                |_| 1,
                |group, workspace| vec![f32::from(workspace.crew.is_some()); group.len()],
            );
            assert_eq!(shared, vec![f32::from(is_shared); lengths.len()]);
        }
    }
}
