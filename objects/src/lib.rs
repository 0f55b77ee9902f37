//! Collections in object storage: the same layout below a prefix of a bucket as in a folder, changed by conditional puts alone.
//!
//! ```text
//! generations/<generation>/…              files of a finished build, as in a folder; each is there as a whole or not at all
//! generations/<generation>/manifest.json  created last, and once: without it, no reader sees the others
//! aliases.json                            alias → generation; replaced only by who has read what is replaced (`If-Match`)
//! gate/<generation>.json                  the report of the gate that it passed
//! turns/<alias>.json                      which of the servers that follow an alias changes over now
//! building/<spec digest>/…                a build in parts, made of objects that are created once (`If-None-Match`)
//! ```
//!
//! [`Objects`] speaks to the storage on threads of its own, so that the code above it can wait for it as it waits for files. It knows
//! S3 and what speaks like it, and folders, which stand in for it where there is none.

mod alias;
mod connection;
mod error;
mod folder;
mod generation;
mod location;
mod retention;
mod turn;

pub use error::ObjectsError;
pub use folder::{Entry, Found, Objects, Version, Watch};
pub use generation::Pushed;
pub use location::{Location, Settings};
pub use retention::{DECISION, Garbage};
pub use turn::Turn;
