use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corpus::{
    CorpusConfig, CorpusReader, Dataset, Qrels, Query, Run, RunFormat, Scored, Template, ranked,
};
use encoder::{BiEncoder, CrossEncoder, EncoderConfig, ModelOptions, Role, Text};
use evaluation::{EvaluationConfig, Measure};
use index::{
    FlatShard, Metric, RowType, SearchParams, ShardConfig, ShardWriter, SketchPolicy, VectorIndex,
    Verify,
};

use super::directory::SCRATCH;
use super::evaluator::{Evaluator, EvaluatorError};
use crate::data::{Content, PassageText};
use crate::export::{PASSAGE_TOWER, QUERY_TOWER};
use crate::objective::Objective;
use crate::text::{joined, name_row, texts};

/// Which queries and passages dev figures are of.
#[derive(Clone, Debug, PartialEq)]
pub struct DevConfig {
    /// Folder in BEIR's layout.
    pub dataset: PathBuf,
    /// Split of its judgments.
    pub split: String,
    /// Queries at most, drawn by the seed.
    pub max_queries: Option<usize>,
    /// Passages beside the judged ones, drawn by the seed; `None` takes the whole corpus.
    pub n_distractors: Option<usize>,
    /// Seed of the draws.
    pub seed: u64,
    /// What the model reads of a query.
    pub query_template: Template,
    /// What the model reads of a passage.
    pub passage: PassageText,
}

/// Queries with judgments, and the passages among which theirs are to be found.
#[derive(Debug)]
pub struct DevSet {
    /// Judgments of the queries.
    pub qrels: Qrels,
    /// Id and text of each query.
    pub queries: Vec<(String, String)>,
    /// Id and content of each passage.
    pub passages: Vec<(String, Content)>,
}

impl DevSet {
    /// Reads a dev set. Figures of a part of a corpus are higher than those of all of it: say which, with each figure.
    ///
    /// # Errors
    /// [`EvaluatorError::Corpus`]; [`EvaluatorError::NoQuery`].
    pub fn read(config: &DevConfig) -> Result<Self, EvaluatorError> {
        let dataset = Dataset::open(&config.dataset)?;
        let judged = dataset.qrels(&config.split)?;
        let mut queries = dataset.queries_of(&config.split)?;
        queries.retain(|query| is_relevant(&judged, query));
        if let Some(most) = config.max_queries {
            queries.sort_by_key(|query| draw(config.seed, &query.id));
            queries.truncate(most);
            queries.sort_by(|a, b| a.id.cmp(&b.id));
        }
        if queries.is_empty() {
            return Err(EvaluatorError::NoQuery {
                path: config.dataset.clone(),
                split: config.split.clone(),
            });
        }
        let mut qrels = Qrels::default();
        for query in &queries {
            for (passage, &grade) in judged.get(&query.id).into_iter().flatten() {
                qrels.insert(query.id.as_str(), passage.as_str(), grade);
            }
        }
        let wanted: HashSet<&str> = qrels
            .queries()
            .flat_map(|(_, passages)| passages.keys().map(String::as_str))
            .collect();
        let corpus = CorpusConfig {
            paths: dataset.corpus,
            ..CorpusConfig::default()
        };
        let (mut passages, mut drawn) = (Vec::new(), BTreeMap::<(u64, String), Content>::new());
        for passage in CorpusReader::open(&corpus)? {
            let passage = passage?;
            let content = config.passage.content(&passage);
            let is_wanted = wanted.contains(passage.id.as_str());
            match config.n_distractors {
                Some(most) if !is_wanted => {
                    // The passages of the smallest draws, whatever the order of the corpus.
                    drawn.insert((draw(config.seed, &passage.id), passage.id), content);
                    if drawn.len() > most {
                        drawn.pop_last();
                    }
                }
                _ => passages.push((passage.id, content)),
            }
        }
        passages.extend(drawn.into_iter().map(|((_, id), content)| (id, content)));
        let rendered = |query: Query| {
            let text = config.query_template.render_query(&query).text;
            (query.id, text)
        };
        Ok(Self {
            qrels,
            queries: queries.into_iter().map(rendered).collect(),
            passages,
        })
    }
}

/// Whether a query has a passage to be found.
fn is_relevant(qrels: &Qrels, query: &Query) -> bool {
    qrels
        .get(&query.id)
        .is_some_and(|passages| passages.values().any(|&grade| grade > 0))
}

/// A number that the seed and an id decide.
fn draw(seed: u64, id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), seed)
}

/// Measures a bi-encoder as it would serve: exported, loaded into the serving engine, every passage encoded, exact search.
pub struct SearchEvaluator {
    /// What is searched.
    pub dev: Arc<DevSet>,
    /// What is measured.
    pub measures: Vec<Measure>,
    /// Passages of a ranking.
    pub depth: usize,
    /// How the model is run.
    pub encoder: EncoderConfig,
    /// What the export does not say.
    pub options: ModelOptions,
    /// Folder for files that are not kept, such as that of the run.
    pub scratch: PathBuf,
}

/// Passages encoded at a time.
const CHUNK: usize = 4096;

impl<O: Objective> Evaluator<O> for SearchEvaluator {
    fn names(&self, _: &mut O) -> Result<Vec<String>, EvaluatorError> {
        Ok(self.measures.iter().map(ToString::to_string).collect())
    }

    fn evaluate(&mut self, objective: &mut O) -> Result<BTreeMap<String, f64>, EvaluatorError> {
        let folder = exported(objective, &self.scratch)?;
        let tower = |name: &str| {
            let tower = folder.path().join(name);
            let path = if tower.is_dir() {
                tower
            } else {
                folder.path().to_owned()
            };
            BiEncoder::load(&path, &self.options, &self.encoder)
        };
        let [queries, passages] = [QUERY_TOWER, PASSAGE_TOWER].map(tower);
        let (queries, passages) = (queries?, passages?);
        let run = self.search(&queries, &passages, folder.path())?;
        measure(&self.dev.qrels, &run, &self.measures)
    }
}

impl SearchEvaluator {
    fn search(
        &self,
        queries: &BiEncoder,
        passages: &BiEncoder,
        folder: &Path,
    ) -> Result<Run, EvaluatorError> {
        let path = folder.join("vectors.trawl");
        let config = ShardConfig {
            width: passages.width(),
            metric: match passages.similarity() {
                encoder::Similarity::InnerProduct => Metric::InnerProduct,
                encoder::Similarity::Cosine => Metric::Cosine,
                encoder::Similarity::L2 => Metric::L2,
            },
            row_type: RowType::F32,
            first_ordinal: 0,
            sketches: SketchPolicy::Never,
        };
        let mut shard = ShardWriter::create(&path, config)?;
        for chunk in self.dev.passages.chunks(CHUNK) {
            let contents = chunk.iter().map(|(_, content)| content);
            let vectors = passages.encode_texts(Role::Passage, &texts(contents)?)?;
            for row in vectors.values.chunks_exact(vectors.width) {
                shard.push(row)?;
            }
        }
        shard.finish()?;
        let shard = FlatShard::open(&path, Verify::Header)?;
        let texts: Vec<Text<'_>> = self
            .dev
            .queries
            .iter()
            .map(|(_, text)| Text::Single(text))
            .collect();
        let vectors = queries.encode_texts(Role::Query, &texts)?;
        let found = shard.search(&vectors.values, self.depth, None, &SearchParams::default())?;
        let mut run = Run::new("dev");
        for ((query, _), found) in self.dev.queries.iter().zip(found) {
            let scored = found.into_iter().map(|neighbor| Scored {
                id: self.dev.passages[neighbor.ordinal as usize].0.clone(),
                score: f64::from(neighbor.score),
            });
            run.insert(query.as_str(), scored.collect());
        }
        Ok(run)
    }
}

/// Measures a cross-encoder by what it makes of the best passages of somebody's run.
pub struct RerankEvaluator {
    /// Queries, judgments, and at least the passages of `candidates`.
    dev: Arc<DevSet>,
    /// Places of the passages to be scored, by query.
    candidates: Vec<Vec<usize>>,
    measures: Vec<Measure>,
    encoder: EncoderConfig,
    scratch: PathBuf,
}

impl RerankEvaluator {
    /// Takes the first `depth` passages of each query of a run; files that are not kept go into `scratch`.
    ///
    /// A query that the run lacks, as BM25 lacks one that shares no word with a passage, has no passages: its figures are 0.
    ///
    /// # Errors
    /// [`EvaluatorError::Corpus`]; [`EvaluatorError::Missing`] when the dev set lacks one of the passages;
    /// [`EvaluatorError::NoRanking`] when the run lacks all queries.
    pub fn new(
        dev: Arc<DevSet>,
        run: &Path,
        depth: usize,
        measures: Vec<Measure>,
        encoder: EncoderConfig,
        scratch: PathBuf,
    ) -> Result<Self, EvaluatorError> {
        let hits = Run::read(run, RunFormat::Auto)?;
        let places: HashMap<&str, usize> = dev
            .passages
            .iter()
            .enumerate()
            .map(|(place, (id, _))| (id.as_str(), place))
            .collect();
        let place = |hit: &Scored| {
            let place = places.get(hit.id.as_str()).copied();
            place.ok_or_else(|| EvaluatorError::Missing {
                id: hit.id.clone(),
                path: run.to_owned(),
            })
        };
        if dev
            .queries
            .iter()
            .all(|(query, _)| hits.get(query).is_none())
        {
            let path = run.to_owned();
            return Err(EvaluatorError::NoRanking { path });
        }
        let mut candidates = Vec::new();
        for (query, _) in &dev.queries {
            let hits = hits.get(query).map(ranked).unwrap_or_default();
            let of_query = hits.into_iter().take(depth).map(place);
            candidates.push(of_query.collect::<Result<_, _>>()?);
        }
        Ok(Self {
            dev,
            candidates,
            measures,
            encoder,
            scratch,
        })
    }
}

impl<O: Objective> Evaluator<O> for RerankEvaluator {
    fn names(&self, _: &mut O) -> Result<Vec<String>, EvaluatorError> {
        Ok(self.measures.iter().map(ToString::to_string).collect())
    }

    fn evaluate(&mut self, objective: &mut O) -> Result<BTreeMap<String, f64>, EvaluatorError> {
        let folder = exported(objective, &self.scratch)?;
        let model = CrossEncoder::load(folder.path(), None, &self.encoder)?;
        let mut run = Run::new("dev");
        let queries = self.dev.queries.iter().zip(&self.candidates);
        for ((query, text), places) in queries.filter(|(_, places)| !places.is_empty()) {
            let passages = || places.iter().map(|&place| &self.dev.passages[place]);
            let contents = passages().map(|(_, content)| content).enumerate();
            let texts = contents.map(|(row, content)| name_row(row, joined(content)));
            let texts: Vec<Cow<'_, str>> = texts.collect::<Result<_, _>>()?;
            let pairs: Vec<(&str, &str)> =
                texts.iter().map(|one| (text.as_str(), &**one)).collect();
            let scores = model.score(&model.tokenize(&pairs)?)?;
            let scored = passages().zip(scores.logits.chunks_exact(scores.n_labels.max(1)));
            let scored = scored.zip(1..).map(|(((id, _), row), rank)| Scored {
                id: id.clone(),
                score: f64::from(row[0] + model.rank_prior().at(rank)),
            });
            run.insert(query.as_str(), scored.collect());
        }
        measure(&self.dev.qrels, &run, &self.measures)
    }
}

/// The model as it is now, in a folder of its own.
fn exported<O: Objective>(
    objective: &O,
    scratch: &Path,
) -> Result<tempfile::TempDir, EvaluatorError> {
    let folder = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(scratch);
    let folder = folder.map_err(|source| EvaluatorError::File {
        path: scratch.to_owned(),
        source,
    })?;
    objective.export(folder.path())?;
    Ok(folder)
}

fn measure(
    qrels: &Qrels,
    run: &Run,
    measures: &[Measure],
) -> Result<BTreeMap<String, f64>, EvaluatorError> {
    let config = EvaluationConfig {
        measures: measures.to_vec(),
        ..EvaluationConfig::default()
    };
    let report = evaluation::evaluate(qrels, run, &config)?;
    Ok(measures
        .iter()
        .zip(&report.mean)
        .map(|(measure, &mean)| (measure.to_string(), mean))
        .collect())
}
