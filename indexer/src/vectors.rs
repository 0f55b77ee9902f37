//! Vectors that the user brings: a NumPy file of rows and a text file that says whose they are.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use corpus::Passage;
use sha2::{Digest, Sha256};

/// Longest header of a NumPy file that is read; real ones have some hundred bytes.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// Vectors of the passages of a corpus, made elsewhere.
///
/// Passages find their row by their id, so the two files may be in another order than the corpus. Memory: 20 bytes a row.
#[derive(Debug)]
pub struct BroughtVectors {
    path: PathBuf,
    file: File,
    /// Where the rows begin.
    offset: u64,
    width: usize,
    /// The first half of the id's sha256, and the row; sorted.
    rows: Vec<([u8; 16], u32)>,
    digest: String,
}

/// Why vectors cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum VectorsError {
    /// The operating system refused.
    #[error("cannot read `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is no NumPy file of the expected kind.
    #[error("`{}` is not a NumPy file of rows of little-endian 32-bit floats: {reason}", path.display())]
    Header { path: PathBuf, reason: String },
    /// The file was truncated, or something was added to it.
    #[error("`{}` has {found} bytes instead of {expected}", path.display())]
    Length {
        path: PathBuf,
        expected: u64,
        found: u64,
    },
    /// There are not as many ids as rows.
    #[error("{n_ids} ids name {n_rows} vectors")]
    Count { n_ids: usize, n_rows: u64 },
    /// Two rows have one id.
    #[error("two vectors have the id of line {line} of `{}`", path.display())]
    Duplicate { path: PathBuf, line: u32 },
    /// A passage has no row.
    #[error("no vector has the id `{id}`")]
    Missing { id: String },
    /// Some rows have no passage.
    #[error("the corpus has {n_passages} passages, there are {n_rows} vectors")]
    Unused { n_passages: u64, n_rows: u64 },
}

impl BroughtVectors {
    /// Opens `vectors`, a NumPy file of shape (n, width) with 32-bit floats, and `ids`, a text file of n lines.
    ///
    /// # Errors
    /// [`VectorsError`] when the files are malformed or do not fit each other.
    pub fn open(vectors: &Path, ids: &Path) -> Result<Self, VectorsError> {
        let failed = |source| VectorsError::Io {
            path: vectors.to_owned(),
            source,
        };
        let malformed = |reason: String| VectorsError::Header {
            path: vectors.to_owned(),
            reason,
        };
        let mut file = File::open(vectors).map_err(failed)?;
        let header = read_header(&mut file).map_err(failed)?.map_err(malformed)?;
        let Header {
            n_rows,
            width,
            offset,
        } = header;
        let n_bytes = (width as u64)
            .checked_mul(4)
            .and_then(|bytes| bytes.checked_mul(n_rows));
        let expected = n_bytes
            .and_then(|bytes| bytes.checked_add(offset))
            .ok_or_else(|| malformed("impossible shape".to_owned()))?;
        let found = file.metadata().map_err(failed)?.len();
        if found != expected {
            return Err(VectorsError::Length {
                path: vectors.to_owned(),
                expected,
                found,
            });
        }
        let mut digest = Sha256::new();
        let content = File::open(vectors).map_err(failed)?;
        read_into(&mut digest, content).map_err(failed)?;
        let rows = read_ids(ids, &mut digest)?;
        if rows.len() as u64 != n_rows {
            return Err(VectorsError::Count {
                n_ids: rows.len(),
                n_rows,
            });
        }
        let digest = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            path: vectors.to_owned(),
            file,
            offset,
            width,
            rows,
            digest,
        })
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// sha256 of both files.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    pub(crate) fn check_count(&self, n_passages: u64) -> Result<(), VectorsError> {
        match self.rows.len() as u64 {
            n_rows if n_rows > n_passages => Err(VectorsError::Unused { n_passages, n_rows }),
            _ => Ok(()), // Fewer rows than passages: the first passage without one will be named.
        }
    }

    /// Returns the rows of the passages in their order, row-major.
    pub(crate) fn rows_of(&self, passages: &[Passage]) -> Result<Vec<f32>, VectorsError> {
        let mut values = Vec::with_capacity(passages.len() * self.width);
        let mut bytes = vec![0; 4 * self.width];
        for passage in passages {
            let key = key(&passage.id);
            let Ok(position) = self.rows.binary_search_by_key(&key, |row| row.0) else {
                return Err(VectorsError::Missing {
                    id: passage.id.clone(),
                });
            };
            let offset = self.offset + u64::from(self.rows[position].1) * bytes.len() as u64;
            let read = self.file.read_exact_at(&mut bytes, offset);
            read.map_err(|source| VectorsError::Io {
                path: self.path.clone(),
                source,
            })?;
            values.extend(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&value| f32::from_le_bytes(value)),
            );
        }
        Ok(values)
    }
}

fn read_into(digest: &mut Sha256, file: File) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 20, file);
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        digest.update(bytes);
        let n = bytes.len();
        file.consume(n);
    }
}

fn read_ids(path: &Path, digest: &mut Sha256) -> Result<Vec<([u8; 16], u32)>, VectorsError> {
    let failed = |source| VectorsError::Io {
        path: path.to_owned(),
        source,
    };
    let mut rows = Vec::new();
    for (row, line) in BufReader::new(File::open(path).map_err(failed)?)
        .lines()
        .enumerate()
    {
        let id = line.map_err(failed)?;
        digest.update(id.as_bytes());
        digest.update(b"\n");
        let row = u32::try_from(row).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        rows.push((key(&id), row));
    }
    rows.sort_unstable();
    match rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(VectorsError::Duplicate {
            path: path.to_owned(),
            line: pair[1].1.saturating_add(1),
        }),
        None => Ok(rows),
    }
}

fn key(id: &str) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(id).into();
    *hash.first_chunk().expect("32 bytes begin with 16")
}

#[derive(Debug, PartialEq)]
struct Header {
    n_rows: u64,
    width: usize,
    offset: u64,
}

/// Reads the header of a NumPy file, formats 1 to 3: magic, version, length, and a Python dictionary.
fn read_header(file: &mut impl Read) -> io::Result<Result<Header, String>> {
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    if start[..6] != *b"\x93NUMPY" || !(1..=3).contains(&start[6]) {
        return Ok(Err("unknown magic or version".to_owned()));
    }
    let mut length = [0; 4];
    let n_length_bytes = if start[6] == 1 { 2 } else { 4 };
    file.read_exact(&mut length[..n_length_bytes])?;
    let n_bytes = u32::from_le_bytes(length) as usize;
    if n_bytes > MAX_HEADER_BYTES {
        return Ok(Err(format!("header of {n_bytes} bytes")));
    }
    let mut text = vec![0; n_bytes];
    file.read_exact(&mut text)?;
    let offset = (start.len() + n_length_bytes + n_bytes) as u64;
    let text = String::from_utf8_lossy(&text);
    Ok(parse_dictionary(&text).map(|(n_rows, width)| Header {
        n_rows,
        width,
        offset,
    }))
}

fn parse_dictionary(text: &str) -> Result<(u64, usize), String> {
    let value = |name: &str| {
        let (_, after) = text
            .split_once(&format!("'{name}':"))
            .ok_or(format!("no `{name}`"))?;
        Ok::<_, String>(after.trim_start())
    };
    if !value("descr")?.starts_with("'<f4'") {
        return Err("another type of value".to_owned());
    }
    if !value("fortran_order")?.starts_with("False") {
        return Err("column-major order".to_owned());
    }
    let shape = value("shape")?
        .strip_prefix('(')
        .and_then(|shape| shape.split_once(')'))
        .ok_or("no `shape`")?
        .0;
    let sizes: Vec<u64> = shape
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(|size| size.parse().map_err(|_| format!("shape ({shape})")))
        .collect::<Result<_, _>>()?;
    match sizes[..] {
        [n_rows, width] if width > 0 => Ok((n_rows, usize::try_from(width).map_err(|_| "width")?)),
        _ => Err(format!("shape ({shape})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(dictionary: &str, rows: &[f32]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((dictionary.len() as u16).to_le_bytes());
        bytes.extend(dictionary.bytes());
        bytes.extend(rows.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    const SHAPE: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n";
    const ROWS: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

    fn open(vectors: &[u8], ids: &str) -> Result<BroughtVectors, VectorsError> {
        let folder = tempfile::tempdir().unwrap();
        let (rows, names) = (folder.path().join("v.npy"), folder.path().join("ids"));
        std::fs::write(&rows, vectors).unwrap();
        std::fs::write(&names, ids).unwrap();
        BroughtVectors::open(&rows, &names)
    }

    #[test]
    fn rows_are_found_by_id() {
        let vectors = open(&npy(SHAPE, &ROWS), "b\na\n").unwrap();
        let passage = |id: &str| Passage {
            id: id.to_owned(),
            ..Passage::default()
        };
        assert_eq!(
            vectors.rows_of(&[passage("a"), passage("b")]).unwrap(),
            [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]
        );
        let error = vectors.rows_of(&[passage("c")]).unwrap_err();
        assert!(matches!(error, VectorsError::Missing { id } if id == "c"));
    }

    #[test]
    fn malformed_files_have_names() {
        let header = |dictionary: &str| open(&npy(dictionary, &ROWS), "a\nb\n").unwrap_err();
        for dictionary in [
            "",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 4611686018427387904)}",
        ] {
            assert!(
                matches!(header(dictionary), VectorsError::Header { .. }),
                "{dictionary}"
            );
        }
        let whole = npy(SHAPE, &ROWS);
        for n in 0..whole.len() {
            let error = open(&whole[..n], "a\nb\n").unwrap_err();
            assert!(
                matches!(error, VectorsError::Io { .. } | VectorsError::Length { .. }),
                "{n}: {error}"
            );
        }
        assert!(matches!(
            open(&whole, "a\n").unwrap_err(),
            VectorsError::Count {
                n_ids: 1,
                n_rows: 2
            }
        ));
        assert!(matches!(
            open(&whole, "a\na\n").unwrap_err(),
            VectorsError::Duplicate { line: 2, .. }
        ));
    }
}
