//! What is asked of a candidate and of what is live.

use std::path::Path;

use corpus::{Passage, Qrels, QrelsFormat, Query, read_queries};
use encoder::{Role, Text};

use super::contestant::Contestant;
use super::{GateConfig, GateError};
use crate::sample::draw;

/// Words of a passage without a title that are asked for.
const N_WORDS: usize = 12;

/// Questions, and which passages answer them as far as that is known.
pub(super) struct Questions {
    /// `queries`, `titles` or `vectors`.
    pub kind: &'static str,
    queries: Vec<Query>,
    /// Of the queries, in place of their texts.
    vectors: Option<Vec<f32>>,
    pub qrels: Option<Qrels>,
}

/// One row a question.
pub(super) struct Vectors {
    values: Vec<f32>,
    width: usize,
}

impl Vectors {
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..][..self.width]
    }
}

impl Questions {
    pub fn collect(
        config: &GateConfig,
        candidate: &Contestant<'_>,
        live: Option<&Contestant<'_>>,
    ) -> Result<Self, GateError> {
        let questions = match &config.queries {
            Some(path) => Self::of_file(config, path, candidate)?,
            None => Self::of_passages(config, candidate, live)?,
        };
        match questions.queries.is_empty() {
            false => Ok(questions),
            true => Err(GateError::NoQuestion {
                reason: match config.queries {
                    Some(_) => "no query of the file has a judgment",
                    None => "candidate and live have no passage in common",
                },
            }),
        }
    }

    fn of_file(
        config: &GateConfig,
        path: &Path,
        candidate: &Contestant<'_>,
    ) -> Result<Self, GateError> {
        if candidate.encoder.is_none() {
            return Err(GateError::NoEncoder {
                generation: candidate.generation.id.clone(),
            });
        }
        let mut queries = read_queries(path)?;
        let judged = match &config.qrels {
            Some(path) => Some(Qrels::read(path, QrelsFormat::Auto)?),
            None => None,
        };
        if let Some(judged) = &judged {
            queries.retain(|query| judged.get(&query.id).is_some());
        }
        let drawn = draw(queries.len() as u32, config.n_queries, config.seed);
        let queries: Vec<Query> = drawn.iter().map(|&i| queries[i as usize].clone()).collect();
        let qrels = judged.map(|judged| {
            let mut of_drawn = Qrels::default();
            for query in &queries {
                for (passage, grade) in judged.get(&query.id).into_iter().flatten() {
                    of_drawn.insert(&query.id, passage, *grade);
                }
            }
            of_drawn
        });
        Ok(Self {
            kind: "queries",
            queries,
            vectors: None,
            qrels,
        })
    }

    /// Passages that both have, each to be found by its title, or by its own vector where there is no encoder.
    fn of_passages(
        config: &GateConfig,
        candidate: &Contestant<'_>,
        live: Option<&Contestant<'_>>,
    ) -> Result<Self, GateError> {
        let from = live.unwrap_or(candidate);
        let by_vector = candidate.encoder.is_none();
        // More than are needed: some may be gone from the candidate.
        let drawn = draw(
            from.store.len(),
            config.n_queries.saturating_mul(4),
            config.seed,
        );
        let step = drawn.len().div_ceil(config.n_queries.max(1)).max(1);
        let order = (0..step).flat_map(|first| drawn.iter().skip(first).step_by(step));
        let (mut queries, mut vectors, mut qrels) = (Vec::new(), Vec::new(), Qrels::default());
        for &ordinal in order {
            if queries.len() == config.n_queries {
                break;
            }
            let passage = from
                .store
                .passage(ordinal)
                .map_err(|source| from.of_store(source))?;
            let text = match by_vector {
                true => passage.id.clone(),
                false => question(&passage),
            };
            if text.is_empty() || !candidate.has(&passage.id)? {
                continue;
            }
            if by_vector {
                vectors.extend(from.row(ordinal));
            }
            qrels.insert(&passage.id, &passage.id, 1);
            queries.push(Query {
                id: passage.id,
                text,
                ..Query::default()
            });
        }
        Ok(Self {
            kind: if by_vector { "vectors" } else { "titles" },
            queries,
            vectors: by_vector.then_some(vectors),
            qrels: Some(qrels),
        })
    }

    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether what answers is judged by the ids of documents, as in files, and not by those of sampled passages.
    pub fn judge_documents(&self) -> bool {
        self.kind == "queries"
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.queries.iter().map(|query| query.id.as_str())
    }

    /// The question for a reader.
    pub fn shown(&self, i: usize) -> &str {
        &self.queries[i].text
    }

    /// The vectors of the questions in the space of a generation.
    pub fn vectors_for(&self, contestant: &Contestant<'_>) -> Result<Vectors, GateError> {
        if let Some(values) = &self.vectors {
            let (values, width) = (values.clone(), contestant.index.width());
            return Ok(Vectors { values, width });
        }
        let encoder = contestant.encoder.ok_or_else(|| GateError::NoEncoder {
            generation: contestant.generation.id.clone(),
        })?;
        let rendered = self
            .queries
            .iter()
            .map(|query| contestant.query_template.render_query(query));
        let rendered: Vec<String> = rendered.map(|rendered| rendered.text).collect();
        let texts: Vec<Text<'_>> = rendered.iter().map(|text| Text::Single(text)).collect();
        let embeddings = encoder.encode_texts(Role::Query, &texts)?;
        Ok(Vectors {
            values: embeddings.values,
            width: embeddings.width,
        })
    }
}

/// The title of a passage, else its first words.
fn question(passage: &Passage) -> String {
    match passage.title.trim() {
        "" => {
            let words = passage.text.split_whitespace().take(N_WORDS);
            words.collect::<Vec<_>>().join(" ")
        }
        title => title.to_owned(),
    }
}
