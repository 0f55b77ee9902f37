use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use crate::Simd;

/// Passes over the buffer, of which the fastest counts.
const PASSES: usize = 7;
/// Places of the buffer that a thread reads in turn: the processor fetches ahead of each.
const STREAMS: usize = 4;
/// Words added at a time in each of them, four cache lines.
const STEP: usize = 32;

/// Measures how many bytes a second `n_threads` threads together read of a buffer of `n_bytes` that stays where it is:
/// in memory, or in a cache that it fits in. What is read is added up and that is all.
///
/// At least a page is read for each thread. Memory: the buffer.
pub fn read_bytes_per_s(n_bytes: usize, n_threads: usize) -> f64 {
    let n_threads = n_threads.max(1);
    let n_words = (n_bytes / 8 / n_threads).max(512);
    let simd = Simd::detect();
    let buffer = vec![1u64; n_words * n_threads]; // Written, not zeroed: pages of zeros may all be one page.
    let pass = || {
        let start = Instant::now();
        thread::scope(|scope| {
            let mut parts = buffer.chunks_exact(n_words);
            let own = parts.next().expect("at least one thread");
            for part in parts {
                scope.spawn(move || black_box(sum(simd, part)));
            }
            black_box(sum(simd, own));
        });
        start.elapsed()
    };
    let fastest = (0..PASSES).map(|_| pass()).min().unwrap_or(Duration::MAX);
    (buffer.len() * 8) as f64 / fastest.as_secs_f64()
}

crate::simd_function! {
    fn sum(words: &[u64]) -> u64 {
        let (streams, rest) = words.split_at(words.len() / (STREAMS * STEP) * (STREAMS * STEP));
        let length = streams.len() / STREAMS;
        let mut sums = [0u64; STEP];
        for at in (0..length).step_by(STEP) {
            for stream in 0..STREAMS {
                let start = stream * length + at;
                for (sum, &word) in sums.iter_mut().zip(&streams[start..start + STEP]) {
                    *sum = sum.wrapping_add(word);
                }
            }
        }
        sums.iter().chain(rest).fold(0, |sum, &word| sum.wrapping_add(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        for n in [0, 1, 127, 128, 1000, 4099] {
            let words: Vec<u64> = (0..n).map(|i| i * i).collect();
            assert_eq!(sum(Simd::detect(), &words), words.iter().sum(), "{n} words");
        }
    }

    #[test]
    fn reading_takes_time() {
        for n_threads in [1, 2] {
            let speed = read_bytes_per_s(1 << 16, n_threads);
            assert!(speed.is_finite() && speed > 0.0, "{speed}");
        }
    }
}
