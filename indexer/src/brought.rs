//! Vectors that the user brings: a file of rows and a text file that says whose they are.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use corpus::Passage;
use index::Metric;
use sha2::{Digest, Sha256};
use vectors::{VectorFile, ZeroRows};

/// Vectors of the passages of a corpus, made elsewhere.
///
/// Passages find their row by their id, so the two files may be in another order than the corpus. Memory: 20 bytes a row.
#[derive(Debug)]
pub struct BroughtVectors {
    file: VectorFile,
    metric: Metric,
    /// The first half of the id's sha256, and the row; sorted.
    rows: Vec<([u8; 16], u32)>,
    digest: String,
}

/// Why vectors cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum VectorsError {
    /// The file of the vectors cannot be used.
    #[error("cannot read the vectors")]
    File(#[from] vectors::VectorFileError),
    /// The file of the ids cannot be read.
    #[error("cannot read `{}`", path.display())]
    Ids { path: PathBuf, source: io::Error },
    /// There are not as many ids as rows.
    #[error("`{}` has {n_ids} ids for {n_rows} vectors", path.display())]
    Count {
        path: PathBuf,
        n_ids: usize,
        n_rows: u64,
    },
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
    /// Reads all rows of `file` once and `ids`, a text file with the id of each row's passage, one a line.
    ///
    /// # Errors
    /// [`VectorsError`] when a row cannot be compared by `metric`, or when rows and ids do not fit each other.
    pub fn open(file: VectorFile, ids: &Path, metric: Metric) -> Result<Self, VectorsError> {
        let mut digest = Sha256::new();
        let rows = read_ids(ids, &mut digest)?;
        let n_rows = file.n_rows();
        if rows.len() as u64 != n_rows {
            return Err(VectorsError::Count {
                path: ids.to_owned(),
                n_ids: rows.len(),
                n_rows,
            });
        }
        let zero_rows = match metric {
            Metric::Cosine => ZeroRows::Refused,
            Metric::InnerProduct | Metric::L2 => ZeroRows::Allowed,
        };
        digest.update((file.width() as u64).to_le_bytes());
        let mut bytes = Vec::new();
        file.for_each_block(zero_rows, |values| {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            digest.update(&bytes);
        })?;
        let digest = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            file,
            metric,
            rows,
            digest,
        })
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.file.width()
    }

    /// How rows are compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// sha256 of ids and values: the same vectors from a file of another kind have the same digest.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    pub(crate) fn check_count(&self, n_passages: u64) -> Result<(), VectorsError> {
        match self.file.n_rows() {
            n_rows if n_rows > n_passages => Err(VectorsError::Unused { n_passages, n_rows }),
            _ => Ok(()), // Fewer rows than passages: the first passage without one will be named.
        }
    }

    /// Returns the rows of the passages in their order, row-major.
    pub(crate) fn rows_of<'a>(
        &self,
        passages: impl Iterator<Item = &'a Passage>,
    ) -> Result<Vec<f32>, VectorsError> {
        let mut values = Vec::with_capacity(passages.size_hint().0 * self.width());
        for passage in passages {
            let key = key(&passage.id);
            let Ok(position) = self.rows.binary_search_by_key(&key, |row| row.0) else {
                return Err(VectorsError::Missing {
                    id: passage.id.clone(),
                });
            };
            self.file
                .read(self.rows[position].1.into(), 1, &mut values)?;
        }
        Ok(values)
    }
}

fn read_ids(path: &Path, digest: &mut Sha256) -> Result<Vec<([u8; 16], u32)>, VectorsError> {
    let failed = |source| VectorsError::Ids {
        path: path.to_owned(),
        source,
    };
    let mut rows = Vec::new();
    for (row, line) in BufReader::new(File::open(path).map_err(failed)?)
        .lines()
        .enumerate()
    {
        let line = line.map_err(failed)?;
        let id = match row {
            0 => line.strip_prefix('\u{feff}').unwrap_or(&line), // a byte order mark
            _ => line.as_str(),
        };
        digest.update(id.as_bytes());
        digest.update(b"\n");
        let row = u32::try_from(row).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        rows.push((key(id), row));
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

#[cfg(test)]
mod tests {
    use vectors::VectorFileError;

    use super::*;

    /// Opens rows of width 2, as a `.fvecs` file, under cosine.
    fn open(rows: &[[f32; 2]], ids: &str) -> Result<BroughtVectors, VectorsError> {
        let folder = tempfile::tempdir().unwrap();
        let (path, names) = (folder.path().join("v.fvecs"), folder.path().join("ids"));
        let row = |row: &[f32; 2]| {
            let values = row.iter().flat_map(|value| value.to_le_bytes());
            2i32.to_le_bytes()
                .into_iter()
                .chain(values)
                .collect::<Vec<_>>()
        };
        std::fs::write(&path, rows.iter().flat_map(row).collect::<Vec<_>>()).unwrap();
        std::fs::write(&names, ids).unwrap();
        BroughtVectors::open(VectorFile::open(&path, None)?, &names, Metric::Cosine)
    }

    #[test]
    fn rows_are_found_by_id() {
        // A byte order mark and other line ends are no part of an id.
        let vectors = open(&[[1.0, 2.0], [3.0, 4.0]], "\u{feff}b\r\na\n").unwrap();
        let passage = |id: &str| Passage {
            id: id.to_owned(),
            ..Passage::default()
        };
        assert_eq!(
            vectors
                .rows_of([passage("a"), passage("b")].iter())
                .unwrap(),
            [3.0, 4.0, 1.0, 2.0]
        );
        let error = vectors.rows_of([passage("c")].iter()).unwrap_err();
        assert!(matches!(error, VectorsError::Missing { id } if id == "c"));
    }

    #[test]
    fn ids_and_rows_that_do_not_fit_have_names() {
        let rows = [[1.0, 2.0], [3.0, 4.0]];
        let error = open(&rows, "a\n").unwrap_err();
        assert!(matches!(
            error,
            VectorsError::Count {
                path,
                n_ids: 1,
                n_rows: 2
            } if path.ends_with("ids")
        ));
        let error = open(&rows, "a\na\n").unwrap_err();
        assert!(matches!(error, VectorsError::Duplicate { line: 2, .. }));
        let error = open(&[[1.0, 2.0], [0.0, 0.0]], "a\nb\n").unwrap_err();
        let VectorsError::File(VectorFileError::ZeroRow { row: 1, .. }) = error else {
            panic!("{error}")
        };
    }
}
