//! A GPU in slow motion, for machines without one: the kernels of trawl, compiled as C++ for the host.
//!
//! [`EmulatedGpu`] is an [`Accelerator`] whose memory is the host's. Kernels run one block after the other and the threads of a block by
//! turns, so their results are those of one possible order of events; a barrier that not all threads reach ends the process.
//! Memory is of undefined content, as on a device: it is filled with a pattern that is neither zero nor a plausible number.
//! Its size is the test's choice, so running out of it can be tried.

use std::alloc::Layout;
use std::collections::{HashMap, HashSet};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use compute::accelerator::{
    Accelerator, AcceleratorError, DeviceInfo, Epilogue, Launch, MatrixType, Module, Product,
};
use half::{bf16, f16};

unsafe extern "C" {
    fn emulated_has(name: *const c_char) -> c_int;
    fn emulated_launch(
        name: *const c_char,
        grid_x: c_uint,
        grid_y: c_uint,
        n_threads: c_uint,
        shared_bytes: c_uint,
        arguments: *mut *mut c_void,
    ) -> c_int;
}

/// Allocations are aligned as on a device.
const ALIGNMENT: usize = 256;
/// Undefined content: a number far from any that kernels compute.
const POISON: u8 = 0xa5;
/// Bytes behind each allocation that nobody may write.
const GUARD: usize = 256;

/// A device that is emulated.
#[derive(Debug)]
pub struct EmulatedGpu {
    info: DeviceInfo,
    total_bytes: AtomicU64,
    /// Length by address.
    allocated: Mutex<HashMap<u64, usize>>,
    loaded: Mutex<HashSet<&'static str>>,
    n_launches: AtomicUsize,
}

impl EmulatedGpu {
    /// A device with so much memory.
    #[must_use]
    pub fn new(name: &str, total_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            info: DeviceInfo {
                name: name.to_owned(),
                model: "emulated".to_owned(),
                total_bytes,
                n_multiprocessors: 2,
            },
            total_bytes: AtomicU64::new(total_bytes),
            allocated: Mutex::default(),
            loaded: Mutex::default(),
            n_launches: AtomicUsize::new(0),
        })
    }

    /// Gives it another amount of memory, as if others had taken or left some.
    pub fn set_total_bytes(&self, total_bytes: u64) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Kernels and products that ran so far.
    pub fn n_launches(&self) -> usize {
        self.n_launches.load(Ordering::Relaxed)
    }

    /// Bytes that are allocated.
    pub fn allocated_bytes(&self) -> u64 {
        lock(&self.allocated).values().map(|&n| n as u64).sum()
    }

    fn failed(&self, what: &'static str, reason: impl ToString) -> AcceleratorError {
        AcceleratorError::Failed {
            device: self.info.name.clone(),
            what,
            reason: reason.to_string(),
        }
    }

    /// Panics when something was written behind an allocation.
    fn check_guards(&self, by: &str) {
        for (&start, &n_bytes) in lock(&self.allocated).iter() {
            // SAFETY: so much was allocated and written.
            let guard = unsafe { std::slice::from_raw_parts(pointer(start).add(n_bytes), GUARD) };
            assert!(
                guard.iter().all(|&byte| byte == POISON),
                "`{by}` wrote behind an allocation of {n_bytes} bytes"
            );
        }
    }

    /// Panics unless the bytes are within one allocation.
    fn check(&self, at: u64, n_bytes: usize) {
        let is_inside =
            |(&start, &n): (&u64, &usize)| start <= at && at + n_bytes as u64 <= start + n as u64;
        assert!(
            lock(&self.allocated).iter().any(is_inside),
            "{n_bytes} bytes at {at:#x} are not allocated"
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn layout(n_bytes: usize) -> Layout {
    Layout::from_size_align(n_bytes, ALIGNMENT).expect("tests allocate little")
}

impl Accelerator for EmulatedGpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_bytes(&self) -> Result<u64, AcceleratorError> {
        let total = self.total_bytes.load(Ordering::Relaxed);
        Ok(total.saturating_sub(self.allocated_bytes()))
    }

    fn load(&self, module: &'static Module) -> Result<(), AcceleratorError> {
        for kernel in module.kernels {
            let name = CString::new(*kernel).expect("names have no zero byte");
            // SAFETY: the name ends with a zero.
            if unsafe { emulated_has(name.as_ptr()) } == 0 {
                return Err(AcceleratorError::Compile {
                    device: self.info.name.clone(),
                    module: module.name,
                    log: format!("there is no kernel `{kernel}`"),
                });
            }
            lock(&self.loaded).insert(kernel);
        }
        Ok(())
    }

    fn allocate(&self, n_bytes: usize) -> Result<u64, AcceleratorError> {
        let free = self.free_bytes()?;
        if n_bytes as u64 > free {
            return Err(AcceleratorError::OutOfMemory {
                device: self.info.name.clone(),
                needed: n_bytes as u64,
                free,
                total: self.total_bytes.load(Ordering::Relaxed),
            });
        }
        assert!(n_bytes > 0, "`Buffer` allocates no empty memory");
        // SAFETY: the layout has a size; the memory is written to its end.
        let address = unsafe {
            let memory = std::alloc::alloc(layout(n_bytes + GUARD));
            assert!(!memory.is_null(), "the host has this much memory");
            memory.write_bytes(POISON, n_bytes + GUARD);
            memory.expose_provenance() as u64
        };
        lock(&self.allocated).insert(address, n_bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        let n_bytes = lock(&self.allocated)
            .remove(&address)
            .expect("what is freed was allocated");
        // SAFETY: it was allocated with this layout.
        unsafe { std::alloc::dealloc(pointer(address), layout(n_bytes + GUARD)) }
    }

    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), AcceleratorError> {
        self.check(to, bytes.len());
        // SAFETY: the range is allocated, and nobody else's.
        unsafe { pointer(to).copy_from(bytes.as_ptr(), bytes.len()) }
        Ok(())
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), AcceleratorError> {
        self.check(from, bytes.len());
        // SAFETY: as in `upload`.
        unsafe { pointer(from).copy_to(bytes.as_mut_ptr(), bytes.len()) }
        Ok(())
    }

    unsafe fn clear(&self, at: u64, n_bytes: usize) -> Result<(), AcceleratorError> {
        self.check(at, n_bytes);
        // SAFETY: as in `upload`.
        unsafe { pointer(at).write_bytes(0, n_bytes) }
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), AcceleratorError> {
        assert!(
            lock(&self.loaded).contains(launch.kernel),
            "the kernel `{}` is in no loaded module",
            launch.kernel
        );
        let Launch { grid, threads, .. } = *launch;
        if grid.0 == 0 || grid.1 == 0 || grid.1 > 65_535 || !(1..=1024).contains(&threads) {
            return Err(self.failed(
                launch.kernel,
                format!("invalid shape {grid:?} of {threads}"),
            ));
        }
        let name = CString::new(launch.kernel).expect("names have no zero byte");
        let mut pointers: Vec<*mut c_void> = launch
            .arguments
            .iter()
            .map(|argument| argument.pointer())
            .collect();
        self.n_launches.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller answers for the arguments.
        unsafe {
            emulated_launch(
                name.as_ptr(),
                grid.0,
                grid.1,
                threads,
                launch.shared_bytes,
                pointers.as_mut_ptr(),
            );
        }
        self.check_guards(launch.kernel);
        Ok(())
    }

    unsafe fn multiply(
        &self,
        product: &Product,
        a: u64,
        b: u64,
        bias: u64,
        c: u64,
    ) -> Result<(), AcceleratorError> {
        let Product {
            m,
            n,
            k,
            operands,
            result,
            epilogue,
        } = *product;
        assert!(
            result == operands || result == MatrixType::F32,
            "the result is of the operands' type or f32"
        );
        assert!(
            [a, b, bias, c]
                .iter()
                .all(|address| address.is_multiple_of(16)),
            "matrices begin at multiples of 16: {a:#x}, {b:#x}, {bias:#x}, {c:#x}"
        );
        self.check(a, m * k * operands.bytes());
        self.check(b, n * k * operands.bytes());
        self.check(c, m * n * result.bytes());
        if epilogue != Epilogue::None {
            self.check(bias, n * result.bytes());
        }
        self.n_launches.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the ranges were checked.
        unsafe {
            let a: Vec<f32> = (0..m * k).map(|i| value(operands, a, i)).collect();
            let b: Vec<f32> = (0..n * k).map(|i| value(operands, b, i)).collect();
            for i in 0..m {
                for j in 0..n {
                    let pairs = a[i * k..][..k].iter().zip(&b[j * k..][..k]);
                    let sum: f32 = pairs.map(|(x, y)| x * y).sum();
                    let kept = match epilogue {
                        Epilogue::None => sum,
                        Epilogue::BiasRelu => (sum + value(result, bias, j)).max(0.0),
                        Epilogue::BiasGelu => gelu(sum + value(result, bias, j)),
                    };
                    set_value(result, c, i * n + j, kept);
                }
            }
        }
        Ok(())
    }
}

/// The approximation with tanh, as the library of products has it.
fn gelu(x: f32) -> f32 {
    let inner = std::f32::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// # Safety
/// There are so many values.
unsafe fn value(of: MatrixType, matrix: u64, i: usize) -> f32 {
    let at = pointer(matrix + (i * of.bytes()) as u64);
    // SAFETY: the caller's.
    unsafe {
        match of {
            MatrixType::F32 => at.cast::<f32>().read(),
            MatrixType::F16 => at.cast::<f16>().read().to_f32(),
            MatrixType::Bf16 => at.cast::<bf16>().read().to_f32(),
        }
    }
}

/// # Safety
/// There are so many values.
unsafe fn set_value(of: MatrixType, matrix: u64, i: usize, value: f32) {
    let at = pointer(matrix + (i * of.bytes()) as u64);
    // SAFETY: the caller's.
    unsafe {
        match of {
            MatrixType::F32 => at.cast::<f32>().write(value),
            MatrixType::F16 => at.cast::<f16>().write(f16::from_f32(value)),
            MatrixType::Bf16 => at.cast::<bf16>().write(bf16::from_f32(value)),
        }
    }
}
