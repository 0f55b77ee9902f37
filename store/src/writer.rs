use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use corpus::{Passage, Schema, parse_passage_id};
use serde::{Deserialize, Serialize};

use crate::documents::DocumentsWriter;
use crate::error::write_error;
use crate::ids::IdsWriter;
use crate::lexical::LexicalWriter;
use crate::passages::PassagesWriter;
use crate::store::{DOCUMENTS, IDS, LEXICAL, PASSAGES};
use crate::{Language, WriteError};

/// How a store is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Stop words and stemmer of the lexical index.
    pub language: Language,
    /// Metadata fields; the filterable ones are typed and indexed, the others only kept.
    pub schema: Schema,
    /// Bytes of records that close a block of `passages`. Higher: smaller files, slower access to one passage.
    pub block_bytes: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            language: Language::default(),
            schema: Schema::default(),
            block_bytes: 64 << 10,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSummary {
    /// Passages in the store.
    pub n_passages: u32,
    /// Every file, relative to the folder of the store, in ascending order.
    pub files: Vec<PathBuf>,
}

/// Writes a store, passage by passage in ordinal order.
///
/// Memory is about 150 MiB, 16 bytes for each passage (the id lookup), 4 for each document and 24 for each block, whatever the length of
/// the passages: tantivy's heap of 64 MiB, at most 64 MiB of text in its queue, one block, the largest passage.
pub struct StoreWriter {
    folder: PathBuf,
    ids: IdsWriter,
    passages: PassagesWriter,
    /// Begun by the first part of a document.
    documents: Option<DocumentsWriter>,
    lexical: LexicalWriter,
    n_passages: u32,
}

impl StoreWriter {
    /// Begins a store in a folder, which is made if it is not there; what an earlier writer left there is removed.
    ///
    /// # Errors
    /// [`WriteError::Write`] and [`WriteError::Lexical`].
    pub fn create(folder: &Path, config: &StoreConfig) -> Result<Self, WriteError> {
        fs::create_dir_all(folder).map_err(write_error(folder))?;
        let paths = [IDS, PASSAGES, DOCUMENTS, LEXICAL].map(|name| folder.join(name));
        paths.iter().try_for_each(|path| remove(path))?;
        let [ids, passages, _, lexical] = paths;
        Ok(Self {
            folder: folder.to_owned(),
            ids: IdsWriter::create(&ids)?,
            passages: PassagesWriter::create(&passages, config.block_bytes)?,
            documents: None,
            lexical: LexicalWriter::create(&lexical, config)?,
            n_passages: 0,
        })
    }

    /// Adds the passage with the next ordinal. Ids are expected to differ; of equal ones the first is looked up.
    ///
    /// # Errors
    /// A passage that is refused ([`WriteError::TooLarge`], [`WriteError::Value`]) or cannot be written. The writer
    /// is of no use afterwards.
    pub fn push(&mut self, passage: &Passage) -> Result<(), WriteError> {
        if self.documents.is_some() {
            let id = passage.id.clone();
            return Err(WriteError::Part { id });
        }
        self.push_record(passage)
    }

    /// Adds, as [`Self::push`] does, a passage that is part of a document: `characters` of its text. The id is one of
    /// [`corpus::passage_id`]; passages of a document follow each other and are numbered from 0.
    ///
    /// # Errors
    /// As [`Self::push`]; [`WriteError::Part`] for another id, and when passages that are no parts were added before.
    pub fn push_part(
        &mut self,
        passage: &Passage,
        characters: &Range<u32>,
    ) -> Result<(), WriteError> {
        let number = parse_passage_id(&passage.id)
            .map(|(_, number)| number)
            .filter(|&number| number == 0 || self.n_passages > 0);
        let (Some(number), true) = (number, self.documents.is_some() == (self.n_passages > 0))
        else {
            let id = passage.id.clone();
            return Err(WriteError::Part { id });
        };
        let documents = match &mut self.documents {
            Some(documents) => documents,
            None => self
                .documents
                .insert(DocumentsWriter::create(&self.folder.join(DOCUMENTS))?),
        };
        documents.push(number, characters)?;
        self.push_record(passage)
    }

    fn push_record(&mut self, passage: &Passage) -> Result<(), WriteError> {
        self.ids.push(&passage.id)?;
        self.passages.push(passage)?;
        self.lexical.push(self.n_passages, passage)?;
        self.n_passages += 1;
        Ok(())
    }

    /// Completes the parts and syncs them and the folder to disk.
    ///
    /// # Errors
    /// [`WriteError::Write`] and [`WriteError::Lexical`].
    pub fn finish(self) -> Result<StoreSummary, WriteError> {
        self.ids.finish()?;
        self.passages.finish()?;
        self.documents.map_or(Ok(()), DocumentsWriter::finish)?;
        self.lexical.finish()?;
        sync_folder(&self.folder)?;
        Ok(StoreSummary {
            n_passages: self.n_passages,
            files: files(&self.folder)?,
        })
    }
}

/// Removes a file or folder if it is there.
fn remove(path: &Path) -> Result<(), WriteError> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(path)(error)),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<(), WriteError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(write_error(folder))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let lexical = folder.join(LEXICAL);
    let mut files = vec![PathBuf::from(IDS), PathBuf::from(PASSAGES)];
    files.extend(
        folder
            .join(DOCUMENTS)
            .exists()
            .then(|| PathBuf::from(DOCUMENTS)),
    );
    for entry in fs::read_dir(&lexical).map_err(write_error(&lexical))? {
        files.push(Path::new(LEXICAL).join(entry.map_err(write_error(&lexical))?.file_name()));
    }
    files.sort_unstable();
    Ok(files)
}
