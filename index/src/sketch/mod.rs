//! Sketches: what a row's score can be at most, from an eighth of its bytes, or a quarter.
//!
//! Exact search need not read every row: a row whose score is proven to be below the `k`-th best can be left unread.
//! The sketch of a row proves it in two steps. Its *head* has the coordinates along the leading principal components, 8 bits
//! each, and the length of what they leave out; heads are read from the first to the last. Its *tail* has the other
//! coordinates, 8 bits each, and is read where the head does not decide.
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
//! integers up to `g`, which starts the sum, and two more products a row. The tail says the same of `⟨z, t⟩`, with
//! `a′`, `c′`, `σ′` and `g′` of its own: `|z|·b` then becomes `a′·(⟨c′, ĉ′⟩ + g′)·σ′/σ`.
//!
//! The stored directions `H` are not quite orthonormal and everything is rounded. By [`Projection::slack`] that changes
//! `⟨x, q⟩` by at most `slack·|x||q|`, and `|x| ≤ a(C + E) + |z|`, so `g` grows by `slack·|q|(C + E)/σ` and `b` by
//! `slack·|q|/σ`, and `g′` by what `g` grows by with its own bounds; the `f32` arithmetic of the two products takes another `4u` of each (one rounding for the integer, one for a product, one for
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
//! *Overflow.* A bound that is not a number or infinite skips nothing. Where 8 bits cannot express a row (a step that is zero,
//! subnormal or infinite), or sums of its own overflow or vanish, the head has `a = 0` and an infinite `|z|`, the tail a step that
//! is no number.
//!
//! # On disk
//!
//! Optional sections of a shard, version 1 each; a reader without them reads rows.
//!
//! | name                | content                                                                                         |
//! |---------------------|-------------------------------------------------------------------------------------------------|
//! | `sketch`            | `u64` coordinates in a head; `f64` `C` and `E` of heads, of tails, and slack                    |
//! | `sketch_projection` | `f32`: the center, then the directions, row-major                                               |
//! | `sketch_heads`      | for each 16 rows: 16 `f32` of `a`, of `|z|`, under L2 of `|x|²/2`; codes `c + 128` as `[n/4][16][4]` bytes |
//! | `sketch_tails`      | for each row: codes, padded to a multiple of 4; `f32` step; nothing where the head has all coordinates |
//!
//! That order of the codes is the operand of VNNI and of AMX: four coordinates of sixteen rows are one register, and
//! no sum is taken across lanes.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx;
mod kernel;
mod projection;
mod query;
mod write;

use std::ops::Range;

use std::path::Path;

pub(crate) use kernel::{Hit, Kernel, Span, dot};
pub(crate) use projection::{Coordinates, Projection};
pub(crate) use query::QuerySketch;
pub(crate) use write::{MIN_SKETCHED_ROWS, write};

use crate::rows::values;
use crate::section::{KnownSection, SectionFile, u64_at};
use crate::shard::{ShardConfig, checked_section};
use crate::{Metric, OpenError};

pub(crate) const SKETCH: KnownSection = KnownSection {
    name: "sketch",
    version: 1,
};
pub(crate) const PROJECTION: KnownSection = KnownSection {
    name: "sketch_projection",
    version: 1,
};
pub(crate) const HEADS: KnownSection = KnownSection {
    name: "sketch_heads",
    version: 1,
};
pub(crate) const TAILS: KnownSection = KnownSection {
    name: "sketch_tails",
    version: 1,
};
const SKETCH_BYTES: u64 = 48;

/// Rows in a block of sketches: the lanes of a register. Part of the format.
pub(crate) const LANES: usize = 16;

/// What bounds the heads, or the tails, of all rows of a shard; see the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// `C`
    pub code_norm: f64,
    /// `E`
    pub code_error: f64,
}

impl Bounds {
    /// Of no row.
    const NONE: Self = Self {
        code_norm: 0.0,
        code_error: 0.0,
    };

    fn max(self, other: Self) -> Self {
        Self {
            code_norm: self.code_norm.max(other.code_norm),
            code_error: self.code_error.max(other.code_error),
        }
    }
}

/// The shape of heads and tails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub n_head: usize,
    pub n_tail: usize,
    /// Under L2 there is a third number a row.
    pub has_squares: bool,
}

impl Layout {
    fn new(width: usize, n_head: usize, metric: Metric) -> Self {
        Self {
            n_head,
            n_tail: width - n_head,
            has_squares: metric == Metric::L2,
        }
    }

    /// Groups of four coordinates of a head.
    pub fn n_groups(self) -> usize {
        self.n_head.div_ceil(4)
    }

    /// Bytes before the codes of a block of heads.
    pub fn codes_at(self) -> usize {
        (2 + usize::from(self.has_squares)) * LANES * 4
    }

    pub fn block_bytes(self) -> usize {
        self.codes_at() + self.n_groups() * LANES * 4
    }

    /// Bytes of the tail of a row.
    pub fn tail_bytes(self) -> usize {
        match self.n_tail {
            0 => 0,
            n => n.next_multiple_of(4) + 4,
        }
    }
}

/// The sketches of a shard, open.
#[derive(Debug)]
pub(crate) struct Sketches {
    pub projection: Projection,
    pub head: Bounds,
    pub tail: Bounds,
    pub layout: Layout,
    /// Where the sections are in the file.
    pub heads: Range<usize>,
    pub tails: Range<usize>,
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
        let n_head = u64_at(bytes, 0);
        if !(1..=config.width as u64).contains(&n_head) {
            return Err(bad(
                file.path(),
                "number of coordinates in a sketch's head",
                n_head,
            ));
        }
        let numbers: [f64; 5] = std::array::from_fn(|i| f64::from_bits(u64_at(bytes, 8 + 8 * i)));
        if let Some(wrong) = numbers
            .iter()
            .find(|number| number.is_nan() || **number < 0.0)
        {
            return Err(bad(file.path(), "bound of its sketches", wrong.to_bits()));
        }
        let bounds = |i: usize| Bounds {
            code_norm: numbers[i],
            code_error: numbers[i + 1],
        };
        let layout = Layout::new(config.width, n_head as usize, config.metric);
        let n_floats = (1 + config.width) * config.width;
        let projection =
            values::<f32>(&file.bytes()[checked_section(file, PROJECTION, 4 * n_floats as u64)?]);
        let n_bytes = n_rows.div_ceil(LANES) * layout.block_bytes();
        let heads = checked_section(file, HEADS, n_bytes as u64)?;
        let tails = checked_section(file, TAILS, (n_rows * layout.tail_bytes()) as u64)?;
        let (center, directions) = projection.split_at(config.width);
        Ok(Some(Self {
            projection: Projection {
                center: center.to_vec(),
                directions: directions.to_vec(),
                n_head: n_head as usize,
                slack: numbers[4],
            },
            head: bounds(0),
            tail: bounds(2),
            layout,
            heads,
            tails,
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
