use std::path::{Path, PathBuf};

use crate::{CorpusError, Qrels, QrelsFormat, Query, read_queries};

/// A retrieval data set in BEIR's layout: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`, any of them with
/// `.gz` or `.zst`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Name of the folder.
    pub name: String,
    /// The files of the corpus.
    pub corpus: Vec<PathBuf>,
    /// The queries of all splits.
    pub queries: PathBuf,
    /// The folder of the judgments.
    pub qrels_folder: PathBuf,
}

impl Dataset {
    /// Finds the files of a data set.
    ///
    /// # Errors
    /// [`CorpusError::MissingFile`].
    pub fn open(folder: &Path) -> Result<Self, CorpusError> {
        let name = std::path::absolute(folder)
            .ok()
            .and_then(|folder| {
                folder
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            })
            .unwrap_or_default();
        Ok(Self {
            name,
            corpus: vec![find(folder, "corpus.jsonl")?],
            queries: find(folder, "queries.jsonl")?,
            qrels_folder: folder.join("qrels"),
        })
    }

    /// The splits that have judgments, in order of name.
    ///
    /// # Errors
    /// [`CorpusError::Open`] when there is no folder of judgments.
    pub fn splits(&self) -> Result<Vec<String>, CorpusError> {
        let failed = |source| CorpusError::Open {
            path: self.qrels_folder.clone(),
            source,
        };
        let mut splits = Vec::new();
        for entry in std::fs::read_dir(&self.qrels_folder).map_err(failed)? {
            let name = entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned();
            let stem = [".gz", ".zst"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(&name);
            splits.extend(stem.strip_suffix(".tsv").map(str::to_owned));
        }
        splits.sort();
        splits.dedup();
        Ok(splits)
    }

    /// The file of a split's judgments.
    ///
    /// # Errors
    /// [`CorpusError::MissingFile`].
    pub fn qrels_path(&self, split: &str) -> Result<PathBuf, CorpusError> {
        let folder = self.qrels_folder.parent().unwrap_or(&self.qrels_folder);
        find(folder, &format!("qrels/{split}.tsv"))
    }

    /// Reads a split's judgments.
    ///
    /// # Errors
    /// [`CorpusError::MissingFile`] and those of [`Qrels::read`].
    pub fn qrels(&self, split: &str) -> Result<Qrels, CorpusError> {
        Qrels::read(&self.qrels_path(split)?, QrelsFormat::Auto)
    }

    /// Reads the queries that a split judges, in the order of their file.
    ///
    /// # Errors
    /// As [`read_queries`]; [`CorpusError::UnknownQuery`] when a judged query is not among them.
    pub fn queries_of(&self, split: &str) -> Result<Vec<Query>, CorpusError> {
        let qrels = self.qrels(split)?;
        let mut queries = read_queries(&self.queries)?;
        queries.retain(|query| qrels.get(&query.id).is_some());
        if queries.len() < qrels.len() {
            let known: std::collections::HashSet<&str> =
                queries.iter().map(|query| query.id.as_str()).collect();
            let unknown = qrels
                .queries()
                .map(|(id, _)| id)
                .find(|id| !known.contains(id))
                .unwrap_or_default();
            let (qrels, queries) = (self.qrels_path(split)?, self.queries.clone());
            return Err(CorpusError::UnknownQuery {
                qrels,
                queries,
                id: unknown.to_owned(),
            });
        }
        Ok(queries)
    }
}

fn find(dataset: &Path, file: &str) -> Result<PathBuf, CorpusError> {
    ["", ".gz", ".zst"]
        .iter()
        .map(|end| dataset.join(format!("{file}{end}")))
        .find(|path| path.is_file())
        .ok_or_else(|| CorpusError::MissingFile {
            path: dataset.to_owned(),
            file: file.to_owned(),
        })
}
