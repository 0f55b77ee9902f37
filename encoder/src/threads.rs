//! The threads that models compute on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rayon::ThreadPool;

use crate::error::LoadError;

/// So many threads, shared by all models of the process that were given this number: an encoder and a reranker that are at work
/// at once take each core once, and only a call that is alone has all threads for one group.
pub(crate) struct Threads {
    pub(crate) pool: ThreadPool,
    /// Calls at work.
    pub(crate) n_running: AtomicUsize,
}

impl Threads {
    /// The process's `n_threads`, started where no model has them yet; none of fewer than `least`, where work runs on the caller's.
    pub(crate) fn shared(n_threads: usize, least: usize) -> Result<Option<Arc<Self>>, LoadError> {
        static SHARED: Mutex<BTreeMap<usize, Weak<Threads>>> = Mutex::new(BTreeMap::new());
        if n_threads < least {
            return Ok(None);
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(threads) = shared.get(&n_threads).and_then(Weak::upgrade) {
            return Ok(Some(threads));
        }
        let threads = Arc::new(Self::start(n_threads)?);
        shared.insert(n_threads, Arc::downgrade(&threads));
        Ok(Some(threads))
    }

    /// Threads that nobody else has.
    pub(crate) fn start(n_threads: usize) -> Result<Self, LoadError> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(n_threads.max(1));
        let builder = builder.thread_name(|index| format!("encoder-{index}"));
        let pool = builder.build();
        Ok(Self {
            pool: pool.map_err(|source| LoadError::Threads { n_threads, source })?,
            n_running: AtomicUsize::new(0),
        })
    }
}

/// Texts that a thread tokenises in one go: fewer than two of these stay on the caller's thread, which waits for nobody.
pub(crate) const TEXTS_AT_ONCE: usize = 8;

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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::{BiEncoder, CrossEncoder, EncoderConfig, ModelOptions, Role};

    /// A number of threads that no other test asks for: those name few, or take one for each processor.
    fn own(number: usize) -> usize {
        compute::thread_budget(None).max(32) + number
    }

    #[test]
    fn few_texts_are_tokenised_while_the_threads_are_busy() {
        let n_threads = own(1);
        let config = EncoderConfig {
            threads: n_threads,
            ..EncoderConfig::default()
        };
        let path = |name| testkit::fixture("models").join(name);
        let encoder = BiEncoder::load(&path("tiny-bert"), &ModelOptions::default(), &config);
        let encoder = encoder.expect("the model loads");
        let reranker = CrossEncoder::load(&path("tiny-cross-bert"), None, &config);
        let reranker = reranker.expect("the model loads");
        let threads = Threads::shared(n_threads, 2).expect("threads start");
        let (sender, receiver) = channel::<()>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..n_threads {
            let receiver = Arc::clone(&receiver);
            let pool = &threads.as_ref().expect("enough of them").pool;
            pool.spawn(move || drop(receiver.lock().map(|receiver| receiver.recv())));
        }
        let texts = encoder.tokenize(Role::Query, &["tides".into(), "the moon".into()]);
        assert_eq!(texts.expect("tokens").len(), 2);
        let pairs = reranker.tokenize(&[("tides", "the moon"), ("bread", "yeast")]);
        assert_eq!(pairs.expect("tokens").len(), 2);
        drop(sender);
    }

    #[test]
    fn models_with_equally_many_threads_have_the_same_ones() {
        let start = |n, least| Threads::shared(n, least).expect("threads start");
        assert!(start(1, 2).is_none());
        let (number, another) = (own(2), own(3));
        let shared = |n| start(n, 2).expect("enough of them");
        let first = shared(number);
        assert_eq!(first.pool.current_num_threads(), number);
        assert!(Arc::ptr_eq(&first, &shared(number)));
        assert!(!Arc::ptr_eq(&first, &shared(another)));
        let kept = Arc::downgrade(&first);
        drop(first);
        assert!(kept.upgrade().is_none(), "they end with the last model");
        assert_eq!(shared(number).pool.current_num_threads(), number);
    }
}
