//! Groups of texts for the threads.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::backbone::Limits;
use crate::crew::Crew;
use crate::error::{EncodeError, LoadError};
use crate::network::Workspace;
use crate::tokenizer::Tokens;

/// Starts the threads of an encoder; with fewer than `least`, work runs on the caller's.
pub(crate) fn start_threads(
    n_threads: usize,
    least: usize,
) -> Result<Option<ThreadPool>, LoadError> {
    if n_threads < least {
        return Ok(None);
    }
    let builder = rayon::ThreadPoolBuilder::new().num_threads(n_threads.max(1));
    let builder = builder.thread_name(|index| format!("encoder-{index}"));
    builder
        .build()
        .map(Some)
        .map_err(|source| LoadError::Threads { n_threads, source })
}

/// Fewer tokens than this are not worth a thread of their own.
const LEAST_TOKENS: usize = 64;

/// Calls `compute` for groups of about `batch_tokens` tokens of texts of about equal length, longest first, and writes
/// what it returns, one row of `width(text)` values per text, at the places of the input. Groups are smaller where a thread
/// would otherwise have nothing to do. `n_running` counts the calls at work, so that a lone group is shared by all threads
/// only when no other call needs them.
pub(crate) fn for_groups(
    (pool, n_running): (Option<&ThreadPool>, &AtomicUsize),
    texts: &[Tokens],
    batch_tokens: usize,
    width: impl Fn(&Tokens) -> usize,
    compute: impl Fn(&[&Tokens], &mut Workspace) -> Vec<f32> + Sync,
) -> Vec<f32> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(texts[index].len()));
    let n_tokens: usize = texts.iter().map(Tokens::len).sum();
    let share = n_tokens.div_ceil(pool.map_or(1, ThreadPool::current_num_threads));
    let groups = cut(texts, &order, batch_tokens.min(share.max(LEAST_TOKENS)));
    let run = |workspace: &mut Workspace, group: &Range<usize>| {
        let group: Vec<&Tokens> = order[group.clone()]
            .iter()
            .map(|&index| &texts[index])
            .collect();
        compute(&group, workspace)
    };
    let (n_before, _end) = count_in(n_running);
    let computed: Vec<Vec<f32>> = match pool {
        // One group at a time to each thread, in order: the long ones start first.
        Some(pool) if groups.len() > 1 => pool.install(|| {
            groups
                .par_iter()
                .with_max_len(1)
                .map_init(Workspace::default, |workspace, group| run(workspace, group))
                .collect()
        }),
        // One group and nobody else at work: all threads share it.
        Some(pool) if n_before == 0 => Crew::gather(pool, |crew| {
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
    pool: Option<&ThreadPool>,
    texts: &[Tokens],
    compute: impl Fn(usize, &Tokens) -> Result<Vec<f32>, E> + Sync,
) -> Result<Vec<f32>, E> {
    let rows = || {
        let texts = texts.par_iter().enumerate().with_max_len(1);
        let rows: Result<Vec<_>, E> = texts.map(|(row, text)| compute(row, text)).collect();
        Ok(rows?.concat())
    };
    match pool {
        Some(pool) => pool.install(rows),
        None => rows(),
    }
}

/// Counts a call in, until what is returned is dropped, and says how many were before.
pub(crate) fn count_in(n_running: &AtomicUsize) -> (usize, AtEnd<'_>) {
    let n_before = n_running.fetch_add(1, Ordering::Relaxed);
    (n_before, AtEnd(n_running))
}

/// Counts a call out again, even when it panics.
pub(crate) struct AtEnd<'a>(&'a AtomicUsize);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

/// Refuses NaN and infinity, naming the row.
pub(crate) fn check_finite(values: &[f32], width: usize) -> Result<(), EncodeError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(position) => Err(EncodeError::NotFinite {
            row: position / width,
            value: values[position],
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
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
        for pool in [None, start_threads(2, 2).expect("two threads start")] {
            let threads = (pool.as_ref(), &AtomicUsize::new(0));
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
    fn a_lone_group_is_shared_only_while_no_other_call_is_at_work() {
        let pool = start_threads(2, 2).expect("two threads start");
        let lengths: [(&[usize], _); 3] = [(&[9], 0), (&[9], 1), (&[80, 80], 0)];
        for ((lengths, n_others), is_shared) in lengths.into_iter().zip([true, false, false]) {
            let threads = (pool.as_ref(), &AtomicUsize::new(n_others));
            let shared = for_groups(
                threads,
                &texts(lengths),
                80,
                |_| 1,
                |group, workspace| vec![f32::from(workspace.crew.is_some()); group.len()],
            );
            assert_eq!(shared, vec![f32::from(is_shared); lengths.len()]);
        }
    }
}
