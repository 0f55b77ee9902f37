//! The tiles of AMX and the instructions on them, of which stable Rust has none.
//!
//! A tile is a register of up to [`SIDE`] rows of 64 bytes; there are eight. One instruction multiplies a tile of A with one
//! of B and adds to one of sums, of 32 bits each. A word of B, 32 bits, holds as many consecutive numbers of a column as
//! fit, so that both operands advance along k together.
//!
//! The compiler does not know of tiles, so that they keep their contents from one of these functions to the next: no other
//! code of the program uses them, and the system saves them with the thread. Each `asm!` stays in its place, as none is
//! `pure`.

use std::arch::asm;
use std::marker::PhantomData;

/// Most rows of a tile, and most words of a row.
pub const SIDE: usize = 16;

/// How many tiles there are.
const N_TILES: usize = 8;

/// The shape of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// 1 to [`SIDE`].
    pub rows: usize,
    /// 32-bit words of a row, 1 to [`SIDE`].
    pub words: usize,
}

/// The tiles of this thread: configured when they are needed, given back when this is dropped.
#[derive(Debug, Default)]
pub struct Tiles {
    shapes: Option<[Shape; N_TILES]>,
    /// Another thread has tiles of its own.
    _own: PhantomData<*const ()>,
}

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Gives the tiles their shapes. All become zero, unless they have these shapes already.
    ///
    /// # Safety
    /// The machine has AMX and lets this process use it; see [`Simd::has_amx`](crate::Simd::has_amx).
    pub unsafe fn configure(&mut self, shapes: [Shape; N_TILES]) {
        if self.shapes == Some(shapes) {
            return;
        }
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for (tile, Shape { rows, words }) in shapes.into_iter().enumerate() {
            assert!(
                (1..=SIDE).contains(&rows) && (1..=SIDE).contains(&words),
                "a tile has a shape"
            );
            configuration.rows[tile] = rows as u8;
            configuration.row_bytes[tile] = (4 * words) as u16;
        }
        // SAFETY: the instruction reads these 64 bytes, which are a valid configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, preserves_flags, readonly));
        }
        self.shapes = Some(shapes);
    }
}

impl Drop for Tiles {
    /// Without a configuration the system has no tiles to keep between context switches.
    fn drop(&mut self) {
        if self.shapes.is_some() {
            // SAFETY: the machine has AMX, since it was configured.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
        }
    }
}

/// Makes a tile zero.
///
/// # Safety
/// The tiles are configured.
#[inline(always)]
pub unsafe fn zero<const TILE: usize>() {
    // SAFETY: the instruction touches a tile alone.
    unsafe {
        asm!("tilezero tmm{tile}", tile = const TILE, options(nostack, preserves_flags, nomem));
    }
}

/// Reads a tile whose rows are `stride` words apart.
///
/// # Safety
/// The tiles are configured, and `from` points to as many rows of as many words as the tile has.
#[inline(always)]
pub unsafe fn load<const TILE: usize>(from: *const u32, stride: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        asm!(
            "tileloadd tmm{tile}, [{from} + {stride}*1]",
            tile = const TILE, from = in(reg) from, stride = in(reg) 4 * stride,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Writes a tile as [`load`] reads it.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn store<const TILE: usize>(to: *mut u32, stride: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        asm!(
            "tilestored [{to} + {stride}*1], tmm{tile}",
            tile = const TILE, to = in(reg) to, stride = in(reg) 4 * stride,
            options(nostack, preserves_flags),
        );
    }
}

macro_rules! product {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub unsafe fn $name<const SUMS: usize, const A: usize, const B: usize>() {
            // SAFETY: the instruction touches tiles alone.
            unsafe {
                asm!(
                    concat!($instruction, " tmm{sums}, tmm{a}, tmm{b}"),
                    sums = const SUMS, a = const A, b = const B,
                    options(nostack, preserves_flags, nomem),
                );
            }
        }
    };
}

product! {
    /// Adds the product of two tiles of bf16 to a tile of `f32`. Even and odd numbers are summed apart, in the order of k, and
    /// both sums are added to what was there; denormal numbers count as zero.
    ///
    /// # Safety
    /// The tiles are configured with shapes that fit together, and the machine has products of bf16.
    dot_bf16, "tdpbf16ps"
}

product! {
    /// Adds the product of a tile of `i8` (A) and one of `u8` (B) to a tile of `i32`, wrapping.
    ///
    /// # Safety
    /// The tiles are configured with shapes that fit together, and the machine has products of 8-bit integers.
    dot_i8_u8, "tdpbsud"
}

product! {
    /// Adds the product of a tile of `u8` (A) and one of `i8` (B) to a tile of `i32`, wrapping.
    ///
    /// # Safety
    /// As for [`dot_i8_u8`].
    dot_u8_i8, "tdpbusd"
}
