//! How changes are written.

use std::ops::Range;

use collection::{NewRecord, Record};
use corpus::{Passage, passage_id};
use retriever::{Added, AddedPart};
use serde::{Deserialize, Serialize};

use super::LiveError;
use crate::inputs::Input;

const UPSERT: u8 = 1;
const DELETE: u8 = 2;
/// Says what was answered to a request, for those who ask again.
pub(crate) const ANSWER: u8 = 3;

/// A change of one document.
#[derive(Clone, Debug, PartialEq)]
pub enum DocumentChange {
    /// The document takes the place of the one with its id.
    Upsert(Upsert),
    /// The document with this id goes.
    Delete(String),
}

/// A document and the vectors of its passages.
#[derive(Clone, Debug, PartialEq)]
pub struct Upsert {
    /// As it was sent.
    pub document: Passage,
    pub(crate) head: Head,
    /// Of the passages, row-major.
    pub(crate) rows: Vec<f32>,
}

/// What is known of the vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// Digest of the fingerprint under which they were made.
    pub fingerprint: String,
    /// Arithmetic of the encoder.
    pub arithmetic: String,
    /// Characters of the document's text in each passage, where documents are split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub characters: Option<Vec<Range<u32>>>,
    /// What each row was made from; empty where vectors were brought.
    pub inputs: Vec<[u8; Input::BYTES]>,
    pub n_missing: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    document: Passage,
    head: Head,
}

impl Upsert {
    /// The passages with their rows.
    pub(crate) fn passages(&self) -> impl Iterator<Item = (Added, &[f32])> {
        let n_passages = self.n_passages();
        let width = self.rows.len() / n_passages.max(1);
        let rows = self.rows.chunks_exact(width.max(1));
        (0..n_passages).map(|i| self.passage(i)).zip(rows)
    }

    /// Passages that the document has.
    #[must_use]
    pub fn n_passages(&self) -> usize {
        self.head.characters.as_ref().map_or(1, Vec::len)
    }

    fn passage(&self, number: usize) -> Added {
        let document = &self.document;
        let Some(characters) = self.head.characters.as_ref().map(|all| all[number].clone()) else {
            return Added {
                passage: document.clone(),
                part: None,
            };
        };
        let n_characters = (characters.end - characters.start) as usize;
        let text = document.text.chars().skip(characters.start as usize);
        let number = number as u32;
        Added {
            passage: Passage {
                id: passage_id(&document.id, number),
                text: text.take(n_characters).collect(),
                ..document.clone()
            },
            part: Some(AddedPart {
                document: document.id.clone(),
                number,
                characters,
            }),
        }
    }
}

impl DocumentChange {
    /// The document that is changed.
    #[must_use]
    pub fn document(&self) -> &str {
        match self {
            Self::Upsert(upsert) => &upsert.document.id,
            Self::Delete(id) => id,
        }
    }

    /// The change as the log has it.
    #[must_use]
    pub fn to_record(&self) -> NewRecord {
        let upsert = match self {
            Self::Delete(id) => {
                return NewRecord {
                    kind: DELETE,
                    payload: id.clone().into_bytes(),
                };
            }
            Self::Upsert(upsert) => upsert,
        };
        let written = Written {
            document: upsert.document.clone(),
            head: upsert.head.clone(),
        };
        let text = serde_json::to_vec(&written).expect("a passage has string keys only");
        let mut payload = Vec::with_capacity(4 + text.len() + 4 * upsert.rows.len());
        payload.extend((text.len() as u32).to_le_bytes());
        payload.extend(text);
        payload.extend(upsert.rows.iter().flat_map(|value| value.to_le_bytes()));
        NewRecord {
            kind: UPSERT,
            payload,
        }
    }

    /// Reads a record; none where it is no change.
    ///
    /// # Errors
    /// [`LiveError::Record`] for what this version did not write.
    pub fn of_record(record: Record<'_>) -> Result<Option<Self>, LiveError> {
        let unknown = |reason: String| LiveError::Record {
            position: record.position,
            reason,
        };
        match record.kind {
            UPSERT => {}
            DELETE => {
                let id = String::from_utf8(record.payload.to_vec());
                let id = id.map_err(|error| unknown(error.to_string()))?;
                return Ok(Some(Self::Delete(id)));
            }
            ANSWER => return Ok(None),
            kind => return Err(unknown(format!("kind {kind}, a newer version wrote it"))),
        }
        let short = || unknown("too short".to_owned());
        let (length, rest) = record.payload.split_first_chunk().ok_or_else(short)?;
        let (text, rows) = rest
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or_else(short)?;
        let written: Written =
            serde_json::from_slice(text).map_err(|error| unknown(error.to_string()))?;
        let Written { document, head } = written;
        let (rows, rest) = rows.as_chunks();
        let upsert = Upsert {
            document,
            head,
            rows: rows
                .iter()
                .map(|&value| f32::from_le_bytes(value))
                .collect(),
        };
        let n_passages = upsert.n_passages();
        if !rest.is_empty() || n_passages == 0 || !upsert.rows.len().is_multiple_of(n_passages) {
            return Err(unknown("its vectors are not whole".to_owned()));
        }
        Ok(Some(Self::Upsert(upsert)))
    }
}
