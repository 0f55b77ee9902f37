//! Page-locked memory, through which copies go, so that the host need not wait for them.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};

use crate::accelerator::Ticket;
use crate::accelerator::ring::Ring;

/// Page-locked bytes for copies to a device.
const RING_BYTES: usize = 16 << 20;
/// What a copy takes of them at once: the next is written while this one is under way.
const CHUNK_BYTES: usize = RING_BYTES / 4;
/// Where places in the ring begin.
const ALIGNMENT: usize = 64;
/// Page-locked bytes of a copy from a device, at least.
const LEAST_BYTES: usize = 1 << 16;
/// Of copies from a device, as many are kept for the next ones.
const MOST_IDLE: usize = 4;

/// Memory of the host that a device copies from and to by itself, but not when it is dropped.
struct Pinned {
    start: NonNull<u8>,
    n_bytes: usize,
    context: Arc<CudaContext>,
}

// SAFETY: it is memory like any other, owned by this.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Zeros.
    fn new(context: &Arc<CudaContext>, n_bytes: usize) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: so many bytes are written before anything is read.
        let start = unsafe {
            let start = result::malloc_host(n_bytes, 0)?.cast::<u8>();
            start.write_bytes(0, n_bytes);
            start
        };
        Ok(Self {
            start: NonNull::new(start).expect("the driver returns memory or an error"),
            n_bytes,
            context: context.clone(),
        })
    }

    /// # Safety
    /// There are so many bytes, and the device does not copy from or to them.
    unsafe fn bytes(&mut self, start: usize, n_bytes: usize) -> &mut [u8] {
        debug_assert!(start + n_bytes <= self.n_bytes);
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(start), n_bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Errors are those of work before, which others report.
        let _ = self.context.bind_to_thread();
        // SAFETY: it is from `malloc_host`, and nobody has it after this.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

/// Copies of one device.
pub(super) struct Copies {
    /// Where work and copies to the device are queued.
    stream: Arc<CudaStream>,
    /// Where copies from the device are queued, which other work does not wait for.
    back: Arc<CudaStream>,
    uploads: Mutex<Uploads>,
    downloads: Mutex<Downloads>,
}

struct Uploads {
    memory: Pinned,
    ring: Ring<CudaEvent>,
}

#[derive(Default)]
struct Downloads {
    started: HashMap<Ticket, Slot>,
    n_started: u64,
    idle: Vec<Slot>,
}

struct Slot {
    memory: Pinned,
    /// Of the copy now in it.
    n_bytes: usize,
    done: CudaEvent,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Not for the context, in which others may record work.
        let _ = self.done.synchronize();
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

impl Copies {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        let context = stream.context();
        Ok(Self {
            back: context.new_stream()?,
            uploads: Mutex::new(Uploads {
                memory: Pinned::new(context, RING_BYTES)?,
                ring: Ring::new(RING_BYTES),
            }),
            downloads: Mutex::default(),
            stream: stream.clone(),
        })
    }

    /// Queues copies of the bytes, piece by piece. Waits where the ring is full of pieces that are still to be copied.
    ///
    /// # Safety
    /// So many bytes are allocated at `to`.
    pub unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), DriverError> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let Uploads { memory, ring } = &mut *uploads;
        for (number, piece) in bytes.chunks(CHUNK_BYTES).enumerate() {
            let n_bytes = piece.len().next_multiple_of(ALIGNMENT);
            let place = ring.take(n_bytes, |copied| copied.synchronize())?;
            // SAFETY: the ring has waited for who copied from there.
            let staged = unsafe { memory.bytes(place.start, piece.len()) };
            staged.copy_from_slice(piece);
            let to = to + (number * CHUNK_BYTES) as u64;
            // SAFETY: the caller's; the bytes stay until the event that is recorded behind the copy.
            unsafe { result::memcpy_htod_async(to, staged, self.stream.cu_stream())? };
            ring.set(place, self.stream.record_event(None)?);
        }
        Ok(())
    }

    /// Queues a copy from the device behind the work so far, on a stream of its own.
    ///
    /// # Safety
    /// As [`crate::accelerator::Accelerator::start_download`].
    pub unsafe fn start_download(&self, from: u64, n_bytes: usize) -> Result<Ticket, DriverError> {
        let mut slot = self.slot(n_bytes)?;
        self.back.join(&self.stream)?;
        // SAFETY: nobody else has the slot, and it is kept until its event; the rest is the caller's.
        unsafe {
            let bytes = slot.memory.bytes(0, n_bytes);
            result::memcpy_dtoh_async(bytes, from, self.back.cu_stream())?;
        }
        if let Err(error) = slot.done.record(&self.back) {
            let _ = self.back.synchronize(); // the copy may be under way
            return Err(error);
        }
        let mut downloads = self.downloads();
        downloads.n_started += 1;
        let number = downloads.n_started;
        downloads.started.insert(Ticket(number), slot);
        Ok(Ticket(number))
    }

    /// Waits for a copy and hands over its first bytes.
    pub fn finish_download(&self, ticket: &Ticket, bytes: &mut [u8]) -> Result<(), DriverError> {
        let slot = self.downloads().started.remove(ticket);
        let mut slot = slot.expect("a copy is finished once, by the device that started it");
        assert!(bytes.len() <= slot.n_bytes, "no more than was copied");
        slot.done.synchronize()?;
        // SAFETY: the copy is done.
        bytes.copy_from_slice(unsafe { slot.memory.bytes(0, bytes.len()) });
        let mut downloads = self.downloads();
        downloads.idle.push(slot);
        if downloads.idle.len() > MOST_IDLE {
            let idle = downloads.idle.iter().enumerate();
            let smallest = idle.min_by_key(|(_, slot)| slot.memory.n_bytes);
            let (smallest, _) = smallest.expect("one was pushed");
            let dropped = downloads.idle.swap_remove(smallest);
            drop(downloads);
            drop(dropped);
        }
        Ok(())
    }

    /// The smallest of the idle slots that has room, else a new one.
    fn slot(&self, n_bytes: usize) -> Result<Slot, DriverError> {
        let mut downloads = self.downloads();
        let fitting = downloads.idle.iter().enumerate();
        let fitting = fitting.filter(|(_, slot)| slot.memory.n_bytes >= n_bytes);
        let smallest = fitting.min_by_key(|(_, slot)| slot.memory.n_bytes);
        if let Some((smallest, _)) = smallest {
            let mut slot = downloads.idle.swap_remove(smallest);
            slot.n_bytes = n_bytes;
            return Ok(slot);
        }
        drop(downloads);
        let context = self.stream.context();
        let most_bytes = n_bytes.next_power_of_two().max(LEAST_BYTES);
        Ok(Slot {
            memory: Pinned::new(context, most_bytes)?,
            n_bytes,
            done: context.new_event(None)?,
        })
    }

    fn downloads(&self) -> MutexGuard<'_, Downloads> {
        self.downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
