use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::bi_encoder::BiEncoder;
use crate::cross_encoder::CrossEncoder;
use crate::directory::read_json;
use crate::error::{EncodeError, LoadError};
use crate::options::Role;
use crate::tokenizer::{Text, Tokens};

/// Texts with the vectors, or pairs with the scores, that the reference implementation gives them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Golden {
    format: u32,
    tolerance: Tolerance,
    #[serde(flatten)]
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Tolerance {
    cosine: f64,
    max_abs: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Content {
    BiEncoder {
        texts: Vec<GoldenText>,
        vectors: Vec<Vec<f32>>,
    },
    CrossEncoder {
        pairs: Vec<GoldenPair>,
        logits: Vec<Vec<f32>>,
        scores: Vec<Vec<f32>>,
    },
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct GoldenText {
    text: String,
    role: Role,
    #[serde(flatten)]
    count: Count,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct GoldenPair {
    query: String,
    passage: String,
    #[serde(flatten)]
    count: Count,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Count {
    tokens: usize,
    truncated: bool,
}

/// How far a model is from the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenReport {
    /// Texts or pairs that were compared.
    pub n: usize,
    /// Least cosine between a vector and its reference; 1 for scores.
    pub min_cosine: f64,
    /// Largest difference of a value.
    pub max_abs: f64,
    /// The text or pair where it is.
    pub worst: usize,
    /// Texts or pairs whose number of tokens, or whether they were cut, is another than the reference's.
    pub wrong_tokens: Vec<usize>,
    /// Whether all is within the tolerance of the golden file.
    pub passed: bool,
}

/// Why a model could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// The golden file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The golden file contradicts itself or has another format.
    #[error("`{}`: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The golden file is of the other kind of model.
    #[error("the golden file is for a {found}, the model is a {expected}")]
    Kind {
        /// Kind of the model.
        expected: &'static str,
        /// Kind of the file.
        found: &'static str,
    },
    /// Vectors or scores have another width than the reference.
    #[error("the model gives {found} values, the golden file has {expected}")]
    Width {
        /// Width of the reference.
        expected: usize,
        /// Width of the model.
        found: usize,
    },
    /// The model fails on a text.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl Golden {
    /// Reads a golden file, format 1.
    ///
    /// # Errors
    /// [`GoldenError::Load`] or [`GoldenError::Invalid`], naming the file.
    pub fn load(path: &Path) -> Result<Self, GoldenError> {
        let golden: Self = read_json(path)?;
        let invalid = |reason: String| {
            Err(GoldenError::Invalid {
                path: path.to_path_buf(),
                reason,
            })
        };
        if golden.format != 1 {
            return invalid(format!("format is {}, this version reads 1", golden.format));
        }
        let (n_entries, tables) = match &golden.content {
            Content::BiEncoder { texts, vectors } => (texts.len(), vec![vectors]),
            Content::CrossEncoder {
                pairs,
                logits,
                scores,
            } => (pairs.len(), vec![logits, scores]),
        };
        for rows in tables {
            if rows.len() != n_entries || rows.iter().any(|row| row.len() != rows[0].len()) {
                return invalid(format!(
                    "{n_entries} entries need as many rows of one width"
                ));
            }
        }
        Ok(golden)
    }

    /// Whether this is for a [`CrossEncoder`].
    pub fn is_cross(&self) -> bool {
        matches!(self.content, Content::CrossEncoder { .. })
    }

    /// Compares a bi-encoder with the reference vectors.
    ///
    /// # Errors
    /// [`GoldenError`] when they cannot be compared; a failed comparison is a report with `passed` false.
    pub fn check_bi(&self, encoder: &BiEncoder) -> Result<GoldenReport, GoldenError> {
        let Content::BiEncoder { texts, vectors } = &self.content else {
            return Err(GoldenError::Kind {
                expected: "bi-encoder",
                found: "cross-encoder",
            });
        };
        let mut tokens = Vec::with_capacity(texts.len());
        for entry in texts {
            tokens.extend(encoder.tokenize(entry.role, &[Text::Single(&entry.text)])?);
        }
        let embeddings = encoder.encode(&tokens)?;
        let counts = texts.iter().map(|entry| entry.count);
        let mut report = GoldenReport::new(&tokens, counts);
        report.compare(&embeddings.values, embeddings.width, vectors, true)?;
        Ok(report.judged(self.tolerance))
    }

    /// Compares a cross-encoder with the reference scores and logits.
    ///
    /// # Errors
    /// As [`Self::check_bi`].
    pub fn check_cross(&self, encoder: &CrossEncoder) -> Result<GoldenReport, GoldenError> {
        let Content::CrossEncoder {
            pairs,
            logits,
            scores,
        } = &self.content
        else {
            return Err(GoldenError::Kind {
                expected: "cross-encoder",
                found: "bi-encoder",
            });
        };
        let texts: Vec<_> = pairs
            .iter()
            .map(|pair| (pair.query.as_str(), pair.passage.as_str()))
            .collect();
        let tokens = encoder.tokenize(&texts)?;
        let found = encoder.score(&tokens)?;
        let mut report = GoldenReport::new(&tokens, pairs.iter().map(|pair| pair.count));
        report.compare(&found.values, found.n_labels, scores, false)?;
        report.compare(&found.logits, found.n_labels, logits, false)?;
        Ok(report.judged(self.tolerance))
    }
}

impl GoldenReport {
    fn new(tokens: &[Tokens], counts: impl Iterator<Item = Count>) -> Self {
        let pairs = tokens.iter().zip(counts).enumerate();
        let wrong = pairs.filter(|(_, (text, count))| {
            (text.len(), text.truncated) != (count.tokens, count.truncated)
        });
        let wrong_tokens = wrong.map(|(index, _)| index).collect();
        Self {
            n: tokens.len(),
            min_cosine: 1.0,
            max_abs: 0.0,
            worst: 0,
            wrong_tokens,
            passed: false,
        }
    }

    fn compare(
        &mut self,
        values: &[f32],
        width: usize,
        expected: &[Vec<f32>],
        with_cosine: bool,
    ) -> Result<(), GoldenError> {
        for (index, (row, expected)) in values.chunks_exact(width).zip(expected).enumerate() {
            if expected.len() != width {
                return Err(GoldenError::Width {
                    expected: expected.len(),
                    found: width,
                });
            }
            let pairs = || {
                row.iter()
                    .zip(expected)
                    .map(|(&a, &b)| (f64::from(a), f64::from(b)))
            };
            let max_abs = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            if max_abs > self.max_abs {
                (self.max_abs, self.worst) = (max_abs, index);
            }
            if with_cosine {
                let (dot, left, right) = pairs().fold((0.0, 0.0, 0.0), |(dot, aa, bb), (a, b)| {
                    (dot + a * b, aa + a * a, bb + b * b)
                });
                let norms = (left * right).sqrt();
                let cosine = if norms > 0.0 {
                    dot / norms
                } else {
                    f64::from(u8::from(left == right))
                };
                self.min_cosine = self.min_cosine.min(cosine);
            }
        }
        Ok(())
    }

    fn judged(self, tolerance: Tolerance) -> Self {
        let passed = self.min_cosine >= tolerance.cosine
            && self.max_abs <= tolerance.max_abs
            && self.wrong_tokens.is_empty();
        Self { passed, ..self }
    }
}
