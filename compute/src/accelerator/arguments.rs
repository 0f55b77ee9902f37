use std::ffi::c_void;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// `unsigned`
    U32(u32),
    /// `float`
    F32(f32),
    /// `unsigned long long`, or any pointer; null is 0.
    U64(u64),
}

impl Argument {
    /// Where its bytes are, as a driver wants to be told.
    #[must_use]
    pub fn pointer(&self) -> *mut c_void {
        match self {
            Self::U32(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::F32(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::U64(value) => std::ptr::from_ref(value).cast_mut().cast(),
        }
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

/// A kernel and how it is to run.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Blocks in x and y, each at least 1.
    pub grid: (u32, u32),
    /// Threads in a block, whole warps.
    pub threads: u32,
    /// Bytes of shared memory whose size the kernel leaves to the launch.
    pub shared_bytes: u32,
    /// What the kernel is called with.
    pub arguments: &'a [Argument],
}
