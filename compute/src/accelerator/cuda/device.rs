//! A device: its memory, its one stream, its kernels.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUgraphInstantiate_flags,
    CUmemPool_attribute as PoolAttribute, CUresult,
    CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, cuDriverGetVersion,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaStream, DriverError, result, sys as driver_sys,
};
use cudarc::{cublaslt, nvrtc};

use super::kernels::Compiler;
use super::product::{ProductError, Products};
use super::staging::Copies;
use super::{CudaDevice, CudaInfo};
use crate::accelerator::{
    Accelerator, AcceleratorError, DeviceInfo, Launch, Module, Product, Recording,
    SharedAccelerator, Ticket,
};

/// Of the first devices that multiply matrices of bfloat16.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);
/// Shared memory that a launch may have without being asked for more.
const ORDINARY_SHARED_BYTES: u32 = 48 * 1024;

pub(super) fn info() -> Result<CudaInfo, AcceleratorError> {
    let n_devices = n_devices()?;
    let mut version = 0;
    // SAFETY: the driver is there, and writes one number.
    unsafe { cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|error| not_available(describe(error)))?;
    let devices = (0..n_devices).map(|number| {
        let context = context(number)?;
        let describe = |error| failed(&name(number), "asking for its properties", error);
        let (major, minor) = context.compute_capability().map_err(describe)?;
        let (free, _) = context.mem_get_info().map_err(describe)?;
        Ok(CudaDevice {
            info: device_info(number, &context).map_err(describe)?,
            compute_capability: format!("{major}.{minor}"),
            free_bytes: free as u64,
        })
    });
    Ok(CudaInfo {
        driver: format!("{}.{}", version / 1000, version % 1000 / 10),
        devices: devices.collect::<Result<_, _>>()?,
        missing: missing(),
    })
}

pub(super) fn open(
    number: usize,
    kernels: Option<&Path>,
) -> Result<SharedAccelerator, AcceleratorError> {
    let n_devices = n_devices()?;
    if number >= n_devices {
        return Err(not_available(format!(
            "there is no device {number} ({n_devices} found)"
        )));
    }
    if let [library, ..] = missing()[..] {
        return Err(not_available(format!("{library} is not found")));
    }
    let context = context(number)?;
    let describe = |error| failed(&name(number), "opening it", error);
    let info = device_info(number, &context).map_err(describe)?;
    let (major, minor) = context.compute_capability().map_err(describe)?;
    if (major, minor) < LEAST_CAPABILITY {
        let (least_major, least_minor) = LEAST_CAPABILITY;
        return Err(not_available(format!(
            "{}, {}, has compute capability {major}.{minor}, and {least_major}.{least_minor} is the least",
            info.name, info.model
        )));
    }
    let stream = context.new_stream().map_err(describe)?;
    Ok(Arc::new(Cuda {
        pool: Pool::new(&context).map_err(describe)?,
        compiler: Compiler::new(kernels, (major, minor)),
        products: Products::new(&stream).map_err(|error| product_failed(&info.name, error))?,
        copies: Copies::new(&stream).map_err(describe)?,
        recorder: Recorder {
            stream: context.new_stream().map_err(describe)?,
            turn: Mutex::default(),
            thread: Mutex::default(),
        },
        kernels: Mutex::default(),
        info,
        stream,
        context,
    }))
}

/// The libraries besides the driver that are not there.
fn missing() -> Vec<&'static str> {
    // SAFETY: looking for a library runs its constructors, which are NVIDIA's.
    let (compiler, products) = unsafe {
        (
            nvrtc::sys::is_culib_present(),
            cublaslt::sys::is_culib_present(),
        )
    };
    let libraries = [
        (compiler, "libnvrtc (the compiler of kernels)"),
        (products, "libcublasLt (matrix products)"),
    ];
    let missing = libraries.into_iter().filter(|(is_there, _)| !is_there);
    missing.map(|(_, name)| name).collect()
}

fn n_devices() -> Result<usize, AcceleratorError> {
    // SAFETY: as in `missing`.
    if !unsafe { driver_sys::is_culib_present() } {
        return Err(not_available(
            "NVIDIA's driver (libcuda) is not found".to_owned(),
        ));
    }
    let n = result::init()
        .and_then(|()| CudaContext::device_count())
        .map_err(|error| not_available(describe(error)))?;
    match usize::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(not_available("the driver finds no device".to_owned())),
    }
}

fn context(number: usize) -> Result<Arc<CudaContext>, AcceleratorError> {
    CudaContext::new(number).map_err(|error| failed(&name(number), "opening it", error))
}

fn name(number: usize) -> String {
    format!("cuda:{number}")
}

fn device_info(number: usize, context: &CudaContext) -> Result<DeviceInfo, DriverError> {
    let n_multiprocessors =
        context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    Ok(DeviceInfo {
        name: name(number),
        model: context.name()?,
        total_bytes: context.total_mem()? as u64,
        n_multiprocessors: n_multiprocessors.cast_unsigned(),
    })
}

/// The driver's name of an error, and what it says about it.
fn describe(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(
            |_| String::new(),
            |text| text.to_string_lossy().into_owned(),
        )
    };
    format!(
        "{}: {}",
        text(error.error_name()),
        text(error.error_string())
    )
}

fn not_available(reason: String) -> AcceleratorError {
    AcceleratorError::NotAvailable { reason }
}

fn failed(device: &str, what: &'static str, error: DriverError) -> AcceleratorError {
    AcceleratorError::Failed {
        device: device.to_owned(),
        what,
        reason: describe(error),
    }
}

fn product_failed(device: &str, error: ProductError) -> AcceleratorError {
    const WHAT: &str = "a matrix product";
    match error {
        ProductError::Driver(error) => failed(device, WHAT, error),
        ProductError::Library(CublasError(status)) => AcceleratorError::Failed {
            device: device.to_owned(),
            what: WHAT,
            reason: format!("{status:?}"),
        },
    }
}

/// The device's pool, which allocations come from. What is freed stays in it: without that every wait gives memory back to the driver,
/// and a step of training takes hundreds of buffers.
struct Pool(driver_sys::CUmemoryPool);

// SAFETY: the driver lets any thread use a pool.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    fn new(context: &CudaContext) -> Result<Self, DriverError> {
        let mut threshold = u64::MAX;
        // SAFETY: the device is one of the driver's, and the attribute is a number of 64 bits.
        unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device())?;
            let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let value = ptr::from_mut(&mut threshold).cast();
            result::mem_pool::set_attribute(pool, attribute, value)?;
            Ok(Self(pool))
        }
    }

    /// Gives back what nobody uses.
    fn give_back(&self) -> Result<(), DriverError> {
        // SAFETY: it is the device's pool.
        unsafe { result::mem_pool::trim_to(self.0, 0) }
    }

    /// Bytes that it has taken from the driver, and that nobody uses.
    fn n_unused_bytes(&self) -> Result<u64, DriverError> {
        let read = |attribute| {
            let mut n_bytes = 0_u64;
            let value = ptr::from_mut(&mut n_bytes).cast();
            // SAFETY: these attributes are numbers of 64 bits.
            unsafe { result::mem_pool::get_attribute(self.0, attribute, value) }.map(|()| n_bytes)
        };
        let reserved = read(PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        Ok(reserved.saturating_sub(read(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
    }
}

struct Cuda {
    pool: Pool,
    info: DeviceInfo,
    compiler: Compiler,
    products: Products,
    /// By name.
    kernels: Mutex<HashMap<&'static str, CudaFunction>>,
    copies: Copies,
    recorder: Recorder,
    /// All work but copies to the host is queued here, in order.
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

/// Where work is recorded.
struct Recorder {
    /// Nothing runs here: all of it is recorded.
    stream: Arc<CudaStream>,
    /// Whose turn it is: one at a time.
    turn: Mutex<()>,
    /// Whose work is recorded now.
    thread: Mutex<Option<ThreadId>>,
}

impl Recorder {
    fn thread(&self) -> Option<ThreadId> {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_thread(&self, thread: Option<ThreadId>) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = thread;
    }
}

/// A graph of work, which runs on the stream of its device.
struct Recorded {
    device: String,
    graph: CudaGraph,
    stream: Arc<CudaStream>,
}

// SAFETY: the driver wants graphs used by one thread at a time, not by one: whoever has it uses it.
unsafe impl Send for Recorded {}

impl Recording for Recorded {
    unsafe fn replay(&self) -> Result<(), AcceleratorError> {
        let bound = self.stream.context().bind_to_thread();
        // SAFETY: the graph is there, and the caller answers for what it does.
        let queued = bound.and_then(|()| unsafe {
            result::graph::launch(self.graph.cu_graph_exec(), self.stream.cu_stream())
        });
        queued.map_err(|error| failed(&self.device, "queueing recorded work", error))
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // The graph's own drop asks the driver, and errors are those of work before.
        let _ = self.stream.context().bind_to_thread();
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "work for {}", self.device)
    }
}

impl Cuda {
    /// Where the kernels and products of this thread go.
    fn target(&self) -> &CudaStream {
        match self.recorder.thread() {
            Some(thread) if thread == thread::current().id() => &self.recorder.stream,
            _ => &self.stream,
        }
    }

    /// Does something with the context made current, which it must be in every thread that talks to the driver.
    fn with<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(driver_sys::CUstream) -> Result<T, DriverError>,
    ) -> Result<T, AcceleratorError> {
        let done = self.context.bind_to_thread();
        done.and_then(|()| work(self.stream.cu_stream()))
            .map_err(|error| failed(&self.info.name, what, error))
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {}", self.info.name, self.info.model)
    }
}

impl Accelerator for Cuda {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_bytes(&self) -> Result<u64, AcceleratorError> {
        self.with("asking for free memory", |_| {
            // What was freed is only back after the work before it.
            self.stream.synchronize()?;
            let (free, _) = result::mem_get_info()?;
            Ok(free as u64 + self.pool.n_unused_bytes()?)
        })
    }

    fn load(&self, module: &'static Module) -> Result<(), AcceleratorError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if module.kernels.iter().all(|name| kernels.contains_key(name)) {
            return Ok(());
        }
        let failed = |error| failed(&self.info.name, "loading kernels", error);
        // What was kept may be damaged, or of a compiler that is newer than the driver.
        let kept = self.compiler.kept(module);
        let kept = kept.and_then(|ptx| self.context.load_module(ptx).ok());
        let loaded = match kept {
            Some(loaded) => loaded,
            None => {
                let ptx = self.compiler.compile(&self.info.name, module)?;
                self.context.load_module(ptx).map_err(failed)?
            }
        };
        for name in module.kernels {
            kernels.insert(name, loaded.load_function(name).map_err(failed)?);
        }
        Ok(())
    }

    fn allocate(&self, n_bytes: usize) -> Result<u64, AcceleratorError> {
        // SAFETY: the memory is only reached through the methods here, which queue on the same stream.
        let take = |stream| unsafe {
            match result::malloc_async(stream, n_bytes) {
                Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
                allocated => allocated.map(Some),
            }
        };
        let allocated = self.with("allocating memory", |stream| match take(stream)? {
            Some(address) => Ok(Some(address)),
            None => {
                // What the pool holds in pieces may do in one.
                self.stream.synchronize()?;
                self.pool.give_back()?;
                take(stream)
            }
        });
        match allocated? {
            Some(address) => Ok(address),
            None => Err(AcceleratorError::OutOfMemory {
                device: self.info.name.clone(),
                needed: n_bytes as u64,
                free: self.free_bytes()?,
                total: self.info.total_bytes,
            }),
        }
    }

    unsafe fn free(&self, address: u64) {
        // An error here is one of work that was queued before, and the next call reports it.
        // SAFETY: the caller's.
        let _ = self.with("freeing memory", |stream| unsafe {
            result::free_async(address, stream)
        });
    }

    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), AcceleratorError> {
        // SAFETY: the caller's.
        self.with("copying to the device", |_| unsafe {
            self.copies.upload(bytes, to)
        })
    }

    unsafe fn start_download(&self, from: u64, n_bytes: usize) -> Result<Ticket, AcceleratorError> {
        // SAFETY: the caller's.
        self.with("copying from the device", |_| unsafe {
            self.copies.start_download(from, n_bytes)
        })
    }

    fn finish_download(&self, ticket: Ticket, bytes: &mut [u8]) -> Result<(), AcceleratorError> {
        self.with("copying from the device", |_| {
            self.copies.finish_download(&ticket, bytes)
        })
    }

    unsafe fn clear(&self, at: u64, n_bytes: usize) -> Result<(), AcceleratorError> {
        // SAFETY: the caller's.
        self.with("clearing memory", |stream| unsafe {
            result::memset_d8_async(at, 0, n_bytes, stream)
        })
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), AcceleratorError> {
        let function = {
            let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
            let function = kernels.get(launch.kernel);
            function.expect("the kernel's module was loaded").clone()
        };
        let mut arguments: Vec<*mut c_void> = launch
            .arguments
            .iter()
            .map(|argument| argument.pointer())
            .collect();
        let target = self.target();
        self.with(launch.kernel, |_| {
            if launch.shared_bytes > ORDINARY_SHARED_BYTES {
                function.set_attribute(
                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    launch.shared_bytes.cast_signed(),
                )?;
            }
            // SAFETY: the caller's; the arguments are copied by the call.
            unsafe {
                result::launch_kernel(
                    function.cu_function(),
                    (launch.grid.0, launch.grid.1, 1),
                    (launch.threads, 1, 1),
                    launch.shared_bytes,
                    target.cu_stream(),
                    &mut arguments,
                )
            }
        })
    }

    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), AcceleratorError>,
    ) -> Result<Box<dyn Recording>, AcceleratorError> {
        const WHAT: &str = "recording work";
        let Recorder { stream, turn, .. } = &self.recorder;
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Other threads go on with their work, on other streams.
        self.with(WHAT, |_| {
            stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        })?;
        self.recorder.set_thread(Some(thread::current().id()));
        let worked = catch_unwind(AssertUnwindSafe(work));
        self.recorder.set_thread(None);
        // Also after an error or a panic, so that the stream is there for the next.
        let graph = self.with(WHAT, |_| stream.end_capture(CUgraphInstantiate_flags(0)));
        worked.unwrap_or_else(|panic| resume_unwind(panic))?;
        let graph = graph?.ok_or_else(|| AcceleratorError::Failed {
            device: self.info.name.clone(),
            what: WHAT,
            reason: "there was none".to_owned(),
        })?;
        Ok(Box::new(Recorded {
            device: self.info.name.clone(),
            graph,
            stream: self.stream.clone(),
        }))
    }

    unsafe fn multiply(
        &self,
        product: &Product,
        a: u64,
        b: u64,
        bias: u64,
        c: u64,
    ) -> Result<(), AcceleratorError> {
        self.with("making a context current", |_| Ok(()))?;
        // SAFETY: the caller's.
        let queued = unsafe {
            self.products
                .multiply(product, a, b, bias, c, self.target())
        };
        queued.map_err(|error| product_failed(&self.info.name, error))
    }
}
