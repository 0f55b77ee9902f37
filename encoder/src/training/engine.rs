use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use compute::accelerator::SharedAccelerator;
use compute::{Simd, thread_budget};
use rayon::prelude::*;

use super::accelerated::{Device, failed};
use super::error::TrainingError;
use super::matrix::{self, Kernel, Precision};
use super::network::{Tape, Workspace};
use crate::error::LoadError;
use crate::threads::Threads;

/// Where and how training computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Threads of the products and of the optimizer.
    pub threads: usize,
    /// Operands of matrix products.
    pub precision: Precision,
    /// Vector instructions; results of two levels differ in the last bits.
    pub simd: Simd,
}

impl Default for EngineConfig {
    /// What this process may use, in f32.
    fn default() -> Self {
        Self {
            threads: thread_budget(None),
            precision: Precision::F32,
            simd: Simd::detect(),
        }
    }
}

/// Threads, instructions and buffers that the training layers share.
///
/// Results do not depend on the number of threads: work is cut by the batch alone, and sums have a fixed order.
pub struct Engine {
    pub(super) kernel: Kernel,
    threads: Option<Arc<Threads>>,
    workspaces: Mutex<Vec<Workspace>>,
    tapes: Mutex<Vec<Tape>>,
    operations: Arc<AtomicU64>,
    pub(super) device: Option<Device>,
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`LoadError::Threads`] when the system refuses them.
    pub fn new(config: &EngineConfig) -> Result<Arc<Self>, LoadError> {
        Ok(Arc::new(Self::without_device(config)?))
    }

    /// Starts the threads, and lets a device compute the layers that have kernels there.
    ///
    /// # Errors
    /// As [`Self::new`]; [`TrainingError::Tensor`] when the device cannot compile them.
    pub fn on_device(
        config: &EngineConfig,
        device: SharedAccelerator,
    ) -> Result<Arc<Self>, TrainingError> {
        let mut engine = Self::without_device(config)?;
        let operations = engine.operations.clone();
        let device = Device::new(device, config.precision, operations).map_err(failed)?;
        engine.device = Some(device);
        Ok(Arc::new(engine))
    }

    fn without_device(config: &EngineConfig) -> Result<Self, LoadError> {
        Ok(Self {
            kernel: Kernel::new(config.simd, config.precision),
            threads: Threads::shared(config.threads, 2)?,
            workspaces: Mutex::default(),
            tapes: Mutex::default(),
            operations: Arc::default(),
            device: None,
        })
    }

    /// The device that computes layers, if any.
    pub fn accelerator(&self) -> Option<&SharedAccelerator> {
        self.device.as_ref().map(Device::accelerator)
    }

    /// Waits for the device, where there is one.
    ///
    /// # Errors
    /// The device's, also for work queued before.
    pub fn wait(&self) -> Result<(), TrainingError> {
        let waited = self.device.as_ref().map_or(Ok(()), Device::wait);
        Ok(waited.map_err(failed)?)
    }

    /// Threads of the products.
    pub fn threads(&self) -> usize {
        let threads = self.threads.as_ref();
        threads.map_or(1, |threads| threads.pool.current_num_threads())
    }

    /// How operands of matrix products are held.
    pub fn precision(&self) -> Precision {
        self.kernel.precision
    }

    /// Floating-point operations of matrix products so far: 2 m n k for (m, k) · (k, n).
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Calls `work` for every item, each on one thread, the first ones first.
    pub(super) fn run<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync + Send) {
        let work = |item: &mut T| {
            let before = matrix::operations();
            work(item);
            let n_operations = matrix::operations() - before;
            self.operations.fetch_add(n_operations, Ordering::Relaxed);
        };
        match &self.threads {
            Some(threads) if items.len() > 1 => {
                threads
                    .pool
                    .install(|| items.par_iter_mut().with_max_len(1).for_each(work));
            }
            _ => items.iter_mut().for_each(work),
        }
    }

    /// Lends buffers to `work`; they keep their memory from call to call.
    pub(super) fn with_workspace<R>(&self, work: impl FnOnce(&mut Workspace) -> R) -> R {
        let mut workspace = lock(&self.workspaces).pop().unwrap_or_default();
        let result = work(&mut workspace);
        lock(&self.workspaces).push(workspace);
        result
    }

    /// Fresh memory costs more than the arithmetic on it, so tapes are given back and taken again.
    pub(super) fn take_tape(&self) -> Tape {
        lock(&self.tapes).pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, tape: Tape) {
        lock(&self.tapes).push(tape);
    }
}

/// Locks what holds buffers only: a panic elsewhere leaves nothing half done in them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
