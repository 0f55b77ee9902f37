//! Documents changed between builds, against a list in memory that is searched one by one.
//!
//! `TRAWL_LIVE_OPERATIONS` is the number of random operations, `TRAWL_LIVE_SEED` repeats a run.

mod encoded;
mod kills;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, mpsc};

use collection::{
    AliasName, BuildMode, Collection, Durability, GenerationId, LIVE, LogConfig, Retention, Start,
};
use corpus::{CorpusConfig, Passage, Schema};
use futures::future::BoxFuture;
use index::{HnswConfig, Metric, RowType};
use indexer::{
    Batch, BroughtVectors, BuildConfig, BuildError, Committed, Committer, CompactConfig,
    CompactReport, DocumentChange, LogPosition, NoProgress, Recipe, Remembered, VectorSource,
    apply, build_from_vectors, compact, create, replay,
};
use retriever::{
    Condition, Deadline, Encoded, Filter, Live, Mode, ModelError, OpenConfig, QueryEncoder,
    QueryInput, Retriever, SearchOptions, SearchRequest, SearchResponse, SelectError, Test,
};
use serde_json::json;
use vectors::VectorFile;

use crate::write_corpus;

const WIDTH: usize = 3;
const WORDS: [&str; 6] = ["tide", "moon", "salt", "wind", "stone", "river"];

/// Tries again while another thread has the collection locked.
fn patiently<T, E: std::fmt::Debug>(mut work: impl FnMut() -> Result<T, E>) -> T {
    loop {
        match work() {
            Err(error) if format!("{error:?}").contains("Locked") => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            outcome => return outcome.unwrap(),
        }
    }
}

struct NoEncoder;

impl QueryEncoder for NoEncoder {
    fn encode(
        &self,
        _: Vec<String>,
        _: Option<String>,
        _: Deadline,
    ) -> BoxFuture<'_, Result<Encoded, ModelError>> {
        Box::pin(async { Ok(Encoded::default()) })
    }
}

fn search(retriever: &Retriever, query: QueryInput, options: SearchOptions) -> SearchResponse {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let request = SearchRequest { query, options };
    let answer = retriever.search(request, &NoEncoder, None);
    runtime.block_on(answer).unwrap()
}

fn hits(answer: &SearchResponse) -> Vec<(String, u32)> {
    let hits = answer.hits.iter();
    hits.map(|hit| (hit.id.clone(), hit.score.to_bits()))
        .collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Document {
    id: String,
    text: String,
    year: i64,
    vector: [f32; WIDTH],
}

impl Document {
    fn passage(&self) -> Passage {
        Passage {
            id: self.id.clone(),
            text: self.text.clone(),
            metadata: json!({ "year": self.year }).as_object().unwrap().clone(),
            ..Passage::default()
        }
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Upsert(Document),
    Delete(String),
}

/// What there is, in the order of its ordinals.
type State = Vec<Document>;

fn applied(mut state: State, operations: &[Operation]) -> State {
    for operation in operations {
        let id = match operation {
            Operation::Upsert(document) => &document.id,
            Operation::Delete(id) => id,
        };
        state.retain(|document| document.id != *id);
        if let Operation::Upsert(document) = operation {
            state.push(document.clone());
        }
    }
    state
}

struct Draws(u64);

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        // SplitMix64, Steele, Lea & Flood 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits % n as u64) as usize
    }

    /// Few values, so that scores tie.
    fn vector(&mut self) -> [f32; WIDTH] {
        let mut vector = [0.0; WIDTH];
        vector.fill_with(|| self.below(4) as f32 - 1.0);
        vector[0] = vector[0].abs() + 1.0;
        vector
    }

    fn document(&mut self, n_ids: usize) -> Document {
        let n_words = 1 + self.below(5);
        let words: Vec<_> = (0..n_words)
            .map(|_| WORDS[self.below(WORDS.len())])
            .collect();
        Document {
            id: format!("d{}", self.below(n_ids)),
            text: words.join(" "),
            year: self.below(8) as i64,
            vector: self.vector(),
        }
    }
}

/// A generation as the oracle knows it: its passages, and the operations that are to be applied to them.
#[derive(Clone)]
struct Built {
    contents: State,
    start: usize,
}

/// The collection and the oracle beside it.
struct Trial {
    root: PathBuf,
    collection: Collection,
    retriever: Arc<Mutex<Arc<Retriever>>>,
    committer: Option<Committer>,
    operations: Vec<Operation>,
    built: BTreeMap<GenerationId, Built>,
    live: GenerationId,
    before: Option<GenerationId>,
    draws: Draws,
    n_ids: usize,
    graph: bool,
}

fn schema() -> Schema {
    serde_json::from_value(json!({ "fields": { "year": "integer" } })).unwrap()
}

fn of_years(years: &[i64]) -> Condition {
    Condition::Field {
        key: "year".to_owned(),
        test: Test::Any(years.iter().map(|year| json!(year)).collect()),
    }
}

fn open(collection: &Collection) -> Arc<Retriever> {
    let generation = collection.resolve(LIVE).unwrap();
    let retriever = Retriever::open(generation, OpenConfig::default()).unwrap();
    replay(collection, &retriever, None).unwrap();
    Arc::new(retriever)
}

impl Trial {
    fn new(folder: &Path, seed: u64, n_ids: usize, graph: bool) -> Self {
        let root = folder.join("docs");
        let config = Self::config(&root, CorpusConfig::default(), graph);
        let source = VectorSource::Brought {
            width: WIDTH,
            metric: Metric::InnerProduct,
        };
        let first = patiently(|| create(&config, &schema(), source));
        let collection = Collection::open(&root).unwrap();
        let built = Built {
            contents: Vec::new(),
            start: 0,
        };
        let mut trial = Self {
            root,
            retriever: Arc::new(Mutex::new(open(&collection))),
            collection,
            committer: None,
            operations: Vec::new(),
            built: BTreeMap::from([(first.id.clone(), built)]),
            live: first.id,
            before: None,
            draws: Draws(seed),
            n_ids,
            graph,
        };
        trial.restart();
        trial
    }

    fn config(root: &Path, corpus: CorpusConfig, graph: bool) -> BuildConfig {
        BuildConfig {
            rows: RowType::F16,
            graph: graph.then(HnswConfig::default),
            n_shards: 2,
            ..BuildConfig::new(root.to_owned(), corpus, None)
        }
    }

    /// Opens everything anew.
    fn restart(&mut self) {
        drop(self.committer.take());
        *self.retriever.lock().unwrap() = open(&self.collection);
        let config = LogConfig {
            durability: Durability::Os,
            segment_bytes: 20_000,
        };
        let log = patiently(|| self.collection.log_writer("test", config));
        assert_eq!(log.position() as usize, self.operations.len());
        let retriever = Arc::clone(&self.retriever);
        let committer = Committer::start(log, move |changes, position| {
            let retriever = retriever.lock().unwrap();
            let mut live = Live::clone(&retriever.live());
            let recipe = Recipe::of(retriever.manifest(), retriever.row_form())?;
            for change in changes {
                apply(&mut live, change, &recipe, None)?;
            }
            live.advance(position);
            retriever.set_live(live);
            Ok(())
        });
        self.committer = Some(committer.unwrap());
    }

    fn retriever(&self) -> Arc<Retriever> {
        Arc::clone(&self.retriever.lock().unwrap())
    }

    fn state(&self) -> State {
        let Built { contents, start } = self.built[&self.live].clone();
        applied(contents, &self.operations[start..])
    }

    /// Writes some operations in batches that arrive at once.
    fn write(&mut self) {
        let n_batches = 1 + self.draws.below(3);
        let (sender, receiver) = mpsc::channel();
        let recipe = Recipe::of(self.retriever().manifest(), self.retriever().row_form()).unwrap();
        for _ in 0..n_batches {
            let mut batch = Batch::default();
            for _ in 0..1 + self.draws.below(3) {
                let document = self.draws.document(self.n_ids);
                let operation = match self.draws.below(4) {
                    0 => Operation::Delete(document.id),
                    _ => Operation::Upsert(document),
                };
                batch.changes.push(match &operation {
                    Operation::Delete(id) => DocumentChange::Delete(id.clone()),
                    Operation::Upsert(document) => {
                        let vector = document.vector.to_vec();
                        let upsert = recipe.brought(document.passage(), vector).unwrap();
                        DocumentChange::Upsert(upsert)
                    }
                });
                self.operations.push(operation);
            }
            let expected = (self.operations.len() as u64, batch.changes.len());
            let sender = sender.clone();
            let committer = self.committer.as_ref().unwrap();
            committer.commit(batch, move |committed| {
                sender.send((committed.unwrap(), expected)).unwrap();
            });
        }
        let is_found = self.draws.below(3) == 0;
        if is_found {
            self.delete_found(sender);
        }
        for (committed, (position, n_changes)) in
            receiver.iter().take(n_batches + usize::from(is_found))
        {
            let expected = Committed::Written {
                position,
                n_changes,
            };
            assert_eq!(committed, expected);
        }
    }

    /// Deletes what a filter finds behind batches that may still wait.
    fn delete_found(&mut self, sender: mpsc::Sender<(Committed, (u64, usize))>) {
        let year = self.draws.below(8) as i64;
        let found = self.state().into_iter();
        let found: Vec<String> = found
            .filter(|document| document.year == year)
            .map(|document| document.id)
            .collect();
        let deleted = found.iter().cloned().map(Operation::Delete);
        self.operations.extend(deleted);
        let expected = (self.operations.len() as u64, found.len());
        let retriever = Arc::clone(&self.retriever);
        let find = move || {
            let live = retriever.lock().unwrap().live();
            let view = live.view();
            let filter = Filter {
                must: vec![of_years(&[year])],
                ..Filter::default()
            };
            let documents = view.documents(&view.select(&filter)?);
            let documents = documents.map_err(SelectError::Store)?;
            assert_eq!(documents, found);
            Ok(Batch {
                changes: documents.into_iter().map(DocumentChange::Delete).collect(),
                answer: None,
            })
        };
        let committer = self.committer.as_ref().unwrap();
        committer.commit_found(find, move |committed| {
            sender.send((committed.unwrap(), expected)).unwrap();
        });
    }

    fn check(&mut self) {
        let (retriever, state) = (self.retriever(), self.state());
        let query = self.draws.vector();
        let (top_k, offset) = (1 + self.draws.below(20), self.draws.below(4));
        let year = self.draws.below(8) as i64;
        let is_filtered = self.draws.below(2) == 0;
        let filter = is_filtered.then(|| Filter {
            must: vec![of_years(&[year, year + 1])],
            ..Filter::default()
        });
        let passes = |document: &Document| {
            !is_filtered || document.year == year || document.year == year + 1
        };
        let mut ranked: Vec<(usize, f32)> = Vec::new();
        for (ordinal, document) in state.iter().enumerate() {
            if passes(document) {
                let score = index::score(Metric::InnerProduct, &document.vector, &query);
                ranked.push((ordinal, score));
            }
        }
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let expected: Vec<(String, u32)> = ranked
            .iter()
            .skip(offset)
            .take(top_k)
            .map(|&(ordinal, score)| (state[ordinal].id.clone(), score.to_bits()))
            .collect();
        let options = SearchOptions {
            filter: filter.clone(),
            facets: vec!["year".to_owned()],
            top_k,
            offset,
            exact: true,
            ..SearchOptions::default()
        };
        let answer = search(&retriever, QueryInput::Vector(query.to_vec()), options);
        assert_eq!(hits(&answer), expected);
        assert_eq!(answer.total.value, ranked.len() as u64);
        assert_eq!(answer.log_position as usize, self.operations.len());
        for hit in &answer.hits {
            let document = state.iter().find(|document| document.id == hit.id).unwrap();
            assert_eq!(hit.text.as_deref(), Some(document.text.as_str()));
            assert_eq!(hit.metadata, Some(document.passage().metadata));
        }
        let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
        for document in state.iter().filter(|document| passes(document)) {
            *counts.entry(document.year).or_default() += 1;
        }
        let mut expected: Vec<_> = counts
            .into_iter()
            .map(|(year, n)| (json!(year), n))
            .collect();
        expected.sort_by_key(|(year, n)| (u64::MAX - n, year.as_i64()));
        assert_eq!(answer.facets[0].counts, expected);
    }

    /// What words find, in all that there is and in a part of it.
    fn by_words(&self) -> Vec<Vec<(String, u32)>> {
        let retriever = self.retriever();
        let ask = |query: &str, filter: Option<Filter>| {
            let options = SearchOptions {
                mode: Mode::Lexical,
                filter,
                top_k: 1000,
                ..SearchOptions::default()
            };
            hits(&search(
                &retriever,
                QueryInput::Text(query.to_owned()),
                options,
            ))
        };
        let late = Filter {
            must: vec![of_years(&[5, 6])],
            ..Filter::default()
        };
        vec![
            ask("tide", None),
            ask("moon salt moon", None),
            ask("wind river", Some(late)),
        ]
    }

    fn publish(&mut self, id: &GenerationId, drop_live: bool) {
        let alias = AliasName::parse(LIVE).unwrap();
        let writer = patiently(|| self.collection.writer("test"));
        if drop_live {
            let end = self.operations.len();
            writer.set_alias_without(&alias, id, end as u64).unwrap();
            self.built.get_mut(id).unwrap().start = end;
        } else {
            writer.set_alias(&alias, id).unwrap();
        }
        if self.live == *id {
            // As a server does that goes on with it.
            replay(&self.collection, &self.retriever(), None).unwrap();
            return;
        }
        self.before = Some(std::mem::replace(&mut self.live, id.clone()));
        *self.retriever.lock().unwrap() = open(&self.collection);
    }

    fn roll_back(&mut self) {
        let Some(before) = self.before.clone() else {
            return;
        };
        let alias = AliasName::parse(LIVE).unwrap();
        let writer = patiently(|| self.collection.writer("test"));
        assert_eq!(writer.rollback(&alias).unwrap(), before);
        self.before = Some(std::mem::replace(&mut self.live, before));
        *self.retriever.lock().unwrap() = open(&self.collection);
    }

    /// Folds the log; what words find is the same, to the last bit.
    fn compact(&mut self) {
        let before = self.by_words();
        let config = CompactConfig {
            alias: AliasName::parse(LIVE).unwrap(),
            publish: true,
        };
        let contents = self.state();
        let cancelled = AtomicBool::new(false);
        let report =
            patiently(|| compact(&self.collection, &config, None, &NoProgress, &cancelled));
        let CompactReport::Folded {
            generation,
            n_kept,
            n_added,
            ..
        } = report
        else {
            return;
        };
        assert_eq!((n_kept + n_added) as usize, contents.len());
        assert!(generation.verify(|_| ()).is_empty());
        let built = Built {
            contents,
            start: self.operations.len(),
        };
        self.built.insert(generation.id.clone(), built);
        self.before = Some(std::mem::replace(&mut self.live, generation.id));
        *self.retriever.lock().unwrap() = open(&self.collection);
        assert_eq!(self.retriever().live().view().n_added(), 0);
        assert_eq!(self.by_words(), before);
        self.collect_garbage();
    }

    fn collect_garbage(&mut self) {
        let writer = patiently(|| self.collection.writer("test"));
        let garbage = writer.gc(&Retention::default()).unwrap();
        for id in &garbage.generations {
            self.built.remove(id).unwrap();
        }
        let (sender, receiver) = mpsc::channel();
        let committer = self.committer.as_ref().unwrap();
        committer.truncate(writer, move |freed| sender.send(freed.unwrap()).unwrap());
        receiver.recv().unwrap();
    }

    /// Builds from an older corpus, whose position is told.
    fn build_from_snapshot(&mut self) {
        let first = self.collection.log_positions().unwrap().start as usize - 1;
        let base = self.built[&self.live].clone();
        let end = self.operations.len();
        let at = first.max(base.start) + self.draws.below(end - first.max(base.start) + 1);
        let contents = applied(base.contents, &self.operations[base.start..at]);
        if contents.len() < 2 {
            return;
        }
        let generation = self.build(&contents, LogPosition::At(at as u64));
        self.built.insert(
            generation,
            Built {
                contents,
                start: at,
            },
        );
    }

    fn build(&self, contents: &State, position: LogPosition) -> GenerationId {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (mut corpus, mut rows, mut ids) = (String::new(), Vec::new(), String::new());
        for document in contents {
            let Document { id, text, year, .. } = document;
            corpus += &format!("{}\n", json!({ "_id": id, "text": text, "year": year }));
            rows.extend((WIDTH as i32).to_le_bytes());
            rows.extend(document.vector.iter().flat_map(|value| value.to_le_bytes()));
            ids += &format!("{id}\n");
        }
        fs::write(path("corpus.jsonl"), corpus).unwrap();
        fs::write(path("vectors.fvecs"), rows).unwrap();
        fs::write(path("ids"), ids).unwrap();
        let file = VectorFile::open(&path("vectors.fvecs"), None).unwrap();
        let metric = Metric::InnerProduct;
        let vectors = BroughtVectors::open(file, &path("ids"), metric).unwrap();
        let corpus = CorpusConfig {
            paths: vec![path("corpus.jsonl")],
            schema: Some(schema()),
            ..CorpusConfig::default()
        };
        let config = BuildConfig {
            log_position: Some(position),
            ..Self::config(&self.root, corpus, self.graph)
        };
        let cancelled = AtomicBool::new(false);
        let built = patiently(|| build_from_vectors(&config, &vectors, &NoProgress, &cancelled));
        built.generation
    }

    fn step(&mut self) {
        match self.draws.below(1000) {
            0..=549 => self.write(),
            550..=979 => self.check(),
            980..=984 => self.restart(),
            985..=988 => self.compact(),
            989..=991 => self.build_from_snapshot(),
            992..=994 => {
                let which = self.draws.below(self.built.len());
                let id = self.built.keys().nth(which).unwrap().clone();
                let drop_live = self.draws.below(3) == 0;
                self.publish(&id, drop_live);
            }
            995..=997 => self.roll_back(),
            _ => self.collect_garbage(),
        }
    }
}

#[test]
fn a_large_batch_is_written_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let collection = Collection::create(&folder.path().join("docs")).unwrap();
    let log = collection.log_writer("test", LogConfig::default()).unwrap();
    let (shown, groups) = mpsc::channel();
    let (wait, end_of_wait) = mpsc::channel::<()>();
    let committer = Committer::start(log, move |changes, _| {
        shown.send(changes.len()).unwrap();
        let _ = end_of_wait.recv(); // Until the other end is dropped.
        Ok(())
    });
    let committer = committer.unwrap();
    let (replied, replies) = mpsc::channel();
    let commit = |id: &str, n_changes: usize| {
        let replied = replied.clone();
        let batch = Batch {
            changes: vec![DocumentChange::Delete(id.to_owned()); n_changes],
            answer: None,
        };
        committer.commit(batch, move |committed| {
            replied.send(committed.is_ok()).unwrap();
        });
    };
    commit("first", 1);
    assert_eq!(groups.recv().unwrap(), 1);
    // The others wait until that is shown.
    commit("small", 2);
    commit(&"large".repeat(2 << 20), 1);
    commit("small", 3);
    drop(wait);
    drop(committer);
    assert_eq!(groups.iter().collect::<Vec<_>>(), [2, 1, 3]);
    drop(replied);
    assert_eq!(replies.iter().collect::<Vec<_>>(), [true; 4]);
    assert_eq!(collection.log_positions().unwrap(), 1..8);
}

#[test]
fn random_changes_are_found_as_in_a_list() {
    let read = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap());
    let n_operations = read("TRAWL_LIVE_OPERATIONS").unwrap_or(3_000);
    let seed = read("TRAWL_LIVE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("TRAWL_LIVE_SEED={seed} TRAWL_LIVE_OPERATIONS={n_operations}");
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(folder.path(), seed, 300, seed % 2 == 0);
    for _ in 0..n_operations {
        trial.step();
    }
    trial.restart();
    trial.check();
    trial.compact();
    trial.check();
}

#[test]
fn what_searches_see_never_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(folder.path(), 3, 10, false);
    trial.write();
    let retriever = trial.retriever();
    // One of two that replay reads the log, and is held up; meanwhile more is written and shown.
    let slower = Live::clone(&retriever.live());
    trial.write();
    let position = retriever.live().position();
    assert!(position > slower.position());
    retriever.set_live(slower);
    assert_eq!(retriever.live().position(), position);
    trial.check();
    // What is left out is, whoever still has it.
    let with_changes = Live::clone(&retriever.live());
    trial.publish(&trial.live.clone(), true);
    assert_eq!(trial.retriever().live().start(), position);
    retriever.set_live(with_changes);
    assert_eq!(trial.state(), []);
    trial.check();
    trial.write();
    trial.check();
}

#[test]
fn a_folded_log_has_the_digest_of_a_full_build() {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(folder.path(), 5, 60, true);
    for round in 0..4 {
        for _ in 0..20 {
            trial.write();
        }
        trial.compact();
        let state = trial.state();
        let folded = trial.collection.resolve(LIVE).unwrap();
        let full = trial.build(&state, LogPosition::End);
        let full = trial.collection.generation(&full).unwrap();
        let built = Built {
            contents: state,
            start: trial.operations.len(),
        };
        trial.built.insert(full.id.clone(), built);
        assert_eq!(
            folded.manifest.content_digest, full.manifest.content_digest,
            "round {round}"
        );
        assert_eq!(folded.manifest.counts, full.manifest.counts);
        assert_eq!(folded.manifest.shards, full.manifest.shards);
    }
}

#[test]
fn a_fold_that_was_killed_or_cancelled_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(folder.path(), 3, 10, false);
    trial.write();
    let collection = &trial.collection;
    let unfinished = || collection.unfinished().unwrap();
    let config = CompactConfig {
        alias: AliasName::parse(LIVE).unwrap(),
        publish: true,
    };
    let fold = |cancelled: bool| {
        let cancelled = AtomicBool::new(cancelled);
        compact(collection, &config, None, &NoProgress, &cancelled)
    };
    let other = json!({"corpus": "of a build that can be resumed"});
    let others = {
        let writer = patiently(|| collection.writer("test"));
        writer.begin(&other, BuildMode::New).unwrap();
        let others = unfinished();
        let killed = json!({"compacted": "another", "position": 1});
        let Start::Build(killed) = writer.begin(&killed, BuildMode::New).unwrap() else {
            panic!("a new build is never done");
        };
        fs::write(killed.path().join("ids"), "half").unwrap();
        others
    };
    assert_eq!((others.len(), unfinished().len()), (1, 2));
    let error = loop {
        let error = fold(true).unwrap_err();
        if !format!("{error:?}").contains("Locked") {
            break error;
        }
    };
    assert!(matches!(error, BuildError::Interrupted { .. }), "{error}");
    assert_eq!(unfinished(), others);
    let folded = patiently(|| fold(false));
    assert!(matches!(folded, CompactReport::Folded { .. }));
    assert_eq!(unfinished(), others);
}

#[test]
fn what_a_build_may_say_of_the_log_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus.jsonl");
    write_corpus(&corpus, 1, 20);
    let config = BuildConfig {
        log_position: Some(LogPosition::At(1)),
        ..crate::config(&folder.path().join("docs"), &corpus)
    };
    let error = crate::run(&config).unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::LogPosition {
                position: 1,
                first: 0,
                last: 0
            }
        ),
        "{error}"
    );
}

#[test]
fn a_request_that_is_repeated_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(folder.path(), 1, 10, false);
    let answer = |request: &str| Remembered {
        key: "key".to_owned(),
        request: request.to_owned(),
        answer: json!({ "n": 1 }),
    };
    let commit = |trial: &Trial, request: &str| {
        let (sender, receiver) = mpsc::channel();
        let batch = Batch {
            changes: vec![DocumentChange::Delete("d1".to_owned())],
            answer: Some(answer(request)),
        };
        let committer = trial.committer.as_ref().unwrap();
        committer.commit(batch, move |committed| {
            sender.send(committed.unwrap()).unwrap()
        });
        receiver.recv().unwrap()
    };
    let written = Committed::Written {
        position: 2,
        n_changes: 1,
    };
    assert_eq!(commit(&trial, "a"), written);
    let before = Committed::Before {
        position: 2,
        remembered: answer("a"),
    };
    assert_eq!(commit(&trial, "b"), before);
    trial.operations = vec![Operation::Delete("d1".to_owned()); 2];
    trial.restart();
    assert_eq!(commit(&trial, "a"), before);
    assert_eq!(trial.retriever().live().position(), 2);
}
