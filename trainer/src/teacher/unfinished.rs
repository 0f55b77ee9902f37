use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{TeacherError, TeacherLine};

/// A file of teacher text that grows, so that nothing is written twice: the settings, and then a line for each passage.
///
/// A batch is one write. What a kill leaves of a line is cut off when the file is opened again.
pub struct Unfinished {
    path: PathBuf,
    file: File,
    /// Where lines begin, behind the settings.
    start: u64,
}

impl Unfinished {
    /// Opens the file, or makes a new one.
    ///
    /// # Errors
    /// [`TeacherError::OtherSetting`] for a file with other settings, [`TeacherError::Locked`], and what the system says.
    pub fn open(path: &Path, settings: &Value) -> Result<Self, TeacherError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = loop {
            let file = options.open(path)?;
            match file.try_lock() {
                // Whoever had it may have come to its end meanwhile, and removed it.
                Ok(()) if is_at(&file, path)? => break file,
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let path = path.to_owned();
                    return Err(TeacherError::Locked { path });
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        };
        let (mut reader, mut line) = (BufReader::new(&file), Vec::new());
        reader.read_until(b'\n', &mut line)?;
        let mut start = line.len() as u64;
        let mut end = start;
        if line.ends_with(b"\n") {
            check(path, &line, settings)?;
            loop {
                line.clear();
                reader.read_until(b'\n', &mut line)?;
                if !line.ends_with(b"\n") {
                    break;
                }
                end += line.len() as u64;
            }
            file.set_len(end)?;
        } else {
            let line = format!("{settings}\n");
            (start, end) = (line.len() as u64, line.len() as u64);
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(line.as_bytes())?;
        }
        file.seek(SeekFrom::Start(end))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            start,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `each` with the lines that are there, in their order.
    pub(super) fn for_each(
        &self,
        mut each: impl FnMut(TeacherLine) -> Result<(), TeacherError>,
    ) -> Result<(), TeacherError> {
        for line in self.reader()?.lines() {
            let line = serde_json::from_str(&line?).map_err(|error| TeacherError::Unfinished {
                path: self.path.clone(),
                reason: error.to_string(),
            })?;
            each(line)?;
        }
        Ok(())
    }

    /// Appends lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)
    }

    /// Copies the lines, without the settings.
    ///
    /// # Errors
    /// What the system says.
    pub fn copy_to(&self, writer: &mut dyn Write) -> io::Result<()> {
        io::copy(&mut self.reader()?, writer)?;
        Ok(())
    }

    /// Deletes the file, when its lines are elsewhere.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Reads the lines through another handle, so that this one stays at the end.
    fn reader(&self) -> io::Result<BufReader<File>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(BufReader::new(file))
    }
}

/// Whether a path leads to this file, and not to a later one of its name or to none.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file that is open has its name.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Compares the settings of a file with those of now.
fn check(path: &Path, line: &[u8], settings: &Value) -> Result<(), TeacherError> {
    let stored: Value = serde_json::from_slice(line).unwrap_or_default();
    let (Some(stored), Some(settings)) = (stored.as_object(), settings.as_object()) else {
        return Err(TeacherError::Unfinished {
            path: path.to_owned(),
            reason: "it does not begin with settings".to_owned(),
        });
    };
    for (entry, expected) in settings {
        let found = stored.get(entry).unwrap_or(&Value::Null);
        if found != expected {
            return Err(TeacherError::OtherSetting {
                path: path.to_owned(),
                entry: entry.clone(),
                found: found.to_string(),
                expected: expected.to_string(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(file: &Unfinished) -> String {
        let mut lines = Vec::new();
        file.copy_to(&mut lines).expect("memory takes all");
        String::from_utf8(lines).expect("lines are text")
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_removed_is_none_to_go_on_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queries.unfinished");
        let held = File::create(&path).expect("a new file");
        assert!(is_at(&held, &path).expect("it is there"));
        std::fs::remove_file(&path).expect("a file");
        assert!(!is_at(&held, &path).expect("there is none"));
        let _later = File::create(&path).expect("another one");
        assert!(!is_at(&held, &path).expect("there is another"));
    }

    #[test]
    fn whole_lines_are_kept_and_others_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queries.unfinished");
        let settings = json!({"seed": 1, "model": "a"});
        let open = |settings: &Value| Unfinished::open(&path, settings);
        let mut file = open(&settings).expect("a new file");
        file.append(b"{\"id\":\"1\",\"queries\":[\"a\"]}\n{\"id\":\"2\",\"que")
            .expect("it is written");
        assert!(matches!(open(&settings), Err(TeacherError::Locked { .. })));
        drop(file);
        let mut file = open(&settings).expect("the same settings");
        assert_eq!(lines(&file), "{\"id\":\"1\",\"queries\":[\"a\"]}\n");
        file.append(b"{\"id\":\"2\"}\n").expect("it is written");
        let mut ids = Vec::new();
        let each = |line: TeacherLine| {
            ids.push(line.id);
            Ok(())
        };
        file.for_each(each).expect("both are lines");
        assert_eq!(ids, ["1", "2"]);
        drop(file);

        let other = open(&json!({"seed": 2, "model": "a"}))
            .err()
            .expect("another seed");
        assert!(
            other
                .to_string()
                .ends_with("was begun with seed 1, now it is 2"),
            "{other}"
        );
        std::fs::write(&path, "{\"seed\":").expect("a file of half a line");
        let file = open(&settings).expect("it begins anew");
        assert_eq!(lines(&file), "");
        drop(file);
        std::fs::write(&path, "notes\n").expect("somebody's file");
        assert!(matches!(
            open(&settings),
            Err(TeacherError::Unfinished { .. })
        ));
    }
}
