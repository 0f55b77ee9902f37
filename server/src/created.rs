//! Collections that were made over HTTP.
//!
//! They are folders of `server.data`, named by a digest of the collection's name: no path is built from what a caller sent. Each has
//! the name in its `collection.json`. A folder is made under another name and renamed, so that it is there as a whole or not at all.

use std::path::{Path, PathBuf};
use std::{fs, io};

use collection::{AliasName, Collection, LIVE, sha256_hex, sync_folder, write_atomic};
use corpus::Schema;
use indexer::{BuildConfig, BuildError, VectorSource};
use retriever::Retriever;
use serde::{Deserialize, Serialize};

use crate::state::{AttachError, Shared};
use crate::swap::Source;

const FILE: &str = "collection.json";
/// Before the name of a folder that is not there as a whole yet, or not any more.
const UNFINISHED: &str = ".new-";

/// What a folder says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Created {
    pub(crate) name: String,
    pub(crate) encoder: Option<String>,
    pub(crate) reranker: Option<String>,
}

/// Why a collection cannot be made or opened again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreatedError {
    /// The folder of collections cannot be read or written.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A collection does not say what it is.
    #[error("`{}` is damaged", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It cannot be written.
    #[error("cannot make the collection")]
    Build(#[from] BuildError),
    /// It cannot be read.
    #[error("cannot read the collection")]
    Collection(#[from] collection::CollectionError),
    /// It cannot be opened.
    #[error("cannot open the collection")]
    Open(#[from] retriever::OpenError),
    /// It cannot be served.
    #[error("cannot serve the collection")]
    Attach(#[from] AttachError),
}

/// Makes a collection without documents in `data`; its config says all but where.
pub(crate) fn make(
    data: &Path,
    created: &Created,
    config: BuildConfig,
    schema: &Schema,
    vectors: VectorSource<'_>,
) -> Result<PathBuf, CreatedError> {
    let digest = &sha256_hex(created.name.as_bytes())[..32];
    let (unfinished, path) = (
        data.join(format!("{UNFINISHED}{digest}")),
        data.join(digest),
    );
    let failed = |source| CreatedError::Io {
        path: path.clone(),
        source,
    };
    remove(&unfinished).map_err(failed)?;
    let config = BuildConfig {
        collection: unfinished.clone(),
        ..config
    };
    indexer::create(&config, schema, vectors)?;
    let text = serde_json::to_vec_pretty(created).expect("names are strings");
    write_atomic(&unfinished.join(FILE), &text)?;
    fs::rename(&unfinished, &path)
        .and_then(|()| sync_folder(data))
        .map_err(failed)?;
    Ok(path)
}

/// The collections in `data`, and their folders; what was not made to the end is removed.
pub(crate) fn list(data: &Path) -> Result<Vec<(Created, PathBuf)>, CreatedError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| CreatedError::Io { path, source }
    };
    fs::create_dir_all(data).map_err(failed(data))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(data).map_err(failed(data))? {
        let entry = entry.map_err(failed(data))?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            remove(&entry.path()).map_err(failed(&entry.path()))?;
            continue;
        }
        let path = entry.path().join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&path)(error)),
        };
        let created = serde_json::from_slice(&bytes);
        let created = created.map_err(|source| CreatedError::Damaged { path, source })?;
        found.push((created, entry.path()));
    }
    Ok(found)
}

/// Opens a collection and answers for it from here on.
pub(crate) fn serve(app: &Shared, created: &Created, path: &Path) -> Result<(), CreatedError> {
    let collection = Collection::open(path)?;
    let generation = collection.resolve(LIVE)?;
    let retriever = Retriever::open(generation, app.open_config())?;
    let source = Source {
        collection,
        alias: AliasName::parse(LIVE).map_err(collection::CollectionError::from)?,
    };
    let Created {
        name,
        encoder,
        reranker,
    } = created;
    let models = (encoder.as_deref(), reranker.as_deref());
    Ok(app.add_collection(name, retriever, models, Some(source))?)
}

/// Whether a folder is that of a collection made over HTTP.
pub(crate) fn is_created(data: &Path, path: &Path) -> bool {
    path.parent() == Some(data) && path.join(FILE).is_file()
}

/// Removes the folder of a collection: all of it, or nothing, whenever that is interrupted.
pub(crate) fn delete(data: &Path, path: &Path) -> Result<(), CreatedError> {
    let failed = |source| CreatedError::Io {
        path: path.to_path_buf(),
        source,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let gone = data.join(format!("{UNFINISHED}{name}"));
    remove(&gone).map_err(failed)?;
    fs::rename(path, &gone)
        .and_then(|()| sync_folder(data))
        .and_then(|()| remove(&gone))
        .map_err(failed)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
