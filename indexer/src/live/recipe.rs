//! How documents become passages and vectors in a generation.

use collection::Manifest;
use corpus::{Passage, Template, parse_passage_id};
use encoder::{BiEncoder, Role, Text, Tokens};
use retriever::{ChangeError, RowForm, View};

use super::LiveError;
use super::record::{Head, Upsert};
use crate::inputs::Input;
use crate::splitter::Splitter;

/// What a manifest says of how documents become vectors.
#[derive(Clone, Debug)]
pub struct Recipe {
    fingerprint: String,
    template: Template,
    pair: bool,
    stride: Option<usize>,
    is_external: bool,
    form: RowForm,
}

/// A document on its way to its vectors.
#[derive(Debug)]
pub struct Draft {
    /// Of the passages, in order.
    pub tokens: Vec<Tokens>,
    document: Passage,
    head: Head,
}

impl Recipe {
    /// The recipe of a generation.
    ///
    /// # Errors
    /// [`LiveError::Manifest`] where the manifest says what this version cannot follow.
    pub fn of(manifest: &Manifest, form: RowForm) -> Result<Self, LiveError> {
        let failed = |reason: String| LiveError::Manifest {
            generation: manifest.generation.to_string(),
            reason,
        };
        let template = Template::parse(&manifest.templates.passage);
        let passage = &manifest.fingerprint["passage"];
        let stride = passage["split"]["stride"].as_u64();
        Ok(Self {
            fingerprint: manifest.fingerprint_digest.clone(),
            template: template.map_err(|error| failed(error.to_string()))?,
            pair: passage["pair"] == true,
            stride: stride.map(|stride| stride as usize),
            is_external: manifest.fingerprint["space"] == "external",
            form,
        })
    }

    /// Whether documents bring their vectors.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.is_external
    }

    /// Digest of the fingerprint of the vectors.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Values of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.form.width
    }

    /// Splits a document and turns its passages into tokens.
    ///
    /// # Errors
    /// [`LiveError::PassageId`] and [`LiveError::Encode`].
    pub fn draft(&self, encoder: &BiEncoder, document: Passage) -> Result<Draft, LiveError> {
        let failed = |source| LiveError::Encode {
            id: document.id.clone(),
            source,
        };
        let mut passages = vec![document.clone()];
        let mut characters = None;
        if let Some(stride) = self.stride {
            if parse_passage_id(&document.id).is_some() {
                let id = document.id.clone();
                return Err(LiveError::PassageId { id });
            }
            let splitter = Splitter::of(encoder, &self.template, self.pair, stride);
            let parts = splitter.split(&document).map_err(failed)?;
            characters = parts.iter().map(|part| part.characters.clone()).collect();
            passages = parts.into_iter().map(|part| part.passage).collect();
        }
        let (mut tokens, mut inputs, mut n_missing) = (Vec::new(), Vec::new(), 0);
        for passage in &passages {
            let rendered = self.template.render(passage);
            let text = match self.pair {
                true => Text::Pair(&passage.title, &rendered.text),
                false => Text::Single(&rendered.text),
            };
            let read = encoder.tokenize(Role::Passage, &[text]).map_err(failed)?;
            inputs.push(Input::new(Input::digest(text), &read[0]).to_bytes());
            tokens.extend(read);
            n_missing += rendered.n_missing as u64;
        }
        let head = Head {
            fingerprint: self.fingerprint.clone(),
            arithmetic: encoder.config().arithmetic.as_str().to_owned(),
            characters,
            inputs,
            n_missing,
        };
        Ok(Draft {
            tokens,
            document,
            head,
        })
    }

    /// A document with the vector it was sent with.
    ///
    /// # Errors
    /// [`LiveError::Width`].
    pub fn brought(&self, document: Passage, vector: Vec<f32>) -> Result<Upsert, LiveError> {
        if vector.len() != self.form.width {
            return Err(LiveError::Width {
                id: document.id,
                expected: self.form.width,
                found: vector.len(),
            });
        }
        Ok(Upsert {
            document,
            head: Head {
                fingerprint: self.fingerprint.clone(),
                arithmetic: encoder::Arithmetic::F32.as_str().to_owned(),
                characters: None,
                inputs: Vec::new(),
                n_missing: 0,
            },
            rows: vector,
        })
    }

    /// Refuses what could not be applied: vectors that cannot be compared, metadata that is not of its field's kind.
    ///
    /// # Errors
    /// [`LiveError::Change`].
    pub fn check(&self, view: &View, upsert: &Upsert) -> Result<(), LiveError> {
        let RowForm {
            width,
            metric,
            row_type,
        } = self.form;
        let mut rows = index::MemoryRows::new(width, metric, row_type, 0);
        let mut check = || {
            view.check(&upsert.document)?;
            for row in upsert.rows.chunks(width.max(1)) {
                rows.push(row)?;
            }
            Ok(())
        };
        check().map_err(|source: ChangeError| LiveError::Change {
            id: upsert.document.id.clone(),
            source: Box::new(source),
        })
    }

    /// The same document as this generation has it: encoded again where it was encoded otherwise.
    ///
    /// # Errors
    /// [`LiveError::Fingerprint`] when that needs an encoder and there is none; else as [`Self::draft`].
    pub(crate) fn fit(
        &self,
        upsert: Upsert,
        encoder: Option<&BiEncoder>,
    ) -> Result<Upsert, LiveError> {
        if upsert.head.fingerprint == self.fingerprint {
            return Ok(upsert);
        }
        let Some(encoder) = encoder.filter(|_| !self.is_external) else {
            return Err(LiveError::Fingerprint {
                id: upsert.document.id,
                found: upsert.head.fingerprint,
                expected: self.fingerprint.clone(),
            });
        };
        let draft = self.draft(encoder, upsert.document)?;
        draft.encode(encoder)
    }
}

impl Draft {
    /// The document with the vectors of its passages, row-major.
    #[must_use]
    pub fn finish(self, rows: Vec<f32>) -> Upsert {
        Upsert {
            document: self.document,
            head: self.head,
            rows,
        }
    }

    /// The document with vectors that are made now.
    ///
    /// # Errors
    /// [`LiveError::Encode`].
    pub fn encode(self, encoder: &BiEncoder) -> Result<Upsert, LiveError> {
        let embeddings = encoder
            .encode(&self.tokens)
            .map_err(|source| LiveError::Encode {
                id: self.document.id.clone(),
                source,
            })?;
        Ok(self.finish(embeddings.values))
    }
}
