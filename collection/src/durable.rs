//! Writes that survive a crash: old content or new, never a mix.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::CollectionError;

/// Replaces the file `path` by `bytes`: temporary name, fsync, rename, fsync of the folder. The caller holds the writer lock.
///
/// # Errors
/// [`CollectionError::DiskFull`], [`CollectionError::NotWritable`] or [`CollectionError::Io`]; the file then has its old content.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), CollectionError> {
    let temporary = temporary_name(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path.parent().unwrap_or(Path::new("/")))
    });
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary); // Best effort: the next write replaces what stays behind.
        CollectionError::write(path, error)
    })
}

/// Creates the file `path` with `bytes`, whole and durable, unless there is one; returns whether it did. Any number of processes
/// may try at once, on one machine or on several that share the folder: one of them succeeds.
///
/// # Errors
/// As [`write_atomic`]; [`CollectionError::NotExclusive`] where the file system can neither link nor rename so.
pub fn create_atomic(path: &Path, bytes: &[u8]) -> Result<bool, CollectionError> {
    let mut name = OsString::from(path);
    let own = RandomState::new().hash_one(std::process::id());
    name.push(format!(".{own:016x}.tmp"));
    let temporary = PathBuf::from(name);
    let written = File::create_new(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let written = written.map_err(|error| CollectionError::write(path, error));
    let created = written.and_then(|()| {
        let linked = fs::hard_link(&temporary, path).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Err(error),
            _ => rename_new(&temporary, path), // exFAT and others have no links.
        });
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(CollectionError::create(path, error)),
            Ok(()) => Ok(true),
        }
    });
    let _ = fs::remove_file(&temporary); // What stays behind is removed with its folder.
    let created = created?;
    let synced = sync_folder(path.parent().unwrap_or(Path::new("/")));
    synced.map_err(|error| CollectionError::write(path, error))?;
    Ok(created)
}

/// Renames a file unless there is one of the new name: `renameat2` with `RENAME_NOREPLACE`.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let renamed = TempPath::try_from_path(from)?.persist_noclobber(to);
    renamed.map_err(|error| error.error)
}

/// Makes the entries of a folder durable: files created in it, renamed into it, removed from it.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

/// The name under which the next content of `path` is written.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_create_a_file_one_succeeds() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("record");
        let create = |i: u8| create_atomic(&path, &[i; 100]).expect("created or there");
        let mut created = [false; 8];
        std::thread::scope(|scope| {
            for (i, created) in (0..).zip(&mut created) {
                scope.spawn(move || *created = create(i));
            }
        });
        assert_eq!(created.iter().filter(|created| **created).count(), 1);
        let first = created.iter().position(|created| *created);
        let found = fs::read(&path).expect("a file");
        assert_eq!(found, [first.expect("one of them") as u8; 100]);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn without_links_a_file_is_renamed_and_replaces_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [first, second, path] = ["a", "b", "c"].map(|name| folder.path().join(name));
        fs::write(&first, "first").expect("written");
        fs::write(&second, "second").expect("written");
        rename_new(&first, &path).expect("renamed");
        let refused = rename_new(&second, &path).expect_err("it is there");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("a file"), b"first");
        assert!(!first.exists());
    }

    #[test]
    fn a_file_system_that_can_do_neither_is_named() {
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = CollectionError::create(Path::new("shared/outline"), refused);
        assert_eq!(
            error.to_string(),
            "the file system of `shared/outline` has neither hard links nor renames that replace nothing"
        );
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = CollectionError::create(Path::new("shared/outline"), full);
        assert!(matches!(error, CollectionError::DiskFull { .. }));
    }
}
