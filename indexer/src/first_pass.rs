//! The first pass over a corpus, and what it decides: everything but the vectors.

use std::cell::RefCell;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use collection::{
    Building, Counts, GenerationId, Manifest, Reused, Templates, canonical_json, sha256_hex,
};
use corpus::{CorpusError, Passage, Schema, Survey, TemplateError};
use encoder::Fingerprint;
use index::RowType;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::assemble::{Assembled, Layout, assemble};
use crate::base::Base;
use crate::digest::content_digest;
use crate::encode::Plan;
use crate::progress::Watch;
use crate::source::Source;
use crate::splitter::Splitter;
use crate::{BuildConfig, BuildError, Phase};

/// What is known after the first pass.
pub(crate) struct FirstPass {
    /// The config, with a corpus that is read as documents where those are split.
    pub config: BuildConfig,
    pub stamp: CorpusStamp,
    pub survey: Survey,
    pub fingerprint: Fingerprint,
    /// Everything that decides the content of a generation, and nothing else: equal specs give equal content.
    pub spec: Value,
    pub outline: Outline,
}

impl FirstPass {
    pub fn read(
        config: &BuildConfig,
        source: Source<'_>,
        watch: Watch<'_>,
    ) -> Result<Self, BuildError> {
        let config = config.split_if_asked();
        check_query_template(&config)?;
        check_graph(&config, source.width())?;
        let stamp = CorpusStamp::take(&config)?;
        let splitter = source.splitter(&config)?;
        let (survey, n_passages) = survey(&config, splitter, watch, &mut |_| ())?;
        config.passage_template.check_fields(&survey.schema)?;
        let plan = plan(&config, source, n_passages)?;
        let (metric, fingerprint) = (source.metric(), source.fingerprint(&config));
        let spec = json!({
            "spec_version": 1,
            "corpus_digest": survey.digest,
            "fingerprint": fingerprint.digest(),
            "vectors_digest": source.digest(),
            "passage_template": config.passage_template.as_str(),
            "passage_pair": config.passage_pair,
            "query_template": config.query_template.as_str(),
            "chunk_passages": config.chunk_passages,
            "n_shards": config.n_shards,
            "metric": metric.as_str(),
            "rows": config.rows.as_str(),
            "graph": config.graph,
            "schema": to_value(&survey.schema),
            "language": config.language.as_str(),
            "arithmetic": source.arithmetic(),
        });
        let layout = Layout {
            n_shards: config.n_shards,
            metric,
            rows: config.rows,
            sketches: source.sketches(),
            graph: config.graph.clone(),
            language: config.language,
            schema: survey.schema.clone(),
            arithmetic: source.arithmetic().to_owned(),
            keep_inputs: source.keeps_inputs(),
        };
        let contents = Manifest {
            // An empty name is none, and could not be read back; the generation gets its own when it is complete.
            generation: GenerationId::parse("unfinished").expect("it is a name"),
            fingerprint_digest: fingerprint.digest(),
            fingerprint: to_value(&fingerprint),
            corpus_digest: survey.digest.clone(),
            counts: Counts {
                bad_lines: survey.n_bad,
                ..Counts::default()
            },
            width: plan.width,
            metric: metric.as_str().to_owned(),
            batch_invariant: source.batch_invariant(),
            templates: Templates {
                passage: config.passage_template.as_str().to_owned(),
                query: config.query_template.as_str().to_owned(),
            },
            schema: to_value(&survey.schema),
            build: to_value(&config),
            ..Manifest::default()
        };
        Ok(Self {
            config,
            stamp,
            survey,
            fingerprint,
            spec,
            outline: Outline {
                plan,
                layout,
                contents,
            },
        })
    }

    /// Checks that there is room for what is certain to be written: the chunks of so many passages, with vectors unless these are
    /// taken from a base, and, when it is `assembled`, the vectors of the generation. `index plan` estimates the rest.
    pub fn check_room(
        &self,
        path: &Path,
        n_passages: u64,
        encoded: bool,
        assembled: bool,
    ) -> Result<(), BuildError> {
        let needed = self.certain_bytes(n_passages, encoded, assembled);
        match compute::free_disk_bytes(path) {
            Some(available) if available < needed => Err(BuildError::NoRoom {
                path: path.to_owned(),
                needed,
                available,
            }),
            _ => Ok(()),
        }
    }

    fn certain_bytes(&self, n_passages: u64, encoded: bool, assembled: bool) -> u64 {
        let Outline { plan, layout, .. } = &self.outline;
        let n_total = u64::from(plan.n_passages);
        // A record has title and text, however the corpus escapes them.
        let records = u128::from(self.survey.n_text_bytes) * u128::from(n_passages);
        let records = (records / u128::from(n_total.max(1))) as u64;
        let row_bytes = |rows: RowType| rows.row_bytes(plan.width) as u64;
        let encoded = u64::from(encoded) * row_bytes(RowType::F32) * n_passages;
        let assembled = u64::from(assembled) * row_bytes(layout.rows) * n_total;
        records + encoded + assembled
    }
}

/// All that turns chunks into a generation, without corpus and model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outline {
    pub plan: Plan,
    layout: Layout,
    /// What the manifest says whatever is in the chunks.
    contents: Manifest,
}

impl Outline {
    /// Writes the files of a generation, but for its manifest, which it returns.
    pub fn assemble(
        &self,
        base: Option<&Base>,
        building: &Building,
        watch: Watch<'_>,
    ) -> Result<Manifest, BuildError> {
        let (work, output) = (building.work(), building.path());
        let Assembled {
            shards,
            counts,
            n_reused,
        } = assemble(self.plan, &self.layout, base, &work, output, watch)?;
        Ok(Manifest {
            content_digest: content_digest(output, &shards, watch)?,
            counts: Counts {
                bad_lines: self.contents.counts.bad_lines,
                ..counts
            },
            shards,
            reused: base.map(|base| Reused {
                generation: base.generation.clone(),
                passages: n_reused,
            }),
            ..self.contents.clone()
        })
    }

    /// The metadata fields.
    pub fn schema(&self) -> &Schema {
        &self.layout.schema
    }

    /// The outline as a file, which says whether it is damaged.
    pub fn to_bytes(&self) -> Vec<u8> {
        let outline = to_value(self);
        let checksum = sha256_hex(canonical_json(&outline).as_bytes());
        let file = json!({ "checksum": checksum, "outline": outline });
        file.to_string().into_bytes()
    }

    /// The outline of such a file; none when it is damaged.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let file: Value = serde_json::from_slice(bytes).ok()?;
        let outline = file.get("outline")?;
        let checksum = sha256_hex(canonical_json(outline).as_bytes());
        if file["checksum"] != checksum {
            return None;
        }
        Self::deserialize(outline).ok()
    }
}

/// A query brings nothing but its text.
pub(crate) fn check_query_template(config: &BuildConfig) -> Result<(), TemplateError> {
    let fields = config.query_template.fields();
    match fields.iter().find(|field| *field != "text") {
        None => Ok(()),
        Some(field) => Err(TemplateError::UnknownField {
            field: field.clone(),
            known: vec!["text".to_owned()],
        }),
    }
}

/// Refuses ahead of all work what would be refused when everything is encoded and graphs are built.
pub(crate) fn check_graph(config: &BuildConfig, width: usize) -> Result<(), BuildError> {
    match &config.graph {
        Some(graph) => graph.check(width).map_err(BuildError::Graph),
        None => Ok(()),
    }
}

/// The first pass, which shows every record to `see`. Returns what it finds and the number of passages that the records are
/// split into.
pub(crate) fn survey(
    config: &BuildConfig,
    splitter: Option<Splitter<'_>>,
    watch: Watch<'_>,
    see: &mut dyn FnMut(&Passage),
) -> Result<(Survey, u64), BuildError> {
    let failed = RefCell::new(None);
    let note = |error: BuildError| {
        *failed.borrow_mut() = Some(error);
        ControlFlow::Break(())
    };
    let mut n_passages = 0;
    let surveyed = corpus::survey_each(
        &config.corpus,
        &mut |document| {
            see(document);
            let n_parts = splitter.map_or(Ok(1), |splitter| splitter.n_parts(document));
            match n_parts {
                Ok(n_parts) => n_passages += n_parts as u64,
                Err(error) => return note(error.into()),
            }
            ControlFlow::Continue(())
        },
        &mut |found| {
            let (done, total) = (found.n_bytes_read, found.n_bytes_total);
            match watch.update(Phase::Survey, done, total) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => note(error),
            }
        },
    );
    match failed.take() {
        Some(error) => Err(error),
        None => Ok((surveyed?, n_passages)),
    }
}

pub(crate) fn plan(
    config: &BuildConfig,
    source: Source<'_>,
    n_passages: u64,
) -> Result<Plan, BuildError> {
    let (n_shards, max) = (config.n_shards, u64::from(u32::MAX));
    if n_passages > max {
        return Err(BuildError::TooManyPassages { n_passages, max });
    }
    if n_shards == 0 || n_shards as u64 > n_passages {
        return Err(BuildError::Shards {
            n_shards,
            n_passages,
        });
    }
    if let Source::Brought(vectors) = source {
        vectors.check_count(n_passages)?;
    }
    if config.chunk_passages == 0 {
        return Err(BuildError::EmptyChunks);
    }
    let chunk_passages = config.chunk_passages.min(n_passages as usize) as u32;
    Ok(Plan {
        n_passages: n_passages as u32,
        chunk_passages,
        width: source.width(),
    })
}

pub(crate) fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("configs, schemas and fingerprints have string keys only")
}

/// Length and time of change of every file of the corpus: a cheap proof that both passes read the same bytes.
#[derive(PartialEq)]
pub(crate) struct CorpusStamp(Vec<(u64, Option<SystemTime>)>);

impl CorpusStamp {
    fn take(config: &BuildConfig) -> Result<Self, BuildError> {
        let stamp = |path: &PathBuf| match fs::metadata(path) {
            Ok(metadata) => Ok((metadata.len(), metadata.modified().ok())),
            Err(source) => Err(CorpusError::Open {
                path: path.clone(),
                source,
            }
            .into()),
        };
        config
            .corpus
            .paths
            .iter()
            .map(stamp)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the corpus is still the one that the first pass read.
    pub fn check(&self, config: &BuildConfig) -> Result<(), BuildError> {
        match Self::take(config)? == *self {
            true => Ok(()),
            false => Err(BuildError::CorpusChanged),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use corpus::CorpusConfig;
    use index::Metric;
    use vectors::VectorFile;

    use super::*;
    use crate::chunk::{self, Chunk};
    use crate::passages::Passages;
    use crate::{BroughtVectors, NoProgress};

    /// What is certain to be written for a corpus of these two lines, and what is written: chunks with rows of width 2.
    fn check_certain(lines: [&str; 2], rows: RowType) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("corpus.jsonl"), lines.join("\n")).unwrap();
        let row = [2i32.to_le_bytes(), 1f32.to_le_bytes(), 1f32.to_le_bytes()].concat();
        fs::write(at("rows.fvecs"), row.repeat(2)).unwrap();
        fs::write(at("ids"), "a\nb\n").unwrap();
        let vectors = VectorFile::open(&at("rows.fvecs"), None).unwrap();
        let vectors = BroughtVectors::open(vectors, &at("ids"), Metric::Cosine).unwrap();
        let corpus = CorpusConfig {
            paths: vec![at("corpus.jsonl")],
            ..CorpusConfig::default()
        };
        let config = BuildConfig {
            rows,
            ..BuildConfig::new(at("collection"), corpus, None)
        };
        let watch = Watch {
            progress: &NoProgress,
            cancelled: &AtomicBool::new(false),
        };
        let first = FirstPass::read(&config, Source::Brought(&vectors), watch).unwrap();

        let parts = Passages::open(&config.corpus, None).unwrap();
        let parts: Vec<_> = parts.collect::<Result<_, _>>().unwrap();
        let texts: usize = parts
            .iter()
            .map(|part| part.passage.title.len() + part.passage.text.len())
            .sum();
        let chunk = Chunk {
            first_ordinal: 0,
            width: 2,
            base: None,
            inputs: vec![<_>::default(); 2],
            rows: vec![1.0; 4],
            parts,
            n_missing: 0,
        };
        let path = chunk::path(folder.path(), 0);
        chunk.create(&path).unwrap();
        let certain = first.certain_bytes(2, true, false);
        assert_eq!(certain, texts as u64 + 16);
        assert!(certain <= fs::metadata(&path).unwrap().len());
        let assembled = 2 * rows.row_bytes(2) as u64;
        assert_eq!(first.certain_bytes(2, true, true), certain + assembled);
        assert_eq!(first.certain_bytes(1, false, false), texts as u64 / 2);
    }

    #[test]
    fn what_is_certain_to_be_written_does_not_depend_on_how_the_corpus_escapes() {
        let long = |letter: &str| letter.repeat(5_000);
        let line = |id: &str, text: &str| format!(r#"{{"_id": "{id}", "text": "{text}"}}"#);
        for letter in ["d", "\\u0064", "\u{434}", "\\u0434", "\\\""] {
            let lines = ["a", "b"].map(|id| line(id, &long(letter)));
            check_certain([&lines[0], &lines[1]], RowType::F16);
        }
    }
}
