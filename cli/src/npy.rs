//! NumPy files of numbers.

use std::fs::Permissions;
use std::io::{Seek, Write};
use std::marker::PhantomData;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The header is written twice, before and after the rows are counted, and so has a fixed length.
const HEADER_BYTES: usize = 128;

/// An array of shape (rows, width) that appears under its name only when it is whole.
pub struct NpyFile<T> {
    file: tempfile::NamedTempFile,
    path: PathBuf,
    n_rows: usize,
    width: usize,
    values: PhantomData<T>,
}

/// A number as NumPy stores it.
pub trait Number: Copy {
    /// NumPy's name of the type.
    const TYPE: &'static str;

    fn bytes(self) -> impl IntoIterator<Item = u8>;
}

impl Number for f32 {
    const TYPE: &'static str = "<f4";

    fn bytes(self) -> impl IntoIterator<Item = u8> {
        self.to_le_bytes()
    }
}

impl Number for i64 {
    const TYPE: &'static str = "<i8";

    fn bytes(self) -> impl IntoIterator<Item = u8> {
        self.to_le_bytes()
    }
}

impl<T: Number> NpyFile<T> {
    pub fn create(path: &Path, width: usize) -> anyhow::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666)) // less what the user's umask takes away
            .tempfile_in(folder)
            .with_context(|| format!("cannot write into `{}`", folder.display()))?;
        file.write_all(&[0; HEADER_BYTES])?;
        Ok(Self {
            file,
            path: path.to_owned(),
            n_rows: 0,
            width,
            values: PhantomData,
        })
    }

    pub fn push(&mut self, row: &[T]) -> anyhow::Result<()> {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.bytes()).collect();
        self.file.write_all(&bytes)?;
        self.n_rows += 1;
        Ok(())
    }

    pub fn finish(self) -> anyhow::Result<()> {
        let Self {
            mut file,
            path,
            n_rows,
            width,
            values: _,
        } = self;
        file.rewind()?;
        file.write_all(&header(T::TYPE, n_rows, width))?;
        file.as_file().sync_all()?;
        file.persist(&path)
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(())
    }
}

/// NumPy format 1.0: magic, version, length of the dictionary, the dictionary padded with spaces.
fn header(type_name: &str, n_rows: usize, width: usize) -> Vec<u8> {
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((HEADER_BYTES - 10) as u16).to_le_bytes());
    let shape = format!(
        "{{'descr': '{type_name}', 'fortran_order': False, 'shape': ({n_rows}, {width}), }}"
    );
    header.extend(shape.bytes());
    header.resize(HEADER_BYTES - 1, b' ');
    header.push(b'\n');
    header
}
