use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a random number is for; no two purposes share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Order = 1,
    Positive,
    Negatives,
    Permutation,
    Fill,
    Mixing,
    Buffer,
    Mining,
    Shuffle,
    Widths,
    Masking,
    Spans,
    Replacing,
    HeldOut,
    Writing,
    Blocks,
}

/// Random numbers that depend on these four numbers alone, so on no other draw and on no thread.
pub(crate) fn random(seed: u64, epoch: u64, index: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut key = [0; 32];
    let numbers = [seed, epoch, index, purpose as u64];
    for (bytes, number) in key.chunks_exact_mut(8).zip(numbers) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
