//! Why a file of vectors could not be written or opened.

use std::io;
use std::path::PathBuf;

use crate::{LoadError, Metric};

/// Why a vector file could not be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum OpenError {
    /// The operating system refused.
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file does not begin as vector files do.
    #[error("`{}` is not a vector file", path.display())]
    Magic { path: PathBuf },
    /// The file was written by a newer release.
    #[error("`{}` has format version {found}, this release reads version {supported}", path.display())]
    FormatVersion {
        path: PathBuf,
        found: u32,
        supported: u32,
    },
    /// The file is truncated, or something was added to it.
    #[error("`{}` has {found} bytes instead of {expected}", path.display())]
    Length {
        path: PathBuf,
        expected: u64,
        found: u64,
    },
    /// The header has changed since it was written.
    #[error("the header of `{}` does not match its checksum", path.display())]
    HeaderChecksum { path: PathBuf },
    /// The header names a section table that cannot be.
    #[error("`{}` has an impossible section table: {n_sections} sections at offset {offset}", path.display())]
    Table {
        path: PathBuf,
        n_sections: u32,
        offset: u64,
    },
    /// The section table has changed since it was written.
    #[error("the section table of `{}` does not match its checksum", path.display())]
    TableChecksum { path: PathBuf },
    /// An entry of the section table cannot be.
    #[error("entry {entry} of the section table of `{}` has an impossible {field}", path.display())]
    TableEntry {
        path: PathBuf,
        entry: usize,
        field: &'static str,
    },
    /// A section that must be understood is not known to this release.
    #[error("`{}` needs section `{section}` version {version}, which this release does not know", path.display())]
    UnknownSection {
        path: PathBuf,
        section: String,
        version: u32,
    },
    /// A section that every such file has is not there.
    #[error("`{}` has no section `{section}`", path.display())]
    MissingSection { path: PathBuf, section: String },
    /// A section has changed since it was written.
    #[error("section `{section}` of `{}` does not match its checksum", path.display())]
    SectionChecksum { path: PathBuf, section: String },
    /// The space between two sections has changed since it was written.
    #[error("the padding of `{}` at offset {offset} is not zero", path.display())]
    Padding { path: PathBuf, offset: u64 },
    /// A section is longer or shorter than the shard's shape says.
    #[error("section `{section}` of `{}` has {found} bytes, its shard needs {expected}", path.display())]
    SectionLength {
        path: PathBuf,
        section: String,
        expected: u64,
        found: u64,
    },
    /// The shard's description has a value that cannot be.
    #[error("the shard in `{}` has {field} {found}", path.display())]
    ShardField {
        path: PathBuf,
        field: &'static str,
        found: u64,
    },
    /// The graph's description has a value that cannot be.
    #[error("the graph in `{}` has {field} {found}", path.display())]
    GraphField {
        path: PathBuf,
        field: &'static str,
        found: u64,
    },
    /// The graph was built over other rows.
    #[error("the graph in `{}` is not of shard `{}`: its {field} is {found}, the shard's {expected}", path.display(), shard.display())]
    GraphShard {
        path: PathBuf,
        shard: PathBuf,
        field: &'static str,
        expected: u64,
        found: u64,
    },
    /// Each shard has one graph.
    #[error("{graphs} graphs for {shards} shards")]
    Graphs { shards: usize, graphs: usize },
    /// The rows are not on the devices that should search them.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An index of no shards has no width and no metric.
    #[error("an index needs at least one shard")]
    NoShards,
    /// Two shards of one index have different widths.
    #[error("shard `{}` has width {found}, the shards before it {expected}", path.display())]
    Width {
        path: PathBuf,
        expected: usize,
        found: usize,
    },
    /// Two shards of one index have different metrics.
    #[error("shard `{}` has metric {}, the shards before it {}", path.display(), found.as_str(), expected.as_str())]
    Metric {
        path: PathBuf,
        expected: Metric,
        found: Metric,
    },
    /// The ordinals of a shard do not begin where those of the shard before it end.
    #[error("shard `{}` begins at ordinal {found}, the shards before it end at {expected}", path.display())]
    FirstOrdinal {
        path: PathBuf,
        expected: u64,
        found: u64,
    },
}

/// Why a graph could not be repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The repaired graph could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The repaired graph could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Why a vector file could not be written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum WriteError {
    /// The operating system refused.
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// The width is 0 or too large.
    #[error("width {width} is not between 1 and {max}")]
    Width { width: usize, max: usize },
    /// A row has the wrong width.
    #[error("row {ordinal} has width {found}, its shard {expected}")]
    RowWidth {
        ordinal: u32,
        expected: usize,
        found: usize,
    },
    /// A row holds NaN or infinity.
    #[error("row {ordinal} is not finite at dimension {dimension}")]
    NotFinite { ordinal: u32, dimension: usize },
    /// A row holds a number that its row type has not.
    #[error("row {ordinal} has {value} at dimension {dimension}, more than {row_type} can hold")]
    TooLarge {
        ordinal: u32,
        dimension: usize,
        value: f32,
        row_type: &'static str,
    },
    /// A row is zero, which has no direction and so no cosine.
    #[error("row {ordinal} is zero, which has no cosine")]
    ZeroRow { ordinal: u32 },
    /// A graph's M is too small or too large.
    #[error("{m} links of a node are not between {min} and {max}")]
    Links { m: usize, min: usize, max: usize },
    /// A graph numbers its nodes in fewer bits than there are rows.
    #[error("{n_rows} rows are more than the {max} of a graph")]
    GraphRows { n_rows: usize, max: usize },
    /// Who is told how far a graph is asked to stop.
    #[error("stopped after {n_linked} of {n} nodes")]
    Interrupted { n_linked: usize, n: usize },
    /// Ordinals are 32 bits wide.
    #[error("a row after ordinal {} has no ordinal left", u32::MAX)]
    TooManyRows,
}
