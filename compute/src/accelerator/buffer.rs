use std::fmt;

use super::{AcceleratorError, SharedAccelerator, Ticket};

/// Memory of a device, given back when it is dropped.
pub struct Buffer {
    device: SharedAccelerator,
    address: u64,
    n_bytes: usize,
}

impl Buffer {
    /// Memory of undefined content. Of 0 bytes it is no memory: its address is 0.
    ///
    /// # Errors
    /// [`AcceleratorError::OutOfMemory`].
    pub fn new(device: &SharedAccelerator, n_bytes: usize) -> Result<Self, AcceleratorError> {
        let address = if n_bytes == 0 {
            0
        } else {
            device.allocate(n_bytes)?
        };
        Ok(Self {
            device: device.clone(),
            address,
            n_bytes,
        })
    }

    /// A copy of bytes.
    ///
    /// # Errors
    /// [`AcceleratorError::OutOfMemory`]; [`AcceleratorError::Failed`].
    pub fn of(device: &SharedAccelerator, bytes: &[u8]) -> Result<Self, AcceleratorError> {
        let buffer = Self::new(device, bytes.len())?;
        buffer.write(0, bytes)?;
        Ok(buffer)
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Where the byte `at` is.
    ///
    /// # Panics
    /// When it is past the end.
    #[must_use]
    pub fn at(&self, at: usize) -> u64 {
        assert!(at <= self.n_bytes, "byte {at} of {} bytes", self.n_bytes);
        self.address + at as u64
    }

    /// Its length in bytes.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Writes bytes from `at` on.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write(&self, at: usize, bytes: &[u8]) -> Result<(), AcceleratorError> {
        self.check(at, bytes.len());
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the range was checked, and the memory lives as long as the buffer.
        unsafe { self.device.upload(bytes, self.address + at as u64) }
    }

    /// Waits for the device and reads the bytes from `at` on.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    ///
    /// # Panics
    /// When there are not so many.
    pub fn read(&self, at: usize, bytes: &mut [u8]) -> Result<(), AcceleratorError> {
        self.check(at, bytes.len());
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: as in `write`; it is finished here.
        let ticket = unsafe {
            self.device
                .start_download(self.address + at as u64, bytes.len())?
        };
        self.device.finish_download(ticket, bytes)
    }

    /// Starts to read the first bytes, as the work queued so far leaves them. The buffer comes back when they are waited for, so that
    /// nothing writes to it before.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    ///
    /// # Panics
    /// When there are not so many.
    pub fn start_read(self, n_bytes: usize) -> Result<Download, AcceleratorError> {
        self.check(0, n_bytes);
        let ticket = (n_bytes > 0)
            // SAFETY: the range was checked; the buffer is kept until the copy is finished.
            .then(|| unsafe { self.device.start_download(self.address, n_bytes) })
            .transpose()?;
        Ok(Download {
            started: Started {
                device: self.device.clone(),
                ticket,
            },
            n_bytes,
            buffer: self,
        })
    }

    /// Sets bytes to zero.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    ///
    /// # Panics
    /// When there are not so many.
    pub fn clear(&self, at: usize, n_bytes: usize) -> Result<(), AcceleratorError> {
        self.check(at, n_bytes);
        if n_bytes == 0 {
            return Ok(());
        }
        // SAFETY: as in `write`.
        unsafe { self.device.clear(self.address + at as u64, n_bytes) }
    }

    fn check(&self, at: usize, n_bytes: usize) {
        assert!(
            at.checked_add(n_bytes)
                .is_some_and(|end| end <= self.n_bytes),
            "{n_bytes} bytes from {at} of {}",
            self.n_bytes
        );
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.n_bytes > 0 {
            // SAFETY: the address is from `allocate`, and nobody has it after this.
            unsafe { self.device.free(self.address) }
        }
    }
}

/// The first bytes of a buffer on their way to the host.
#[derive(Debug)]
pub struct Download {
    // Dropped before the buffer.
    started: Started,
    n_bytes: usize,
    buffer: Buffer,
}

impl Download {
    /// How many.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Waits for the bytes, and returns the buffer that they are from.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`], also for work that was queued before.
    ///
    /// # Panics
    /// When there are more or fewer bytes.
    pub fn wait(mut self, bytes: &mut [u8]) -> Result<Buffer, AcceleratorError> {
        assert_eq!(bytes.len(), self.n_bytes);
        self.started.finish(bytes)?;
        Ok(self.buffer)
    }
}

/// A copy that is finished when this is dropped.
#[derive(Debug)]
struct Started {
    device: SharedAccelerator,
    ticket: Option<Ticket>,
}

impl Started {
    fn finish(&mut self, bytes: &mut [u8]) -> Result<(), AcceleratorError> {
        match self.ticket.take() {
            Some(ticket) => self.device.finish_download(ticket, bytes),
            None => Ok(()),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Nobody wants the bytes any more, and what went wrong is reported by the next call.
        let _ = self.finish(&mut []);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} bytes of {}",
            self.n_bytes,
            self.device.info().name
        )
    }
}
