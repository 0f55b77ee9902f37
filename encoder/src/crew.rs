//! Threads that stand by while one call computes.
//!
//! A single query is a chain of products of 20 to 100 microseconds, too short to wake a thread for. So the threads that
//! have nothing else to do are called once, and spin from product to product until the call is finished.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use rayon::ThreadPool;

/// What is handed out: called once for each part.
type Work<'a> = &'a (dyn Fn(usize) + Sync + 'a);

/// A leader and those that help it. Whoever comes late, or not at all, is not waited for.
pub(crate) struct Crew {
    n_threads: usize,
    /// The present task's number (32 bits), parts (16) and next part (16) in one word, so that all three are of one task;
    /// [`FINISHED`] when there will be no other.
    next: AtomicU64,
    /// The task's work; points into the leader's stack while there are parts to take.
    work: AtomicPtr<()>,
    n_done: AtomicUsize,
    panicked: AtomicBool,
}

const FINISHED: u64 = u64::MAX;

/// Ends the standing by even when the leader panics.
struct Dismissal<'a>(&'a Crew);

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        self.0.next.store(FINISHED, Ordering::Release);
    }
}

impl Crew {
    /// Runs `lead` on this thread while the pool's threads, but for one, stand by.
    pub(crate) fn gather<R>(pool: &ThreadPool, lead: impl FnOnce(&Arc<Self>) -> R) -> R {
        let crew = Arc::new(Self {
            n_threads: pool.current_num_threads(),
            next: AtomicU64::new(0),
            work: AtomicPtr::new(std::ptr::null_mut()),
            n_done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        for _ in 1..crew.n_threads {
            let crew = Arc::clone(&crew);
            pool.spawn(move || crew.stand_by());
        }
        let dismissal = Dismissal(&crew);
        let result = lead(&crew);
        drop(dismissal);
        result
    }

    /// Threads of the crew, the leader among them.
    pub(crate) fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Calls `work` for each of 0..`n_parts`, on this thread and on those standing by, and returns when all are done.
    /// Only the leader may call it, and `work` may not.
    pub(crate) fn share(&self, n_parts: usize, work: Work<'_>) {
        let n_parts_bits = u16::try_from(n_parts).expect("fewer parts than 16 bits can count");
        let task = ((self.next.load(Ordering::Relaxed) >> 32) + 1) & 0x7fff_ffff;
        let work: *const Work<'_> = &raw const work;
        self.n_done.store(0, Ordering::Relaxed);
        self.work
            .store(work.cast::<()>().cast_mut(), Ordering::Relaxed);
        let next = task << 32 | u64::from(n_parts_bits) << 16;
        self.next.store(next, Ordering::Release);
        while self.take_part() {}
        while self.n_done.load(Ordering::Acquire) < n_parts {
            std::hint::spin_loop();
        }
        if self.panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a part of a product panicked"));
        }
    }

    /// Takes parts until the leader is finished.
    fn stand_by(&self) {
        let mut n_idle = 0u32;
        while self.next.load(Ordering::Acquire) != FINISHED {
            if self.take_part() {
                n_idle = 0;
                continue;
            }
            n_idle += 1;
            if n_idle.is_multiple_of(1024) {
                std::thread::yield_now(); // someone else may need the core more
            }
            std::hint::spin_loop();
        }
    }

    /// Computes one part, if there is one to take.
    fn take_part(&self) -> bool {
        let next = self.next.load(Ordering::Acquire);
        let (n_parts, part) = ((next >> 16 & 0xffff) as usize, (next & 0xffff) as usize);
        if next == FINISHED || part >= n_parts {
            return false;
        }
        let work = self.work.load(Ordering::Relaxed);
        // The leader goes on to another task only when all parts are taken. So where `work` is another task's by now, the
        // exchange fails, as it does when somebody else took the part.
        let taken = self
            .next
            .compare_exchange(next, next + 1, Ordering::AcqRel, Ordering::Relaxed);
        if taken.is_err() {
            return false;
        }
        // SAFETY: the exchange succeeded, so the task that `work` was stored for is still the present one, and the leader
        // stays in `share`, where `work` points to, until this part is counted below.
        let work = unsafe { *work.cast::<Work<'_>>() };
        if catch_unwind(AssertUnwindSafe(|| work(part))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.n_done.fetch_add(1, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> ThreadPool {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(3);
        builder.build().expect("three threads start")
    }

    #[test]
    fn every_part_of_every_task_is_done_once() {
        let pool = pool();
        for _ in 0..20 {
            Crew::gather(&pool, |crew| {
                for n_parts in 0..200 {
                    let done: Vec<AtomicUsize> =
                        (0..n_parts).map(|_| AtomicUsize::new(0)).collect();
                    crew.share(n_parts, &|part| {
                        done[part].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            });
        }
    }

    #[test]
    fn nobody_waits_for_a_pool_that_is_busy() {
        let pool = pool();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let receiver = Arc::new(std::sync::Mutex::new(receiver));
        for _ in 0..3 {
            let receiver = Arc::clone(&receiver);
            pool.spawn(move || drop(receiver.lock().map(|receiver| receiver.recv())));
        }
        let total = AtomicUsize::new(0);
        Crew::gather(&pool, |crew| {
            crew.share(10, &|part| {
                total.fetch_add(part, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 45);
        drop(sender);
    }

    #[test]
    fn a_panic_reaches_the_leader() {
        let pool = pool();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            Crew::gather(&pool, |crew| crew.share(8, &|part| assert_ne!(part, 5)));
        }));
        assert!(caught.is_err());
        pool.install(|| ()); // its threads are free again
    }
}
