//! Tiles of AMX: whether processor, system and this process may use them.
//!
//! The standard library cannot be asked yet, so the processor is, by CPUID and XGETBV.

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// Bits of leaf 7 in EDX, with the names of Rust's target features.
const FEATURES: [(u32, &str); 3] = [
    (1 << 24, "amx-tile"),
    (1 << 22, "amx-bf16"),
    (1 << 25, "amx-int8"),
];
/// State components of tiles in XCR0: their configuration and their data.
const TILE_STATES: u64 = 1 << 17 | 1 << 18;

/// The extensions that the processor has and the system keeps between context switches.
pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    let edx = if system_keeps_tiles() {
        __cpuid_count(7, 0).edx
    } else {
        0
    };
    let has = FEATURES.into_iter().filter(move |(bit, _)| edx & bit != 0);
    has.map(|(_, name)| name)
}

/// The products of tiles that this process may use.
#[derive(Clone, Copy)]
pub(crate) struct Permitted {
    pub bf16: bool,
    pub int8: bool,
}

/// Asks for tiles. Linux lends them on request, once for all threads.
pub(crate) fn permitted() -> Permitted {
    static PERMITTED: OnceLock<Permitted> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        let has = |name| features().any(|feature| feature == name);
        let tiles = has("amx-tile") && request_tiles();
        Permitted {
            bf16: tiles && has("amx-bf16"),
            int8: tiles && has("amx-int8"),
        }
    })
}

fn system_keeps_tiles() -> bool {
    /// # Safety
    /// The processor has XSAVE and the system uses it.
    #[target_feature(enable = "xsave")]
    unsafe fn states() -> u64 {
        // SAFETY: passed on to the caller; register 0 is always there.
        unsafe { _xgetbv(0) }
    }
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // SAFETY: OSXSAVE says both.
    let states = unsafe { states() };
    states & TILE_STATES == TILE_STATES
}

/// Asks for the 8 KiB of tile data in each thread's state: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn request_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the call takes two numbers, returns one and touches no memory of ours.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
fn request_tiles() -> bool {
    false
}
