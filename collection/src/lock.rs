//! One writer per collection.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::process;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Collection, CollectionError};

/// The right to change a collection, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Writer {
    pub(crate) collection: Collection,
    _lock: Lock,
}

/// A file that is locked until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// To close the file is not enough: a program that another thread is about to start has it open, too, until it runs.
    fn drop(&mut self) {
        let _ = self.0.unlock(); // Else it ends when the file is closed everywhere.
    }
}

impl Collection {
    /// Becomes the one writer of this collection; `command` tells others what for.
    ///
    /// # Errors
    /// [`CollectionError::Locked`] names the writer: process, host, since when, and its command.
    pub fn writer(&self, command: &str) -> Result<Writer, CollectionError> {
        let lock = acquire(&self.root().join("writer.lock"), self.root(), command)?;
        Ok(Writer {
            collection: self.clone(),
            _lock: lock,
        })
    }
}

/// Locks the file at `path`, and notes in it who has it and what for.
pub(crate) fn acquire(path: &Path, root: &Path, command: &str) -> Result<Lock, CollectionError> {
    let failed = |source| CollectionError::write(path, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(CollectionError::Locked {
                path: root.to_path_buf(),
                holder: read_holder(&mut file),
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let since = OffsetDateTime::now_utc()
        .truncate_to_second()
        .format(&Rfc3339)
        .expect("the present has a year of four digits");
    let (process, host) = (process::id(), host_name());
    // Who has no room for a note has the lock all the same: `index gc` makes room on a full disk.
    let _ = file
        .set_len(0)
        .and_then(|()| write!(file, "process {process} on {host} since {since}: {command}"));
    Ok(Lock(file))
}

impl Writer {
    /// The collection that this writer may change.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }
}

/// The name of this machine, as the kernel has it.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "this host".to_owned(),
        name => name.to_owned(),
    }
}

fn read_holder(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.take(400).read_to_end(&mut bytes); // An unreadable name is no reason to hide that the lock is held.
    let name: String = String::from_utf8_lossy(&bytes)
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    if name.is_empty() {
        "another process".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_though_a_program_that_begins_has_its_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = acquire(&path, folder.path(), "test").unwrap();
        let inherited = lock.0.try_clone().unwrap();
        let refused = acquire(&path, folder.path(), "test");
        assert!(matches!(refused, Err(CollectionError::Locked { .. })));
        drop(lock);
        let again = acquire(&path, folder.path(), "test").unwrap();
        drop((inherited, again));
    }
}
