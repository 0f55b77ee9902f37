use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::error::TrainError;

/// The folder of one run.
///
/// ```text
/// config.toml          the resolved configuration
/// run.json             seed and code version
/// metrics.jsonl        a line for each step, each taking of dev figures and, in pre-training, each epoch
/// events.out.tfevents… the same for TensorBoard
/// corpus/              tokens of what pre-training reads, unless they are kept elsewhere
/// checkpoints/step-N/  what resuming needs; complete whenever it has its name
/// failed-batch.json    the examples of the step that ended the run, if one did
/// export/              the trained model
/// ```
#[derive(Clone, Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// Keeps other processes out of a new run until [`Self::occupy`] does.
    lock: Arc<Mutex<Option<File>>>,
}

/// How the names of folders begin that are gone once dev figures are taken.
pub(super) const SCRATCH: &str = ".dev-";

/// The only folder with something in it that a run may find.
const CORPUS: &str = "corpus";
const CHECKPOINTS: &str = "checkpoints";
const CONFIG: &str = "config.toml";
const FAILED: &str = "failed-batch.json";
const RECORD: &str = "run.json";

#[derive(Serialize)]
struct RunRecord<'a> {
    seed: u64,
    version: &'a str,
}

impl RunDirectory {
    /// Starts a run in a folder that is not there, or holds nothing but [`Self::corpus`] and what a run leaves that
    /// was refused before its log began.
    ///
    /// # Errors
    /// [`TrainError::Occupied`], [`TrainError::InUse`], [`TrainError::File`].
    pub fn create(path: &Path, config: &str, seed: u64) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(TrainError::file(path))?;
        Self::check_free(path)?;
        let file = path.join(RECORD);
        // Written in place, since a file that took its name would not be the one that is locked.
        let opened = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file);
        let mut opened = opened.map_err(TrainError::file(&file))?;
        lock(&opened, path)?;
        let record = RunRecord {
            seed,
            version: env!("CARGO_PKG_VERSION"),
        };
        let written = opened
            .set_len(0)
            .and_then(|()| opened.write_all(&json_bytes(&record)));
        written.map_err(TrainError::file(&file))?;
        let checkpoints = path.join(CHECKPOINTS);
        fs::create_dir_all(&checkpoints).map_err(TrainError::file(&checkpoints))?;
        write(&path.join(CONFIG), config.as_bytes())?;
        Ok(Self {
            path: path.to_owned(),
            lock: Arc::new(Mutex::new(Some(opened))),
        })
    }

    /// Says whether a run could be created in a folder.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn check_free(path: &Path) -> Result<(), TrainError> {
        if !path.exists() {
            return Ok(());
        }
        let file = path.join(RECORD);
        for entry in entries(path)? {
            let name = entry.file_name().unwrap_or_default();
            let is_free = match name.to_str() {
                Some(CORPUS | RECORD) => true,
                Some(CONFIG) => file.exists(), // without a record it is somebody's own
                Some(CHECKPOINTS) => entries(&entry)?.is_empty(),
                _ => false,
            };
            if !is_free {
                let path = path.to_owned();
                return Err(TrainError::Occupied { path });
            }
        }
        match File::open(&file) {
            Ok(opened) => lock(&opened, path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(TrainError::file(file)(error)),
        }
    }

    /// Where the tokens of a corpus are kept in the folder of a run.
    pub fn corpus(path: &Path) -> PathBuf {
        path.join(CORPUS)
    }

    /// Opens a run to go on with it: from its last checkpoint, from the beginning where it has none.
    ///
    /// # Errors
    /// [`TrainError::NoRun`] when there is none; [`TrainError::OtherConfig`] when it was started with another configuration;
    /// [`TrainError::File`].
    pub fn resume(path: &Path, config: &str) -> Result<Self, TrainError> {
        let file = path.join(CONFIG);
        let recorded = match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let path = path.to_owned();
                return Err(TrainError::NoRun { path });
            }
            read => read.map_err(TrainError::file(&file))?,
        };
        if recorded != config {
            let (mut recorded, mut given) = (recorded.lines(), config.lines());
            let (recorded, given) = loop {
                match (recorded.next(), given.next()) {
                    (Some(a), Some(b)) if a == b => {}
                    (a, b) => break (a.unwrap_or_default(), b.unwrap_or_default()),
                }
            };
            return Err(TrainError::OtherConfig {
                path: file,
                recorded: recorded.to_owned(),
                given: given.to_owned(),
            });
        }
        Ok(Self::join(path))
    }

    /// The folder of a run that another rank starts or goes on with.
    pub fn join(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: Arc::default(),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the folder for one process, as long as the file is open, and removes what an earlier one left half done.
    pub(super) fn occupy(&self) -> Result<File, TrainError> {
        let kept = self
            .lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let file = match kept {
            Some(file) => file,
            None => {
                let path = self.path.join(RECORD);
                let file = File::open(&path).map_err(TrainError::file(&path))?;
                lock(&file, &self.path)?;
                file
            }
        };
        for folder in [self.path.clone(), self.path.join(CHECKPOINTS)] {
            for path in entries(&folder)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if !(name.starts_with(SCRATCH) || name.starts_with(".step-")) {
                    continue;
                }
                // A checkpoint that was about to be replaced may be the only one.
                let old = name
                    .strip_prefix('.')
                    .and_then(|name| name.strip_suffix(".old"));
                match old.map(|name| folder.join(name)) {
                    Some(place) if !place.exists() => {
                        fs::rename(&path, &place).map_err(TrainError::file(&path))?;
                    }
                    _ => remove(&path)?,
                }
            }
        }
        match fs::remove_file(self.failed_batch()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(TrainError::file(self.failed_batch())(error))
            }
            _ => Ok(file),
        }
    }

    /// Where the examples of a step that failed are named.
    fn failed_batch(&self) -> PathBuf {
        self.path.join(FAILED)
    }

    /// Names the examples of a step that failed, which other ranks may do at the same time.
    pub(super) fn write_failed_batch(
        &self,
        rank: usize,
        value: &impl Serialize,
    ) -> Result<PathBuf, TrainError> {
        let path = self.failed_batch();
        let part = path.with_extension(format!("{rank}.part"));
        write_through(&part, &path, &json_bytes(value))?;
        Ok(path)
    }

    /// Where the trained model goes.
    pub fn export(&self) -> PathBuf {
        self.path.join("export")
    }

    /// The complete checkpoints by the steps that were taken before them, in ascending order.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        let folder = self.path.join(CHECKPOINTS);
        let mut found = Vec::new();
        for path in entries(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(step) = name
                .strip_prefix("step-")
                .and_then(|step| step.parse().ok())
            {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    pub(super) fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join(format!("checkpoints/step-{step}"))
    }

    /// Gives a folder its name when `fill` has written everything into it; what has the name already is replaced.
    pub(super) fn publish(
        target: &Path,
        fill: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let (part, old) = (
            target.with_file_name(format!(".{name}.part")),
            target.with_file_name(format!(".{name}.old")),
        );
        for leftover in [&part, &old] {
            remove(leftover)?;
        }
        fs::create_dir_all(&part).map_err(TrainError::file(&part))?;
        fill(&part)?;
        sync(&part)?;
        if target.exists() {
            fs::rename(target, &old).map_err(TrainError::file(target))?;
        }
        fs::rename(&part, target).map_err(TrainError::file(target))?;
        if let Some(parent) = target.parent() {
            let synced = File::open(parent).and_then(|folder| folder.sync_all());
            synced.map_err(TrainError::file(parent))?;
        }
        remove(&old)
    }
}

/// Keeps other processes out of a folder, as long as this file of it is open.
fn lock(file: &File, folder: &Path) -> Result<(), TrainError> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(TrainError::InUse {
            path: folder.to_owned(),
        }),
        // A file system without locks has none to break.
        _ => Ok(()),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = fs::read_dir(folder).map_err(TrainError::file(folder))?;
    let paths = entries.map(|entry| Ok(entry.map_err(TrainError::file(folder))?.path()));
    paths.collect()
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(TrainError::file(folder)(error)),
        _ => Ok(()),
    }
}

/// Makes the files below a folder durable.
fn sync(path: &Path) -> Result<(), TrainError> {
    if path.is_dir() {
        for entry in entries(path)? {
            sync(&entry)?;
        }
    }
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(TrainError::file(path))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    write_through(&path.with_extension("part"), path, bytes)
}

fn write_through(part: &Path, path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    fs::write(part, bytes)
        .and_then(|()| fs::rename(part, path))
        .map_err(TrainError::file(path))
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    write(path, &json_bytes(value))
}

fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(value).expect("our records are JSON");
    text.push('\n');
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_was_about_to_be_replaced_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = RunDirectory::create(folder.path(), "", 1).expect("a run");
        let checkpoints = folder.path().join(CHECKPOINTS);
        for name in ["step-2", ".step-2.old", ".step-4.part", ".step-4.old"] {
            fs::create_dir(checkpoints.join(name)).expect("a folder");
            fs::write(checkpoints.join(name).join("from"), name).expect("written");
        }
        let _lock = run.occupy().expect("it is free");
        let found = run.checkpoints().expect("they can be listed");
        let from = |(step, path): &(u64, PathBuf)| {
            let from = fs::read_to_string(path.join("from")).expect("a file");
            (*step, from)
        };
        let found: Vec<(u64, String)> = found.iter().map(from).collect();
        let expected = [(2, "step-2"), (4, ".step-4.old")];
        assert_eq!(found, expected.map(|(step, from)| (step, from.to_owned())));
        assert_eq!(entries(&checkpoints).expect("entries").len(), 2);
    }

    #[test]
    fn ranks_that_fail_at_once_do_not_take_each_others_report() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = RunDirectory::join(folder.path());
        std::thread::scope(|scope| {
            for rank in 0..4 {
                let run = &run;
                scope.spawn(move || {
                    for step in 0..200 {
                        let value = serde_json::json!({ "step": step });
                        run.write_failed_batch(rank, &value).expect("written");
                    }
                });
            }
        });
        let text = fs::read(folder.path().join(FAILED)).expect("a report");
        let report: serde_json::Value = serde_json::from_slice(&text).expect("a whole one");
        assert_eq!(report["step"], 199);
        assert_eq!(entries(folder.path()).expect("entries").len(), 1);
    }
}
