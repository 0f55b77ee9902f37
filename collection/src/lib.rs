//! Generations, their manifest, aliases and locks: what an index on disk is.
//!
//! ```text
//! <collection>/
//!   generations/<generation>/   one finished build; never changes again
//!     manifest.json             names every other file with its length and sha256
//!     spec.json                 canonical JSON of all that decided the content
//!   building/<spec digest>/     work in progress; `arriving-<generation>`: a generation that is copied from elsewhere
//!     work/                     what the builder keeps in order to resume; never part of a generation
//!   aliases.json                alias → generation, now and before; `live` is what readers open unless told otherwise
//!   gate/<generation>.json      the report of the gate that the generation passed
//!   live/                       the write log, of which each manifest says how much its generation contains
//!   writer.lock                 locked by the one writer of everything but `live/`, which has a lock of its own
//! ```
//!
//! # Why a crash leaves the old state or the new one
//!
//! Readers reach content only through `aliases.json` or the name of a folder in `generations/`. Each of the two changes by one
//! `rename(2)`, which is atomic, and only after everything it makes visible is on disk:
//!
//! 1. The builder writes files into `building/<spec digest>/`, where no reader looks.
//! 2. [`Writer::promote`] hashes and fsyncs every file, fsyncs every folder, and only then writes `manifest.json`
//!    (temporary name, fsync, rename, fsync of the folder). A building folder with a manifest is complete, one without is not.
//! 3. `work/` is removed, the folder is renamed into `generations/<generation>`, and both parents are fsynced.
//! 4. `aliases.json` is replaced: temporary name, fsync, rename, fsync of the folder.
//!
//! Killed before 2 ends, a resumed build drops the unfinished output and assembles it again from `work/`. Killed between 2 and 3,
//! it finds the manifest and goes on at 3. Killed between 3 and 4, it finds the generation with its spec digest and goes on at 4.
//! Nothing that an existing generation contains is ever written to. The lock is an advisory lock of the kernel, so it ends with the
//! process that held it.
//!
//! [`Writer::gc`] first renames a generation to a name that no reader takes for one, so that none is ever seen in part.

mod alias;
mod building;
mod collection;
mod digest;
mod durable;
mod error;
mod lock;
mod log;
mod manifest;
mod name;
mod retention;
mod verify;

pub use alias::{AliasTable, Aliases};
pub use building::{Arrival, BuildMode, Building, Start};
pub use collection::{Collection, Generation};
pub use digest::{canonical_json, sha256_hex};
pub use durable::{create_atomic, sync_folder, write_atomic};
pub use error::{CollectionError, ManifestError, NameError};
pub use lock::Writer;
pub use log::{Durability, LogConfig, LogWriter, MAX_FRAME_BYTES, NewRecord, Record};
pub use manifest::{
    Counts, FORMAT_VERSION, FileEntry, MAX_MANIFEST_BYTES, Manifest, Reused, Shard, Templates,
    is_inside,
};
pub use name::{AliasName, GenerationId};
pub use retention::{Garbage, Retention};
pub use verify::FileFault;

/// The alias that readers open unless told otherwise.
pub const LIVE: &str = "live";
