//! A GPU in slow motion, for machines without one: the kernels of trawl, compiled as C++ for the host.
//!
//! [`EmulatedGpu`] is an [`Accelerator`] whose memory is the host's. Kernels run one block after the other and the threads of a block by
//! turns, so their results are those of one possible order of events; a barrier that not all threads reach ends the process.
//! Work is done as late as it may be, when somebody waits for it, and a test fails that frees or writes what is on its way to the host, or
//! frees what a recording names.
//! Memory is of undefined content, as on a device: it is filled with a pattern that is neither zero nor a plausible number.
//! Its size is the test's choice, so running out of it can be tried.

use std::alloc::Layout;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};

use compute::accelerator::{
    Accelerator, AcceleratorError, Argument, DeviceInfo, Epilogue, Launch, MatrixType, Module,
    Product, Recording, Ticket, Transposed,
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
    this: Weak<Self>,
    info: DeviceInfo,
    total_bytes: AtomicU64,
    state: Mutex<State>,
    loaded: Mutex<HashSet<&'static str>>,
    n_launches: AtomicUsize,
    n_waits: AtomicUsize,
    most_downloads: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Length by address.
    allocated: HashMap<u64, usize>,
    /// What is still to be done.
    queue: VecDeque<Work>,
    /// By the number of their ticket.
    downloads: HashMap<u64, Copy>,
    n_downloads: u64,
    /// What threads record now.
    recording: HashMap<ThreadId, Vec<Work>>,
    recorded: HashMap<u64, Vec<Work>>,
    n_recorded: u64,
}

#[derive(Clone, Debug)]
enum Work {
    Upload {
        bytes: Vec<u8>,
        to: u64,
    },
    Clear {
        at: u64,
        n_bytes: usize,
    },
    Launch {
        kernel: &'static str,
        grid: (u32, u32),
        threads: u32,
        shared_bytes: u32,
        arguments: Vec<Argument>,
    },
    Multiply {
        product: Product,
        /// Of the operands, the bias and the result.
        at: [u64; 4],
    },
    /// The ticket's number.
    Download(u64),
    Free {
        address: u64,
        n_bytes: usize,
    },
}

/// Bytes on their way to the host.
#[derive(Debug)]
struct Copy {
    from: u64,
    /// As they were when it was their turn.
    bytes: Vec<u8>,
}

impl EmulatedGpu {
    /// A device with so much memory.
    #[must_use]
    pub fn new(name: &str, total_bytes: u64) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            info: DeviceInfo {
                name: name.to_owned(),
                model: "emulated".to_owned(),
                total_bytes,
                n_multiprocessors: 2,
            },
            total_bytes: AtomicU64::new(total_bytes),
            state: Mutex::default(),
            loaded: Mutex::default(),
            n_launches: AtomicUsize::new(0),
            n_waits: AtomicUsize::new(0),
            most_downloads: AtomicUsize::new(0),
        })
    }

    /// Gives it another amount of memory, as if others had taken or left some.
    pub fn set_total_bytes(&self, total_bytes: u64) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Kernels and products that were queued so far, and recordings of them.
    pub fn n_launches(&self) -> usize {
        self.n_launches.load(Ordering::Relaxed)
    }

    /// How often somebody waited for it.
    pub fn n_waits(&self) -> usize {
        self.n_waits.load(Ordering::Relaxed)
    }

    /// Copies to the host that were under way at once, at most.
    pub fn most_downloads(&self) -> usize {
        self.most_downloads.load(Ordering::Relaxed)
    }

    /// Recordings that are there.
    pub fn n_recordings(&self) -> usize {
        lock(&self.state).recorded.len()
    }

    /// Bytes that are allocated.
    pub fn allocated_bytes(&self) -> u64 {
        let state = lock(&self.state);
        state.allocated.values().map(|&n| n as u64).sum()
    }

    fn failed(&self, what: &'static str, reason: impl ToString) -> AcceleratorError {
        AcceleratorError::Failed {
            device: self.info.name.clone(),
            what,
            reason: reason.to_string(),
        }
    }

    /// Queues work on memory that is allocated.
    fn queue(&self, memory: &[(u64, usize)], work: Work) {
        let mut state = lock(&self.state);
        for &(at, n_bytes) in memory {
            state.check(at, n_bytes);
        }
        let is_launch = matches!(work, Work::Launch { .. } | Work::Multiply { .. });
        if let Some(recording) = state.recording.get_mut(&thread::current().id()) {
            assert!(is_launch, "kernels and products are recorded: {work:?}");
            recording.push(work);
            return;
        }
        if is_launch {
            self.n_launches.fetch_add(1, Ordering::Relaxed);
        }
        state.queue.push_back(work);
    }
}

impl State {
    /// Does all that was queued.
    fn run(&mut self) {
        while let Some(work) = self.queue.pop_front() {
            // SAFETY: memory was checked when the work was queued, and is given back behind it; callers answered for the arguments.
            unsafe { self.execute(work) }
        }
    }

    /// # Safety
    /// The memory is allocated, and arguments are those of the kernel.
    unsafe fn execute(&mut self, work: Work) {
        match work {
            // SAFETY: the caller's.
            Work::Upload { bytes, to } => unsafe {
                pointer(to).copy_from(bytes.as_ptr(), bytes.len());
            },
            // SAFETY: as above.
            Work::Clear { at, n_bytes } => unsafe { pointer(at).write_bytes(0, n_bytes) },
            Work::Launch {
                kernel,
                grid,
                threads,
                shared_bytes,
                arguments,
            } => {
                let name = CString::new(kernel).expect("names have no zero byte");
                let pointers = arguments.iter().map(Argument::pointer);
                let mut pointers: Vec<*mut c_void> = pointers.collect();
                // SAFETY: as above; the name ends with a zero.
                unsafe {
                    emulated_launch(
                        name.as_ptr(),
                        grid.0,
                        grid.1,
                        threads,
                        shared_bytes,
                        pointers.as_mut_ptr(),
                    );
                }
                self.check_guards(kernel);
            }
            // SAFETY: as above.
            Work::Multiply { product, at } => unsafe { multiply(&product, at) },
            Work::Download(number) => {
                if let Some(Copy { from, bytes }) = self.downloads.get_mut(&number) {
                    // SAFETY: as above.
                    unsafe { pointer(*from).copy_to(bytes.as_mut_ptr(), bytes.len()) }
                }
            }
            // SAFETY: it was allocated with this layout.
            Work::Free { address, n_bytes } => unsafe {
                std::alloc::dealloc(pointer(address), layout(n_bytes + GUARD));
            },
        }
    }

    /// Whether recorded work names some of these bytes.
    fn is_recorded(&self, bytes: &Range<u64>) -> bool {
        let mut work = self.recorded.values().flatten();
        work.any(|work| match work {
            Work::Launch { arguments, .. } => arguments
                .iter()
                .any(|argument| matches!(argument, Argument::U64(at) if bytes.contains(at))),
            Work::Multiply { at, .. } => at.iter().any(|at| bytes.contains(at)),
            _ => false,
        })
    }

    /// Panics when something was written behind an allocation.
    fn check_guards(&self, by: &str) {
        for (&start, &n_bytes) in &self.allocated {
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
            self.allocated.iter().any(is_inside),
            "{n_bytes} bytes at {at:#x} are not allocated"
        );
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for work in self.queue.drain(..) {
            if let Work::Free { address, n_bytes } = work {
                // SAFETY: it was allocated with this layout, and nothing comes after this.
                unsafe { std::alloc::dealloc(pointer(address), layout(n_bytes + GUARD)) }
            }
        }
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
        lock(&self.state).allocated.insert(address, n_bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        let mut state = lock(&self.state);
        let n_bytes = state.allocated.remove(&address);
        let n_bytes = n_bytes.expect("what is freed was allocated");
        let bytes = address..address + n_bytes as u64;
        let mut downloads = state.downloads.values();
        assert!(
            !downloads.any(|copy| bytes.contains(&copy.from)),
            "{n_bytes} bytes were freed on their way to the host"
        );
        assert!(
            !state.is_recorded(&bytes),
            "{n_bytes} bytes were freed that a recording names"
        );
        state.queue.push_back(Work::Free { address, n_bytes });
    }

    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), AcceleratorError> {
        let memory = [(to, bytes.len())];
        let bytes = bytes.to_vec();
        self.queue(&memory, Work::Upload { bytes, to });
        Ok(())
    }

    unsafe fn start_download(&self, from: u64, n_bytes: usize) -> Result<Ticket, AcceleratorError> {
        assert!(n_bytes > 0, "`Buffer` copies nothing that is empty");
        let mut state = lock(&self.state);
        state.check(from, n_bytes);
        state.n_downloads += 1;
        let number = state.n_downloads;
        let bytes = vec![POISON; n_bytes];
        state.downloads.insert(number, Copy { from, bytes });
        state.queue.push_back(Work::Download(number));
        self.most_downloads
            .fetch_max(state.downloads.len(), Ordering::Relaxed);
        Ok(Ticket(number))
    }

    fn finish_download(&self, ticket: Ticket, bytes: &mut [u8]) -> Result<(), AcceleratorError> {
        self.n_waits.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&self.state);
        // What was queued after it may be done by now.
        state.run();
        let copy = state.downloads.remove(&ticket.0);
        let copy = copy.expect("a copy is finished once, by the device that started it");
        // SAFETY: it is allocated: freeing it would have been found.
        let now = unsafe { std::slice::from_raw_parts(pointer(copy.from), copy.bytes.len()) };
        assert!(
            now == copy.bytes,
            "{} bytes were written on their way to the host",
            now.len()
        );
        bytes.copy_from_slice(&copy.bytes[..bytes.len()]);
        Ok(())
    }

    unsafe fn clear(&self, at: u64, n_bytes: usize) -> Result<(), AcceleratorError> {
        self.queue(&[(at, n_bytes)], Work::Clear { at, n_bytes });
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), AcceleratorError> {
        assert!(
            lock(&self.loaded).contains(launch.kernel),
            "the kernel `{}` is in no loaded module",
            launch.kernel
        );
        let Launch {
            kernel,
            grid,
            threads,
            shared_bytes,
            arguments,
        } = *launch;
        if grid.0 == 0 || grid.1 == 0 || grid.1 > 65_535 || !(1..=1024).contains(&threads) {
            return Err(self.failed(kernel, format!("invalid shape {grid:?} of {threads}")));
        }
        let arguments = arguments.to_vec();
        for &argument in &arguments {
            let named = |work: &Work| match (work, argument) {
                (&Work::Free { address, n_bytes }, Argument::U64(at)) => {
                    (address..address + n_bytes as u64).contains(&at)
                }
                _ => false,
            };
            assert!(
                !lock(&self.state).queue.iter().any(named),
                "`{kernel}` is given memory that was freed before"
            );
        }
        self.queue(
            &[],
            Work::Launch {
                kernel,
                grid,
                threads,
                shared_bytes,
                arguments,
            },
        );
        Ok(())
    }

    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), AcceleratorError>,
    ) -> Result<Box<dyn Recording>, AcceleratorError> {
        let thread = thread::current().id();
        let before = lock(&self.state).recording.insert(thread, Vec::new());
        assert!(before.is_none(), "no recording is part of another");
        let worked = work();
        let mut state = lock(&self.state);
        let recording = state.recording.remove(&thread);
        worked?;
        let work = recording.expect("it was started");
        state.n_recorded += 1;
        let number = state.n_recorded;
        state.recorded.insert(number, work);
        let gpu = self.this.upgrade().expect("it was made as an `Arc`");
        Ok(Box::new(Recorded { gpu, number }))
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
            adds,
            epilogue,
            ..
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
        assert!(!adds || epilogue == Epilogue::None, "sums end as they are");
        let mut memory = vec![
            (a, m * k * operands.bytes()),
            (b, n * k * operands.bytes()),
            (c, m * n * result.bytes()),
        ];
        if epilogue != Epilogue::None {
            memory.push((bias, n * result.bytes()));
        }
        self.queue(
            &memory,
            Work::Multiply {
                product: *product,
                at: [a, b, bias, c],
            },
        );
        Ok(())
    }
}

/// Work that was recorded.
#[derive(Debug)]
struct Recorded {
    gpu: Arc<EmulatedGpu>,
    number: u64,
}

impl Recording for Recorded {
    unsafe fn replay(&self) -> Result<(), AcceleratorError> {
        let mut state = lock(&self.gpu.state);
        let work = state.recorded[&self.number].clone();
        state.queue.extend(work);
        self.gpu.n_launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        lock(&self.gpu.state).recorded.remove(&self.number);
    }
}

/// # Safety
/// The matrices and the bias are there.
unsafe fn multiply(product: &Product, [a, b, bias, c]: [u64; 4]) {
    let Product {
        m,
        n,
        k,
        transposed,
        operands,
        result,
        adds,
        epilogue,
    } = *product;
    // SAFETY: the caller's.
    unsafe {
        // Both by rows of k.
        let a: Vec<f32> = match transposed {
            Transposed::First => transpose((k, m), |i| value(operands, a, i)),
            _ => (0..m * k).map(|i| value(operands, a, i)).collect(),
        };
        let b: Vec<f32> = match transposed {
            Transposed::Second => (0..n * k).map(|i| value(operands, b, i)).collect(),
            _ => transpose((k, n), |i| value(operands, b, i)),
        };
        for i in 0..m {
            for j in 0..n {
                let pairs = a[i * k..][..k].iter().zip(&b[j * k..][..k]);
                let sum: f32 = pairs.map(|(x, y)| x * y).sum();
                let kept = match epilogue {
                    Epilogue::None if adds => value(result, c, i * n + j) + sum,
                    Epilogue::None => sum,
                    Epilogue::BiasRelu => (sum + value(result, bias, j)).max(0.0),
                    Epilogue::BiasGelu => gelu(sum + value(result, bias, j)),
                };
                set_value(result, c, i * n + j, kept);
            }
        }
    }
}

/// The approximation with tanh, as the library of products has it.
fn gelu(x: f32) -> f32 {
    let inner = std::f32::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

/// The values of a matrix of this shape, column by column.
fn transpose((n_rows, n_columns): (usize, usize), value: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..n_columns)
        .flat_map(|column| (0..n_rows).map(move |row| row * n_columns + column))
        .map(value)
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts to copy 8 of 16 bytes that were uploaded, and does something before the copy is finished.
    fn check(before: impl FnOnce(&EmulatedGpu, u64)) {
        let gpu = EmulatedGpu::new("gpu:0", 1 << 10);
        let address = gpu.allocate(16).expect("there is room");
        let mut bytes = [0; 8];
        // SAFETY: it is allocated; what the tests do wrong is found before it is done.
        unsafe {
            gpu.upload(&[7; 16], address).expect("it is queued");
            let ticket = gpu.start_download(address, 8).expect("it is queued");
            before(&gpu, address);
            gpu.finish_download(ticket, &mut bytes).expect("it is done");
            gpu.free(address);
        }
        assert_eq!((bytes, gpu.n_waits()), ([7; 8], 1));
        assert_eq!(gpu.allocated_bytes(), 0);
    }

    #[test]
    fn what_is_not_on_its_way_may_be_written() {
        // SAFETY: it is allocated.
        check(|gpu, address| unsafe { gpu.clear(address + 8, 8).expect("it is queued") });
    }

    #[test]
    #[should_panic(expected = "8 bytes were written on their way to the host")]
    fn what_is_on_its_way_is_not_written() {
        // SAFETY: it is allocated.
        check(|gpu, address| unsafe { gpu.clear(address + 7, 1).expect("it is queued") });
    }

    #[test]
    fn what_is_recorded_is_done_when_it_is_replayed() {
        let gpu = EmulatedGpu::new("gpu:0", 1 << 10);
        let product = Product::new((1, 1, 1), MatrixType::F32, MatrixType::F32);
        let [a, b, c] = [0; 3].map(|_| gpu.allocate(4).expect("there is room"));
        let read = |expected: f32| {
            let mut bytes = [0; 4];
            // SAFETY: it is allocated, and nobody writes to it meanwhile.
            let ticket = unsafe { gpu.start_download(c, 4).expect("it is queued") };
            gpu.finish_download(ticket, &mut bytes).expect("it is done");
            assert_eq!(f32::from_le_bytes(bytes), expected);
        };
        // SAFETY: the matrices have a value each.
        unsafe {
            let upload = |value: f32, to| gpu.upload(&value.to_le_bytes(), to);
            upload(3.0, b).expect("it is queued");
            upload(0.0, c).expect("it is queued");
            let recording = gpu.record(&mut || gpu.multiply(&product, a, b, 0, c));
            let recording = recording.expect("it is recorded");
            read(0.0);
            for value in [2.0, 5.0] {
                upload(value, a).expect("it is queued");
                recording.replay().expect("it is queued");
                read(3.0 * value);
            }
            assert_eq!((gpu.n_launches(), gpu.n_recordings()), (2, 1));
            drop(recording);
            assert_eq!(gpu.n_recordings(), 0);
            for address in [a, b, c] {
                gpu.free(address);
            }
        }
    }

    #[test]
    #[should_panic(expected = "4 bytes were freed that a recording names")]
    fn what_a_recording_names_is_not_freed() {
        let gpu = EmulatedGpu::new("gpu:0", 1 << 10);
        let arguments = [Argument::U64(gpu.allocate(4).expect("there is room"))];
        lock(&gpu.loaded).insert("kernel");
        let launch = Launch {
            kernel: "kernel",
            grid: (1, 1),
            threads: 32,
            shared_bytes: 0,
            arguments: &arguments,
        };
        // SAFETY: it is never run.
        let _recording = gpu.record(&mut || unsafe { gpu.launch(&launch) });
        let [Argument::U64(address)] = arguments else {
            unreachable!("an address");
        };
        // SAFETY: the device refuses.
        unsafe { gpu.free(address) }
    }

    #[test]
    #[should_panic(expected = "`kernel` is given memory that was freed before")]
    fn what_was_freed_is_given_to_no_kernel() {
        let gpu = EmulatedGpu::new("gpu:0", 1 << 10);
        let address = gpu.allocate(4).expect("there is room");
        lock(&gpu.loaded).insert("kernel");
        // SAFETY: it was allocated, and the device refuses the launch.
        unsafe {
            gpu.free(address);
            let launched = gpu.launch(&Launch {
                kernel: "kernel",
                grid: (1, 1),
                threads: 32,
                shared_bytes: 0,
                arguments: &[Argument::U64(address)],
            });
            launched.expect("it does not come to this");
        }
    }

    #[test]
    #[should_panic(expected = "16 bytes were freed on their way to the host")]
    fn what_is_on_its_way_is_not_freed() {
        // SAFETY: it is allocated, and the device refuses.
        check(|gpu, address| unsafe { gpu.free(address) });
    }
}
