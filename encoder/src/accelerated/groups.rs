//! Texts in groups of about equal length, which are taken one after the other.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::tokenizer::Tokens;

/// Texts, longest first, and which of them nobody has taken.
pub(super) struct Groups<'a> {
    texts: &'a [Tokens],
    /// Numbers of the texts, longest first.
    order: Vec<usize>,
    /// Stretches of the order; the last one is taken from next.
    left: Mutex<Vec<Range<usize>>>,
}

/// Texts that are computed together: a stretch of the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    places: Range<usize>,
    pub n_tokens: usize,
}

impl Group {
    pub fn n_texts(&self) -> usize {
        self.places.len()
    }
}

impl<'a> Groups<'a> {
    pub fn new(texts: &'a [Tokens]) -> Self {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(texts[index].len()));
        let all = std::iter::once(0..texts.len());
        Self {
            texts,
            order,
            left: Mutex::new(all.filter(|all| !all.is_empty()).collect()),
        }
    }

    /// Tokens of all texts.
    pub fn n_tokens(&self) -> usize {
        self.texts.iter().map(Tokens::len).sum()
    }

    /// Whether all are taken.
    pub fn is_empty(&self) -> bool {
        self.left().is_empty()
    }

    /// Takes the next texts that have up to `most_tokens` together, at least one text.
    pub fn take(&self, most_tokens: usize) -> Option<Group> {
        let mut left = self.left();
        let stretch = left.pop()?;
        let (mut end, mut n_tokens) = (stretch.start, 0);
        for &index in &self.order[stretch.clone()] {
            let length = self.texts[index].len();
            if end > stretch.start && n_tokens + length > most_tokens {
                break;
            }
            end += 1;
            n_tokens += length;
        }
        if end < stretch.end {
            left.push(end..stretch.end);
        }
        Some(Group {
            places: stretch.start..end,
            n_tokens,
        })
    }

    /// Gives a group back, to be taken next.
    pub fn put_back(&self, group: Group) {
        self.left().push(group.places);
    }

    /// The numbers of its texts, longest first.
    pub fn numbers(&self, group: &Group) -> &[usize] {
        &self.order[group.places.clone()]
    }

    pub fn texts(&self, group: &Group) -> Vec<&'a Tokens> {
        let numbers = self.numbers(group).iter();
        numbers.map(|&index| &self.texts[index]).collect()
    }

    fn left(&self) -> MutexGuard<'_, Vec<Range<usize>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_the_longest_texts_that_are_left() {
        let texts = [3, 9, 1, 5, 2].map(|length| Tokens {
            ids: vec![1; length],
            ..Tokens::default()
        });
        let groups = Groups::new(&texts);
        let take = |most_tokens| {
            let group = groups.take(most_tokens)?;
            Some((groups.numbers(&group).to_vec(), group))
        };
        let (numbers, long) = take(6).expect("one text is always taken");
        assert_eq!((&numbers[..], long.n_tokens), (&[1][..], 9));
        let (numbers, group) = take(8).expect("four are left");
        assert_eq!((&numbers[..], group.n_tokens), (&[3, 0][..], 8));
        // What comes back is taken before the others, and never with them.
        groups.put_back(group);
        assert_eq!(take(7).expect("all of it is left").0, [3]);
        assert_eq!(take(100).expect("the rest of it").0, [0]);
        assert_eq!(take(100).expect("two more").0, [4, 2]);
        assert_eq!(take(100), None);
        groups.put_back(long);
        assert_eq!(take(1).expect("it came back").0, [1]);
        assert_eq!(Groups::new(&[]).take(10), None);
    }
}
