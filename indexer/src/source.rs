//! Where the vectors of passages come from.

use encoder::{Arithmetic, BiEncoder, Fingerprint, Role, Similarity, Text, TextSpec, Tokens};
use index::{Metric, SketchPolicy};

use crate::base::Base;
use crate::forecast::Rows;
use crate::inputs::Input;
use crate::splitter::{Part, Splitter};
use crate::{BroughtVectors, BuildConfig, BuildError};

/// An encoder, or vectors made elsewhere.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Encoder(&'a BiEncoder),
    Brought(&'a BroughtVectors),
    /// Rows of a sample, for a trial of what the origin would take.
    Sample(&'a Source<'a>, &'a Rows<'a>),
}

impl Source<'_> {
    /// The arithmetic of the vectors, as manifests name it.
    pub(crate) fn arithmetic(self) -> &'static str {
        match self {
            Self::Encoder(encoder) => encoder.config().arithmetic.as_str(),
            Self::Brought(_) => Arithmetic::F32.as_str(),
            Self::Sample(origin, _) => origin.arithmetic(),
        }
    }
}

/// The fingerprint of vectors that are brought.
pub(crate) fn external(width: usize, metric: Metric) -> Fingerprint {
    let similarity = match metric {
        Metric::InnerProduct => Similarity::InnerProduct,
        Metric::Cosine => Similarity::Cosine,
        Metric::L2 => Similarity::L2,
    };
    Fingerprint::external(width, similarity)
}

/// What a chunk of passages needs to become rows.
pub(crate) enum Work<'a> {
    Tokens {
        encoder: &'a BiEncoder,
        /// Of the passages whose rows are not taken from the base.
        tokens: Vec<Tokens>,
        inputs: Vec<(Input, Option<u32>)>,
        n_missing: u64,
    },
    /// Rows that are there, and what they were made from, if that is known.
    Rows(Vec<f32>, Vec<(Input, Option<u32>)>),
}

/// The rows of a chunk that were made, and what all are made from.
pub(crate) struct Output {
    pub rows: Vec<f32>,
    pub inputs: Vec<(Input, Option<u32>)>,
    pub n_missing: u64,
}

impl<'a> Source<'a> {
    pub fn width(self) -> usize {
        match self {
            Self::Encoder(encoder) => encoder.width(),
            Self::Brought(vectors) => vectors.width(),
            Self::Sample(origin, _) => origin.width(),
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
            Self::Sample(origin, _) => origin.metric(),
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
            Self::Brought(vectors) => external(vectors.width(), vectors.metric()),
            Self::Sample(origin, _) => origin.fingerprint(config),
        }
    }

    /// What splits documents into passages, if that was asked for.
    pub fn splitter(self, config: &'a BuildConfig) -> Result<Option<Splitter<'a>>, BuildError> {
        match self {
            Self::Encoder(encoder) => Splitter::new(config, encoder),
            Self::Brought(_) if config.stride.is_some() => Err(BuildError::SplitVectors),
            Self::Brought(_) => Ok(None),
            Self::Sample(origin, _) => origin.splitter(config),
        }
    }

    /// Which shards get sketches: those of a trial, if those of the whole do.
    pub fn sketches(self) -> SketchPolicy {
        match self {
            Self::Encoder(_) | Self::Brought(_) => SketchPolicy::default(),
            Self::Sample(_, rows) => rows.sketches,
        }
    }

    /// Whether the generation says what its rows were made from.
    pub fn keeps_inputs(self) -> bool {
        match self {
            Self::Encoder(_) => true,
            Self::Brought(_) => false,
            Self::Sample(origin, _) => origin.keeps_inputs(),
        }
    }

    pub fn batch_invariant(self) -> bool {
        match self {
            Self::Encoder(encoder) => encoder.batch_invariant(),
            Self::Brought(_) => true,
            Self::Sample(origin, _) => origin.batch_invariant(),
        }
    }

    /// Digest of what the fingerprint does not cover: the vectors themselves, when they were brought.
    pub fn digest(self) -> Option<String> {
        match self {
            Self::Encoder(_) => None,
            Self::Brought(vectors) => Some(vectors.digest().to_owned()),
            Self::Sample(..) => None,
        }
    }

    /// Does what can be done ahead of the encoder: template, what the base has, and tokens; or reading the rows.
    pub fn prepare(
        self,
        parts: &[Part],
        config: &BuildConfig,
        base: Option<&Base>,
    ) -> Result<Work<'a>, BuildError> {
        let passages = parts.iter().map(|part| &part.passage);
        let encoder = match self {
            Self::Encoder(encoder) => encoder,
            Self::Brought(vectors) => {
                let rows = vectors.rows_of(passages)?;
                return Ok(Work::Rows(rows, Vec::new()));
            }
            Self::Sample(_, rows) => return rows.work_of(passages),
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
        let digests: Vec<_> = texts.iter().map(|text| Input::digest(*text)).collect();
        let taken: Vec<_> = digests
            .iter()
            .map(|digest| base.and_then(|base| base.find(*digest)))
            .collect();
        let new = texts
            .iter()
            .zip(&taken)
            .filter(|(_, taken)| taken.is_none());
        let new: Vec<_> = new.map(|(text, _)| *text).collect();
        let tokens = encoder.tokenize(Role::Passage, &new)?;
        let mut of_new = tokens.iter();
        let inputs = digests
            .into_iter()
            .zip(taken)
            .map(|(digest, taken)| match taken {
                Some((ordinal, input)) => (input, Some(ordinal)),
                None => {
                    let tokens = of_new.next().expect("every new text has its tokens");
                    (Input::new(digest, tokens), None)
                }
            })
            .collect();
        let n_missing = rendered
            .iter()
            .map(|rendered| rendered.n_missing as u64)
            .sum();
        Ok(Work::Tokens {
            encoder,
            tokens,
            inputs,
            n_missing,
        })
    }
}

impl Work<'_> {
    /// Makes the rows.
    pub fn encode(self) -> Result<Output, BuildError> {
        match self {
            Self::Tokens {
                encoder,
                tokens,
                inputs,
                n_missing,
            } => Ok(Output {
                rows: match tokens.is_empty() {
                    true => Vec::new(),
                    false => encoder.encode(&tokens)?.values,
                },
                inputs,
                n_missing,
            }),
            Self::Rows(rows, inputs) => Ok(Output {
                rows,
                inputs,
                n_missing: 0,
            }),
        }
    }
}
