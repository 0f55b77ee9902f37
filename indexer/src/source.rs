//! Where the vectors of passages come from.

use encoder::{Arithmetic, BiEncoder, Fingerprint, Role, Similarity, Text, TextSpec, Tokens};
use index::Metric;

use crate::splitter::{Part, Splitter};
use crate::{BroughtVectors, BuildConfig, BuildError};

/// An encoder, or vectors made elsewhere.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Encoder(&'a BiEncoder),
    Brought(&'a BroughtVectors),
}

impl Source<'_> {
    /// The arithmetic of the vectors, as manifests name it.
    pub(crate) fn arithmetic(self) -> &'static str {
        match self {
            Self::Encoder(encoder) => encoder.config().arithmetic.as_str(),
            Self::Brought(_) => Arithmetic::F32.as_str(),
        }
    }
}

/// What a chunk of passages needs to become rows.
pub(crate) enum Input<'a> {
    Tokens {
        encoder: &'a BiEncoder,
        tokens: Vec<Tokens>,
        n_missing: u64,
    },
    Rows(Vec<f32>),
}

/// The rows of a chunk and what it took to make them.
pub(crate) struct Output {
    pub rows: Vec<f32>,
    pub n_tokens: u64,
    pub n_truncated: u64,
    pub n_missing: u64,
}

impl<'a> Source<'a> {
    pub fn width(self) -> usize {
        match self {
            Self::Encoder(encoder) => encoder.width(),
            Self::Brought(vectors) => vectors.width(),
        }
    }

    /// How the rows are compared.
    pub fn metric(self) -> Metric {
        match self {
            Self::Encoder(encoder) => match encoder.similarity() {
                Similarity::InnerProduct => Metric::InnerProduct,
                Similarity::Cosine => Metric::Cosine,
                Similarity::L2 => Metric::L2,
            },
            Self::Brought(vectors) => vectors.metric(),
        }
    }

    pub fn fingerprint(self, config: &BuildConfig) -> Fingerprint {
        match self {
            Self::Encoder(encoder) => encoder.fingerprint(&TextSpec {
                passage_template: config.passage_template.as_str().to_owned(),
                query_template: config.query_template.as_str().to_owned(),
                passage_pair: config.passage_pair,
                passage_stride: config.stride,
                ..TextSpec::default()
            }),
            Self::Brought(vectors) => {
                let similarity = match vectors.metric() {
                    Metric::InnerProduct => Similarity::InnerProduct,
                    Metric::Cosine => Similarity::Cosine,
                    Metric::L2 => Similarity::L2,
                };
                Fingerprint::external(vectors.width(), similarity)
            }
        }
    }

    /// What splits documents into passages, if that was asked for.
    pub fn splitter(self, config: &'a BuildConfig) -> Result<Option<Splitter<'a>>, BuildError> {
        match self {
            Self::Encoder(encoder) => Splitter::new(config, encoder),
            Self::Brought(_) if config.stride.is_some() => Err(BuildError::SplitVectors),
            Self::Brought(_) => Ok(None),
        }
    }

    pub fn batch_invariant(self) -> bool {
        match self {
            Self::Encoder(encoder) => encoder.batch_invariant(),
            Self::Brought(_) => true,
        }
    }

    /// Digest of what the fingerprint does not cover: the vectors themselves, when they were brought.
    pub fn digest(self) -> Option<String> {
        match self {
            Self::Encoder(_) => None,
            Self::Brought(vectors) => Some(vectors.digest().to_owned()),
        }
    }

    /// Does what can be done ahead of the encoder: template and tokens, or reading the rows.
    pub fn prepare(self, parts: &[Part], config: &BuildConfig) -> Result<Input<'a>, BuildError> {
        let passages = parts.iter().map(|part| &part.passage);
        let encoder = match self {
            Self::Encoder(encoder) => encoder,
            Self::Brought(vectors) => return Ok(Input::Rows(vectors.rows_of(passages)?)),
        };
        let rendered: Vec<_> = passages
            .clone()
            .map(|passage| config.passage_template.render(passage))
            .collect();
        let texts: Vec<_> = passages
            .zip(&rendered)
            .map(|(passage, rendered)| match config.passage_pair {
                true => Text::Pair(&passage.title, &rendered.text),
                false => Text::Single(&rendered.text),
            })
            .collect();
        let n_missing = rendered
            .iter()
            .map(|rendered| rendered.n_missing as u64)
            .sum();
        let tokens = encoder.tokenize(Role::Passage, &texts)?;
        Ok(Input::Tokens {
            encoder,
            tokens,
            n_missing,
        })
    }
}

impl Input<'_> {
    /// Makes the rows.
    pub fn encode(self) -> Result<Output, BuildError> {
        match self {
            Self::Tokens {
                encoder,
                tokens,
                n_missing,
            } => {
                let embeddings = encoder.encode(&tokens)?;
                Ok(Output {
                    rows: embeddings.values,
                    n_tokens: embeddings.n_tokens as u64,
                    n_truncated: embeddings.n_truncated as u64,
                    n_missing,
                })
            }
            Self::Rows(rows) => Ok(Output {
                rows,
                n_tokens: 0,
                n_truncated: 0,
                n_missing: 0,
            }),
        }
    }
}
