//! Work on a stream by several threads, in the order of the stream.

use std::sync::mpsc::sync_channel;

/// Items that wait for a thread, and results that wait for their turn.
const DEPTH: usize = 2;

/// Maps what `next` yields on so many threads, and gives the results to `each` in the order of the items.
///
/// At most `2 · n_threads` items are on their way. `next` and `each` run on this thread.
///
/// # Errors
/// The first error in the order of the stream, whichever of `next` and `each` it comes from.
///
/// # Panics
/// When `map` does.
pub(crate) fn map_in_order<T: Send, R: Send, E>(
    n_threads: usize,
    mut next: impl FnMut() -> Result<Option<T>, E>,
    map: impl Fn(T) -> R + Sync,
    mut each: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let n_threads = n_threads.max(1);
    std::thread::scope(|scope| {
        let start = |_| {
            let (sender, items) = sync_channel(DEPTH);
            let (results, receiver) = sync_channel(DEPTH);
            let map = &map;
            scope.spawn(move || {
                for item in items {
                    if results.send(map(item)).is_err() {
                        return;
                    }
                }
            });
            (sender, receiver)
        };
        // Threads take turns, so that the order of results is known.
        let threads: Vec<_> = (0..n_threads).map(start).collect();
        let (mut n_sent, mut n_received) = (0, 0);
        let mut end = None;
        loop {
            while end.is_none() && n_sent - n_received < DEPTH * n_threads {
                match next() {
                    Ok(Some(item)) => {
                        let sent = threads[n_sent % n_threads].0.send(item);
                        sent.expect("a thread ends when its sender does");
                        n_sent += 1;
                    }
                    Ok(None) => end = Some(Ok(())),
                    Err(error) => end = Some(Err(error)),
                }
            }
            if n_received < n_sent {
                let result = threads[n_received % n_threads].1.recv();
                each(result.expect("a thread answers each item"))?;
                n_received += 1;
            } else if let Some(end) = end {
                return end;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doubles 0 to 99; `next` fails at one place, `each` at another.
    fn check(n_threads: usize, bad_item: u32, bad_result: u32, expected: Result<(), &str>) {
        let mut numbers = 0..100;
        let mut seen = Vec::new();
        let next = || match numbers.next() {
            Some(number) if number == bad_item => Err("item"),
            number => Ok(number),
        };
        let map = |number: u32| {
            // The first are the slowest.
            std::thread::sleep(std::time::Duration::from_micros(u64::from(100 - number)));
            number * 2
        };
        let each = |number| {
            seen.push(number);
            if number == 2 * bad_result {
                return Err("result");
            }
            Ok(())
        };
        assert_eq!(map_in_order(n_threads, next, map, each), expected);
        let n_seen = bad_item.min(bad_result + 1).min(100);
        let doubled: Vec<u32> = (0..n_seen).map(|number| number * 2).collect();
        assert_eq!(seen, doubled);
    }

    #[test]
    fn results_and_the_first_error_come_in_order() {
        for n_threads in [0, 1, 2, 5, 200] {
            check(n_threads, 1000, 1000, Ok(()));
            check(n_threads, 50, 1000, Err("item"));
            check(n_threads, 1000, 50, Err("result"));
            check(n_threads, 51, 50, Err("result"));
            check(n_threads, 50, 50, Err("item"));
            check(n_threads, 0, 0, Err("item"));
        }
    }
}
