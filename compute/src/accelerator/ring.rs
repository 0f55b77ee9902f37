//! Memory that is used again and again from its front.

use std::collections::VecDeque;
use std::ops::Range;

/// Places in so many bytes. Each is in use until a mark `M` is reached; marks are reached in the order in which they were set.
pub(super) struct Ring<M> {
    n_bytes: usize,
    next: usize,
    /// Oldest first.
    in_use: VecDeque<(Range<usize>, M)>,
}

impl<M> Ring<M> {
    pub fn new(n_bytes: usize) -> Self {
        Self {
            n_bytes,
            next: 0,
            in_use: VecDeque::new(),
        }
    }

    /// A place for so many bytes, no more than there are. Calls `wait` with the last mark of those that had it before, if there is one.
    pub fn take<E>(
        &mut self,
        n_bytes: usize,
        wait: impl FnOnce(M) -> Result<(), E>,
    ) -> Result<Range<usize>, E> {
        assert!(n_bytes <= self.n_bytes, "{n_bytes} of {}", self.n_bytes);
        let start = match self.next + n_bytes <= self.n_bytes {
            true => self.next,
            false => 0,
        };
        let place = start..start + n_bytes;
        let overlaps =
            |(other, _): &(Range<usize>, M)| place.start < other.end && other.start < place.end;
        if let Some(last) = self.in_use.iter().rposition(overlaps)
            && let Some((_, mark)) = self.in_use.drain(..=last).next_back()
        {
            wait(mark)?;
        }
        self.next = place.end;
        Ok(place)
    }

    /// Says until when a place is in use.
    pub fn set(&mut self, place: Range<usize>, mark: M) {
        self.in_use.push_back((place, mark));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Takes places one after the other, which are in use until their number is waited for.
    fn check(n_bytes: usize, sizes: &[usize], expected: &[(Range<usize>, Option<usize>)]) {
        let mut ring = Ring::new(n_bytes);
        let mut found = Vec::new();
        for (number, &size) in sizes.iter().enumerate() {
            let mut waited = None;
            let place = ring.take::<Infallible>(size, |mark| {
                waited = Some(mark);
                Ok(())
            });
            let Ok(place) = place;
            ring.set(place.clone(), number);
            found.push((place, waited));
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn a_place_is_waited_for_when_it_comes_round() {
        check(10, &[4, 4], &[(0..4, None), (4..8, None)]);
        check(
            10,
            &[4, 4, 2, 4],
            &[(0..4, None), (4..8, None), (8..10, None), (0..4, Some(0))],
        );
        // The end is too short for the third, which takes the place of the first; the fourth that of the second.
        check(
            10,
            &[4, 4, 3, 3],
            &[(0..4, None), (4..8, None), (0..3, Some(0)), (3..6, Some(1))],
        );
        // Waiting for the last of several is waiting for all of them.
        check(
            10,
            &[2, 2, 2, 2, 7, 3],
            &[
                (0..2, None),
                (2..4, None),
                (4..6, None),
                (6..8, None),
                (0..7, Some(3)),
                (7..10, None),
            ],
        );
        check(
            4,
            &[4, 4, 4],
            &[(0..4, None), (0..4, Some(0)), (0..4, Some(1))],
        );
    }

    #[test]
    fn places_in_use_never_overlap() {
        let (mut ring, mut state) = (Ring::new(1000), 1_u32);
        let mut in_use: VecDeque<(usize, Range<usize>)> = VecDeque::new();
        for number in 0..5000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let size = 1 + (state >> 16) as usize % 250;
            let place = ring.take::<Infallible>(size, |mark| {
                in_use.retain(|&(other, _)| other > mark);
                Ok(())
            });
            let Ok(place) = place;
            assert!(place.end <= 1000 && place.len() == size);
            for (_, other) in &in_use {
                assert!(place.end <= other.start || other.end <= place.start);
            }
            ring.set(place.clone(), number);
            in_use.push_back((number, place));
        }
    }
}
