//! Dev figures by real search, against the same by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use corpus::{Run, RunFormat, Scored, Template, ranked};
use encoder::training::{Parameters, TrainingError};
use encoder::{BiEncoder, CrossEncoder, EncoderConfig, ModelOptions, RankPrior, Role, Text};
use evaluation::{EvaluationConfig, Measure, evaluate};
use serde_json::{Value, json};
use trainer::data::{Content, Group, PassageText};
use trainer::ranks::Collective;
use trainer::run::{
    DevConfig, DevSet, Evaluator, EvaluatorError, RerankEvaluator, SearchEvaluator,
};
use trainer::{Objective, Preparation, Step, StepReport};

/// A model that is only exported.
struct Fixture {
    name: &'static str,
    parameters: Parameters,
    rank_prior: Option<RankPrior>,
}

impl Fixture {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            parameters: Parameters::new(),
            rank_prior: None,
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

impl Objective for Fixture {
    type Batch = Vec<Group>;
    type Input = ();

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn preparation(&self) -> Preparation<Vec<Group>, ()> {
        Box::new(|_| Ok(()))
    }

    fn step_prepared(
        &mut self,
        _: &Vec<Group>,
        (): (),
        _: &Step,
        _: &dyn Collective,
    ) -> Result<StepReport, TrainingError> {
        Ok(StepReport::default())
    }

    fn evaluate(&mut self, _: &Vec<Group>) -> Result<StepReport, TrainingError> {
        Ok(StepReport::default())
    }

    fn export(&self, folder: &Path) -> Result<(), TrainingError> {
        copy(&testkit::fixture("models").join(self.name), folder);
        if let Some(prior) = self.rank_prior {
            let path = folder.join("config.json");
            let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let identity = json!({ "activation_fn": "torch.nn.modules.linear.Identity" });
            config["sentence_transformers"] = identity;
            config["trawl"] = json!({ "rank_prior": prior });
            fs::write(&path, config.to_string()).unwrap();
        }
        Ok(())
    }
}

fn config() -> DevConfig {
    DevConfig {
        dataset: testkit::fixture("sample"),
        split: "test".to_owned(),
        max_queries: None,
        n_distractors: None,
        seed: 1,
        query_template: Template::query_default(),
        passage: PassageText::default(),
    }
}

fn measures() -> Vec<Measure> {
    ["ndcg@10", "recall@100"]
        .map(|name| name.parse().unwrap())
        .to_vec()
}

/// Measures of scores by hand.
fn measured(dev: &DevSet, score: impl Fn(usize, usize) -> f64) -> BTreeMap<String, f64> {
    let mut run = Run::new("by hand");
    for (row, (query, _)) in dev.queries.iter().enumerate() {
        let scored = dev.passages.iter().enumerate();
        let scored = scored.map(|(column, (id, _))| Scored {
            id: id.clone(),
            score: score(row, column),
        });
        run.insert(query.as_str(), scored.collect());
    }
    let config = EvaluationConfig {
        measures: measures(),
        ..EvaluationConfig::default()
    };
    let report = evaluate(&dev.qrels, &run, &config).unwrap();
    measures()
        .iter()
        .map(|measure| (measure.to_string(), report.mean_of(*measure).unwrap()))
        .collect()
}

fn text(content: &Content) -> Text<'_> {
    match content {
        Content::Text(text) => Text::Single(text),
        Content::Pair(title, body) => Text::Pair(title, body),
        Content::Tokens(ids) => panic!("{ids:?}"),
    }
}

/// What a cross-encoder reads of a passage.
fn joined(content: &Content) -> String {
    match text(content) {
        Text::Single(text) => text.to_owned(),
        Text::Pair(title, body) => format!("{title}: {body}"),
    }
}

#[test]
fn figures_of_a_search_are_those_of_all_inner_products() {
    check_search(&config());
    check_search(&DevConfig {
        passage: PassageText::Pair,
        max_queries: Some(20),
        ..config()
    });
}

fn check_search(config: &DevConfig) {
    let dev = Arc::new(DevSet::read(config).unwrap());
    let n_queries = config.max_queries.unwrap_or(84);
    assert_eq!((dev.queries.len(), dev.passages.len()), (n_queries, 336));
    let folder = tempfile::tempdir().unwrap();
    let mut evaluator = SearchEvaluator {
        dev: dev.clone(),
        measures: measures(),
        depth: 336,
        encoder: EncoderConfig::default(),
        options: ModelOptions::default(),
        scratch: folder.path().to_owned(),
    };
    let found = evaluator.evaluate(&mut Fixture::new("tiny-bert")).unwrap();
    assert!(
        fs::read_dir(folder.path()).unwrap().next().is_none(),
        "nothing is left behind"
    );

    let model = testkit::fixture("models/tiny-bert");
    let model =
        BiEncoder::load(&model, &ModelOptions::default(), &EncoderConfig::default()).unwrap();
    let texts = dev.queries.iter().map(|(_, text)| Text::Single(text));
    let queries = model.encode_texts(Role::Query, &texts.collect::<Vec<_>>());
    let texts = dev.passages.iter().map(|(_, content)| text(content));
    let passages = model.encode_texts(Role::Passage, &texts.collect::<Vec<_>>());
    let (queries, passages) = (queries.unwrap(), passages.unwrap());
    let expected = measured(&dev, |row, column| {
        queries
            .row(row)
            .iter()
            .zip(passages.row(column))
            .map(|(a, b)| f64::from(a * b))
            .sum()
    });
    for (name, value) in &expected {
        assert!(
            (found[name] - value).abs() < 1e-6,
            "{name}: {found:?} {expected:?}"
        );
    }
}

#[test]
fn a_part_of_a_corpus_holds_what_is_judged_and_the_draws_of_the_seed() {
    let part = DevConfig {
        max_queries: Some(10),
        n_distractors: Some(20),
        ..config()
    };
    let dev = DevSet::read(&part).unwrap();
    let judged: Vec<&str> = dev
        .qrels
        .queries()
        .flat_map(|(_, passages)| passages.keys().map(String::as_str))
        .collect();
    let distinct: std::collections::HashSet<&str> = judged.iter().copied().collect();
    assert_eq!((dev.queries.len(), dev.qrels.len()), (10, 10));
    assert_eq!(dev.passages.len(), distinct.len() + 20);
    let ids: Vec<&String> = dev.passages.iter().map(|(id, _)| id).collect();
    assert!(
        distinct
            .iter()
            .all(|id| ids.iter().any(|found| found == id))
    );
    assert_eq!(dev.passages, DevSet::read(&part).unwrap().passages);
    let other = DevSet::read(&DevConfig { seed: 2, ..part }).unwrap();
    assert_ne!(dev.queries, other.queries);
}

#[test]
fn a_cross_encoder_reorders_the_head_of_a_run() {
    check_reordering(PassageText::default());
    check_reordering(PassageText::Pair);
}

fn check_reordering(passage: PassageText) {
    let config = DevConfig {
        max_queries: Some(5),
        passage,
        ..config()
    };
    let dev = Arc::new(DevSet::read(&config).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (path, depth) = (folder.path().join("run.trec"), 12);
    let mut run = Run::new("all");
    for (query, _) in &dev.queries {
        // Passage i scores −i: the head of the ranking is that of the corpus.
        let scored = dev.passages.iter().enumerate().map(|(i, (id, _))| Scored {
            id: id.clone(),
            score: -(i as f64),
        });
        run.insert(query.as_str(), scored.collect());
    }
    run.write(&path).unwrap();
    let make = |run: &Path, dev: &Arc<DevSet>| {
        RerankEvaluator::new(
            dev.clone(),
            run,
            depth,
            measures(),
            EncoderConfig::default(),
            folder.path().to_owned(),
        )
    };
    let found = make(&path, &dev)
        .unwrap()
        .evaluate(&mut Fixture::new("tiny-cross-bert"))
        .unwrap();
    let model = testkit::fixture("models/tiny-cross-bert");
    let model = CrossEncoder::load(&model, None, &EncoderConfig::default()).unwrap();
    let score = |query: &str, passage: &str| {
        f64::from(
            model
                .score(&model.tokenize(&[(query, passage)]).unwrap())
                .unwrap()
                .logits[0],
        )
    };
    let mut head = DevSet {
        qrels: dev.qrels.clone(),
        queries: dev.queries.clone(),
        passages: dev.passages.clone(),
    };
    head.passages.truncate(depth);
    let expected = measured(&head, |row, column| {
        score(&head.queries[row].1, &joined(&head.passages[column].1))
    });
    assert_eq!(found, expected);

    // A prior that outweighs the scores: the figures of the run itself.
    let mut first = Run::new("first");
    for (query, _) in &dev.queries {
        let hits = Run::read(&path, RunFormat::Auto).unwrap();
        let hits = ranked(hits.get(query).unwrap()).into_iter().take(depth);
        first.insert(query.as_str(), hits.cloned().collect());
    }
    let config = EvaluationConfig {
        measures: measures(),
        ..EvaluationConfig::default()
    };
    let report = evaluate(&dev.qrels, &first, &config).unwrap();
    let mut with_prior = Fixture::new("tiny-cross-bert");
    with_prior.rank_prior = Some(RankPrior {
        weight: 1e6,
        offset: 0.0,
    });
    let mut check_figures = |report: &evaluation::Report| {
        let mut evaluator = make(&path, &dev).unwrap();
        let found = evaluator.evaluate(&mut with_prior).unwrap();
        for (measure, expected) in measures().iter().zip(&report.mean) {
            assert_eq!(found[&measure.to_string()], *expected, "{measure}");
        }
    };
    check_figures(&report);

    // A query that the run lacks has figures of 0.
    let (query, mut part) = (dev.queries[0].0.as_str(), Run::new("part"));
    part.insert(query, first.get(query).unwrap().to_vec());
    part.write(&path).unwrap();
    let report = evaluate(&dev.qrels, &part, &config).unwrap();
    assert_eq!(report.n_missing, 4);
    check_figures(&report);

    fs::write(&path, format!("{query} Q0 nothing 1 1.0 x\n")).unwrap();
    assert!(matches!(
        make(&path, &dev),
        Err(EvaluatorError::Missing { .. })
    ));
    fs::write(&path, "q Q0 nothing 1 1.0 x\n").unwrap();
    assert!(matches!(
        make(&path, &dev),
        Err(EvaluatorError::NoRanking { .. })
    ));
}
