//! Sketches: an eighth of a row's bytes, or a quarter, and a proof of what the rest can be at most.
//!
//! Exact search need not read every row: a row whose score is proven to be below the `k`-th best can be left unread.
//! The sketch of a row `x` proves it from few bytes: its coordinates along the leading principal components, 8 bits
//! each, and the length of what the components leave out.
//!
//! # The bound
//!
//! Let `U` have orthonormal rows, the directions. For vectors `x` and `q` (less the center), write `y = Ux` and
//! `p = Uq`, and `z`, `t` for what the directions leave of them. Then `⟨x, q⟩ = ⟨y, p⟩ + ⟨z, t⟩`. Of the row the
//! sketch keeps `ŷ = a·c`, integers `c` of 8 bits with a step `a` of its own, and `|z|`; the query is rounded, too, to
//! `p̂ = σ·ĉ`. With `⟨y, p⟩ = ⟨ŷ, p̂⟩ + ⟨ŷ, p − p̂⟩ + ⟨y − ŷ, p⟩` and Cauchy–Schwarz,
//!
//! `⟨x, q⟩ ≤ aσ⟨c, ĉ⟩ + a·C|p − p̂| + a·E|p| + |z||t|`,
//!
//! where `C` bounds `|c|` and `E` bounds `|y − ŷ|/a` over all rows of the shard. Divided by σ, that is
//!
//! `⟨x, q⟩/σ ≤ a·(⟨c, ĉ⟩ + g) + |z|·b`, with `g = (C|p − p̂| + E|p|)/σ` and `b = |t|/σ`:
//!
//! integers up to `g`, which starts the sum, and two more products a row.
//!
//! The stored directions `H` are not quite orthonormal and everything is rounded. By [`Projection::slack`] that changes
//! `⟨x, q⟩` by at most `slack·|x||q|`, and `|x| ≤ a(C + E) + |z|`, so `g` grows by `slack·|q|(C + E)/σ` and `b` by
//! `slack·|q|/σ`; the `f32` arithmetic of the two products takes another `4u` of each (one rounding for the integer, one for a product, one for
//! the sum, `u = 2⁻²⁴`).
//!
//! *Inner product.* A row is skipped when the bound is below `T/σ`, where `T` is the `k`-th best score known so far.
//!
//! *L2.* `−|x − q|² = 2⟨x, q⟩ − |x|² − |q|²`, so a row is skipped when `⟨x, q⟩ − |x|²/2 < (T + |q|²)/2`, each over σ.
//! The sketch keeps `|x|²/2` as well. It and `|q|²` are lowered by `2⁻²⁰` of themselves, for the roundings of
//! `x − center`, which change the distance by less than `8u(|x|² + |q|²)`, and for those of the sum.
//!
//! *Score and threshold.* The defined score is rounded to `f32`: it reaches `T` only if the true one is above
//! `T − 2u|T|`, less a little for underflow. An infinite `T` counts as the largest finite number.
//!
//! *Overflow.* A bound that is not a number skips nothing. Where 8 bits cannot express a row (a step of zero, subnormal or
//! infinite), the sketch has `a = 0` and an infinite `|z|`.
//!
//! # On disk
//!
//! Optional sections of a shard, version 1 each; a reader without them reads rows.
//!
//! | name                | content                                                                                         |
//! |---------------------|-------------------------------------------------------------------------------------------------|
//! | `sketch`            | `u64` number of directions; `f64` `C`, `E` and slack                                            |
//! | `sketch_projection` | `f32`: the center, then the directions, row-major                                               |
//! | `sketch_blocks`     | for each 16 rows: 16 `f32` of `a`, of `|z|`, under L2 of `|x|²/2`; codes `c + 128` as `[n/4][16][4]` bytes |
//!
//! That order of the codes is the operand of VNNI and of AMX: four coordinates of sixteen rows are one register, and
//! no sum is taken across lanes.

mod kernel;
mod projection;
mod query;
mod write;

use std::ops::Range;

use std::path::Path;

pub(crate) use kernel::{Hit, Kernel, Span};
pub(crate) use projection::Projection;
pub(crate) use query::QuerySketch;
pub(crate) use write::{MIN_SKETCHED_ROWS, write};

use crate::section::{KnownSection, SectionFile, u64_at};
use crate::shard::{ShardConfig, checked_section, floats};
use crate::{Metric, OpenError};

pub(crate) const SKETCH: KnownSection = KnownSection {
    name: "sketch",
    version: 1,
};
pub(crate) const PROJECTION: KnownSection = KnownSection {
    name: "sketch_projection",
    version: 1,
};
pub(crate) const BLOCKS: KnownSection = KnownSection {
    name: "sketch_blocks",
    version: 1,
};
const SKETCH_BYTES: u64 = 32;

/// Rows in a block of sketches: the lanes of a register. Part of the format.
pub(crate) const LANES: usize = 16;

/// What bounds the sketches of all rows of a shard; see the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// `C`
    pub code_norm: f64,
    /// `E`
    pub code_error: f64,
}

impl Bounds {
    fn max(self, other: Self) -> Self {
        Self {
            code_norm: self.code_norm.max(other.code_norm),
            code_error: self.code_error.max(other.code_error),
        }
    }
}

/// The shape of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub n_directions: usize,
    /// Under L2 there is a third number a row.
    pub has_squares: bool,
}

impl Layout {
    /// Groups of four coordinates.
    pub fn n_groups(self) -> usize {
        self.n_directions.div_ceil(4)
    }

    /// Bytes before the codes.
    pub fn codes_at(self) -> usize {
        (2 + usize::from(self.has_squares)) * LANES * 4
    }

    pub fn block_bytes(self) -> usize {
        self.codes_at() + self.n_groups() * LANES * 4
    }

    pub fn blocks_of(self, n_rows: usize) -> usize {
        n_rows.div_ceil(LANES)
    }
}

/// The sketches of a shard, open.
#[derive(Debug)]
pub(crate) struct Sketches {
    pub projection: Projection,
    pub bounds: Bounds,
    pub layout: Layout,
    /// Where the blocks are in the file.
    pub blocks: Range<usize>,
}

impl Sketches {
    /// Opens the sketches in a shard's file, if it has any.
    pub fn open(
        file: &SectionFile,
        config: &ShardConfig,
        n_rows: usize,
    ) -> Result<Option<Self>, OpenError> {
        if !file.has_section(SKETCH.name) {
            return Ok(None);
        }
        let bytes = &file.bytes()[checked_section(file, SKETCH, SKETCH_BYTES)?];
        let number = |at| f64::from_bits(u64_at(bytes, at));
        let n_directions = u64_at(bytes, 0);
        if !(1..=config.width as u64).contains(&n_directions) {
            return Err(bad(
                file.path(),
                "number of sketch directions",
                n_directions,
            ));
        }
        let numbers = [number(8), number(16), number(24)];
        if let Some(wrong) = numbers
            .iter()
            .find(|number| number.is_nan() || **number < 0.0)
        {
            return Err(bad(file.path(), "bound of its sketches", wrong.to_bits()));
        }
        let [code_norm, code_error, slack] = numbers;
        let layout = Layout {
            n_directions: n_directions as usize,
            has_squares: config.metric == Metric::L2,
        };
        let n_floats = (1 + n_directions) * config.width as u64;
        let projection = floats(&file.bytes()[checked_section(file, PROJECTION, n_floats * 4)?]);
        let n_bytes = layout.blocks_of(n_rows) * layout.block_bytes();
        let blocks = checked_section(file, BLOCKS, n_bytes as u64)?;
        let (center, directions) = projection.split_at(config.width);
        Ok(Some(Self {
            projection: Projection {
                center: center.to_vec(),
                directions: directions.to_vec(),
                slack,
            },
            bounds: Bounds {
                code_norm,
                code_error,
            },
            layout,
            blocks,
        }))
    }
}

fn bad(path: &Path, field: &'static str, found: u64) -> OpenError {
    OpenError::ShardField {
        path: path.to_owned(),
        field,
        found,
    }
}
