//! The same small set in every format, and what is wrong with damaged ones.

use std::fs;
use std::path::{Path, PathBuf};

use corpus::{RunFormat, Template};
use trainer::data::{
    Content, CorpusSource, DataError, DataReport, DataSource, Dataset, Example, JudgedSource,
    Judgments, LineFormat, LineSource, NamedFormat, NamedSource, NegativeSource, PassageText,
    QuerySource, Sampling, SamplingRule,
};

fn fixture(name: &str) -> PathBuf {
    testkit::fixture("training").join(name)
}

fn read(source: &DataSource) -> Result<Dataset, DataError> {
    source.read(&mut |_, _| {})
}

/// Query id, query, positives and negatives, each passage as `id text`, with `=score` where it has one.
type Seen = (String, String, Vec<String>, Vec<String>);

fn text(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Pair(first, second) => format!("{first}|{second}"),
        Content::Tokens(ids) => format!("{ids:?}"),
    }
}

fn seen(example: &Example) -> Seen {
    let passages = |passages: &[trainer::data::Candidate]| -> Vec<String> {
        let passage = |one: &trainer::data::Candidate| {
            let score = one.score.map_or(String::new(), |score| format!("={score}"));
            format!("{} {}{score}", one.id, text(&one.content))
        };
        passages.iter().map(passage).collect()
    };
    (
        example.query_id.clone(),
        text(&example.query),
        passages(&example.positives),
        passages(&example.negatives),
    )
}

const TIDES: [&str; 2] = [
    "Tides The moon pulls the sea twice a day.",
    "Tides Spring tides follow the full moon.",
];

/// What the first example holds: passages with ids, or without, with scores or without.
fn first(id: &str, has_ids: bool, has_scores: bool) -> Seen {
    let rows = [
        (0, TIDES[0], 4.5),
        (1, TIDES[1], 3.25),
        (2, "Rainbows Drops bend sunlight by its colour.", -2.0),
        (5, "Honey A closed jar of honey keeps for years.", -3.5),
        (6, "Bridges An arch pushes its weight to the banks.", -4.0),
    ];
    let passages = rows.map(|(row, text, score)| {
        let digest = Content::Text(text.to_owned()).digest();
        let id = if has_ids {
            row.to_string()
        } else {
            format!("{digest:016x}")
        };
        let score = if has_scores {
            format!("={score}")
        } else {
            String::new()
        };
        format!("{id} {text}{score}")
    });
    let (positives, negatives) = passages.split_at(2);
    (
        id.to_owned(),
        "why are there tides".to_owned(),
        positives.to_vec(),
        negatives.to_vec(),
    )
}

fn lines(name: &str, format: LineFormat) -> DataSource {
    DataSource::Lines(LineSource {
        paths: vec![fixture(name)],
        format,
        ..LineSource::default()
    })
}

fn named(name: &str, format: NamedFormat, corpus: CorpusSource) -> DataSource {
    DataSource::Named(NamedSource {
        paths: vec![fixture(name)],
        format,
        corpus,
        passage: PassageText::default(),
        all_passages: false,
        skip_missing: false,
    })
}

/// The set in BEIR's layout.
fn beir() -> JudgedSource {
    JudgedSource::beir(&fixture(""), "train").unwrap()
}

fn lists(name: &str) -> Option<NegativeSource> {
    Some(NegativeSource::Lists(fixture(name)))
}

fn run(depth: Option<usize>) -> Option<NegativeSource> {
    Some(NegativeSource::Run {
        path: fixture("run.trec"),
        format: RunFormat::Auto,
        depth,
    })
}

fn retromae() -> JudgedSource {
    JudgedSource {
        corpus: CorpusSource::Tokens(fixture("retromae/corpus")),
        queries: QuerySource::Tokens(fixture("retromae/train_query")),
        judgments: Judgments::Lines(fixture("retromae/train_qrels.txt")),
        negatives: lists("retromae/hard_negs.txt"),
        scores: vec![fixture("retromae/teacher.txt")],
        ..beir()
    }
}

fn judged(source: JudgedSource) -> DataSource {
    DataSource::Judged(Box::new(source))
}

#[track_caller]
fn check(source: &DataSource, n_examples: usize, expected: Seen) -> Dataset {
    let dataset = read(source).unwrap();
    assert_eq!(dataset.len(), n_examples);
    assert_eq!(seen(&dataset.example(0)), expected);
    dataset
}

#[test]
fn every_format_gives_the_same_examples() {
    // Where a query has no id, its text names it.
    let digest = Content::Text("why are there tides".to_owned()).digest();
    let digest = format!("{digest:016x}");
    check(
        &lines("tevatron.jsonl", LineFormat::Tevatron),
        3,
        first("q1", true, false),
    );
    check(
        &lines("flag-embedding.jsonl", LineFormat::FlagEmbedding),
        3,
        first(&digest, false, true),
    );
    let corpus = || CorpusSource::file(&fixture("corpus.jsonl"));
    let ids = named("tevatron-ids.jsonl", NamedFormat::TevatronIds, corpus());
    check(&ids, 3, first("q1", true, false));
    let rows = CorpusSource::Rows(fixture("simlm/passages.jsonl.gz"));
    let simlm = named("simlm/train.jsonl", NamedFormat::Simlm, rows);
    check(&simlm, 3, first("q1", true, true));

    let beir = |negatives| JudgedSource {
        negatives,
        ..beir()
    };
    check(&judged(beir(run(None))), 3, first("q1", true, false));
    check(
        &judged(beir(lists("train.negatives.tsv"))),
        3,
        first("q1", true, false),
    );
    let rocketqa = JudgedSource {
        corpus: CorpusSource::TextsAndTitles {
            texts: fixture("rocketqa/para.txt"),
            titles: fixture("rocketqa/para.title.txt"),
        },
        ..beir(lists("train.negatives.tsv"))
    };
    check(&judged(rocketqa), 3, first("q1", true, false));
}

/// The texts as the fixtures' token ids.
#[test]
fn token_ids_are_kept() {
    let dataset = read(&lines("openmatch.jsonl", LineFormat::Openmatch)).unwrap();
    let example = dataset.example(0);
    assert_eq!(example.query, Content::Tokens(vec![72, 23, 66, 67]));
    assert_eq!((example.positives.len(), example.negatives.len()), (2, 3));

    let arrow = read(&judged(retromae())).unwrap();
    assert_eq!(arrow.len(), 4, "one example a line");
    for (number, id, score) in [(0, "0", 4.5), (1, "1", 3.25)] {
        let found = arrow.example(number);
        assert_eq!(found.query, example.query);
        assert_eq!(found.positives.len(), 1);
        assert_eq!(
            (&*found.positives[0].id, found.positives[0].score),
            (id, Some(score))
        );
        assert_eq!(
            found.positives[0].content,
            example.positives[number].content
        );
        let contents = |one: &Example| -> Vec<Content> {
            one.negatives.iter().map(|n| n.content.clone()).collect()
        };
        assert_eq!(contents(&found), contents(&example));
        let group = arrow.group(number, 0, &Sampling::new(2)).unwrap();
        let mut known = group.positives.to_vec();
        known.sort();
        assert_eq!(known, ["0", "1"], "the query's other positive is known too");
    }
}

#[test]
fn distillation_lines_have_scores() {
    let scores = |example: &Example| -> Vec<f32> {
        let all = example.positives.iter().chain(&example.negatives);
        all.map(|one| one.score.unwrap()).collect()
    };
    let pairs = read(&lines(
        "openmatch-pairwise.jsonl",
        LineFormat::OpenmatchPairwise,
    ))
    .unwrap();
    assert_eq!(pairs.len(), 8);
    assert_eq!(
        scores(&pairs.example(0)),
        [6.5, 0.0],
        "the teacher's margin"
    );
    let listed = read(&lines(
        "openmatch-listwise.jsonl",
        LineFormat::OpenmatchListwise,
    ))
    .unwrap();
    assert_eq!(scores(&listed.example(0)), [4.5, -2.0, -3.5, -4.0, 3.25]);
}

#[test]
fn our_own_lines_come_back_as_they_were() {
    let sources = [
        lines("openmatch.jsonl", LineFormat::Openmatch),
        lines("flag-embedding.jsonl", LineFormat::FlagEmbedding),
        judged(JudgedSource {
            passage: PassageText::Pair,
            ..beir()
        }),
        judged(JudgedSource {
            negatives: run(None),
            scores: vec![fixture("retromae/teacher.txt")],
            ..beir()
        }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.jsonl");
    for source in sources {
        let examples: Vec<Example> = read(&source).unwrap().examples().collect();
        let mut bytes = Vec::new();
        examples
            .iter()
            .for_each(|example| example.write(&mut bytes).unwrap());
        fs::write(&path, bytes).unwrap();
        let again = read(&DataSource::Lines(LineSource::native(vec![path.clone()]))).unwrap();
        assert_eq!(again.examples().collect::<Vec<_>>(), examples);
    }
    let pair = Content::Pair("a".into(), "b".into());
    let example = Example {
        query: pair,
        ..read(&lines("tevatron.jsonl", LineFormat::Tevatron))
            .unwrap()
            .example(0)
    };
    let mut bytes = Vec::new();
    example.write(&mut bytes).unwrap();
    fs::write(&path, bytes).unwrap();
    let again = read(&DataSource::Lines(LineSource::native(vec![path]))).unwrap();
    assert_eq!(again.example(0), example);
}

#[test]
fn positives_leave_a_run_before_it_is_cut() {
    let ids = |depth| -> Vec<String> {
        let dataset = read(&judged(JudgedSource {
            negatives: run(depth),
            ..beir()
        }))
        .unwrap();
        dataset
            .example(0)
            .negatives
            .into_iter()
            .map(|one| one.id)
            .collect()
    };
    assert_eq!(ids(None), ["2", "5", "6"]);
    // The positives stand second and third.
    assert_eq!(ids(Some(2)), ["2", "5"]);
}

#[test]
fn pairs_and_templates_make_the_texts() {
    let positive = |passage: PassageText| {
        let dataset = read(&judged(JudgedSource { passage, ..beir() })).unwrap();
        dataset.example(0).positives[0].content.clone()
    };
    let pair = Content::Pair("Tides".into(), "The moon pulls the sea twice a day.".into());
    assert_eq!(positive(PassageText::Pair), pair);
    let template = Template::parse("<meta.row> Title: <title> Text: <text>").unwrap();
    let text = "0 Title: Tides Text: The moon pulls the sea twice a day.";
    assert_eq!(
        positive(PassageText::Template(template)),
        Content::Text(text.into())
    );

    let query = Template::parse("query: <text>").unwrap();
    let dataset = read(&judged(JudgedSource { query, ..beir() })).unwrap();
    assert_eq!(
        dataset.example(0).query,
        Content::Text("query: why are there tides".into())
    );
}

#[test]
fn without_candidates_negatives_come_from_the_whole_corpus() {
    let dataset = read(&judged(beir())).unwrap();
    assert_eq!(
        (
            dataset.passages().len(),
            dataset.report().n_without_negatives
        ),
        (8, 3)
    );
    let sampling = Sampling {
        rule: SamplingRule::Retromae,
        ..Sampling::new(7)
    };
    let mut ids: Vec<String> = dataset
        .group(0, 3, &sampling)
        .unwrap()
        .passages
        .into_iter()
        .skip(1)
        .map(|one| one.id)
        .collect();
    ids.sort();
    assert_eq!(ids, ["2", "3", "4", "5", "6", "7"]);

    let named = read(&judged(JudgedSource {
        negatives: run(None),
        ..beir()
    }))
    .unwrap();
    assert_eq!(named.passages().len(), 7, "passage 3 is named nowhere");
    let all = JudgedSource {
        negatives: run(None),
        all_passages: true,
        ..beir()
    };
    assert_eq!(read(&judged(all)).unwrap().passages().len(), 8);
}

#[test]
fn queries_without_judgments_are_counted() {
    let report = read(&judged(beir())).unwrap().report().clone();
    let expected = DataReport {
        n_examples: 3,
        n_passages: 8,
        n_positives: 4,
        n_without_negatives: 3,
        left_out: [("queries without judgments", 1)].into(),
        first_left_out: [("queries without judgments", "q4".to_owned())].into(),
        ..DataReport::default()
    };
    assert_eq!(report, expected);
    let judgments = Judgments::Qrels {
        path: fixture("qrels/train.tsv"),
        min_grade: 2,
    };
    let error = read(&judged(JudgedSource {
        judgments,
        ..beir()
    }))
    .unwrap_err();
    assert!(matches!(error, DataError::Empty { .. }), "{error}");
}

#[test]
fn negatives_without_a_teacher_score_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores");
    fs::write(&path, "q1 Q0 0 1 2.5 teacher\nq1 5 [-1e0]\n").unwrap();
    let source = JudgedSource {
        negatives: run(None),
        scores: vec![path],
        ..beir()
    };
    let dataset = read(&judged(source)).unwrap();
    assert_eq!(
        dataset.report().left_out["negatives without a teacher's score"],
        7
    );
    let example = dataset.example(0);
    assert_eq!(
        (example.positives[0].score, example.positives[1].score),
        (Some(2.5), None)
    );
    assert_eq!(example.negatives[0].score, Some(-1.0));
}

/// Files of a test, each written where its name says.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files
            .iter()
            .for_each(|(name, text)| folder.write(name, text.as_bytes()));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// What reading fails with, without the folder's name.
    #[track_caller]
    fn error(&self, source: &DataSource) -> String {
        let error = read(source).unwrap_err();
        assert!(error.is_bad_input(), "{error}");
        error
            .to_string()
            .replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn a_bad_line_is_named() {
    #[track_caller]
    fn check(format: LineFormat, line: &str, expected: &str) {
        let good = r#"{"query": "a", "positives": [{"text": "b"}]}"#;
        let (lines, expected) = match format {
            LineFormat::Native => (
                format!("{good}\n\n{line}\n"),
                format!("train:3: {expected}"),
            ),
            _ => (line.to_owned(), format!("train:1: {expected}")),
        };
        let folder = Folder::new(&[("train", &lines)]);
        let source = |skip_bad_lines| {
            DataSource::Lines(LineSource {
                paths: vec![folder.path("train")],
                format,
                skip_bad_lines,
                ..LineSource::default()
            })
        };
        let error = folder.error(&source(false));
        assert!(error.starts_with(&expected), "{error}");
        if format == LineFormat::Native {
            let dataset = read(&source(true)).unwrap();
            assert_eq!(
                (dataset.len(), dataset.report().left_out["bad lines"]),
                (1, 1)
            );
            assert!(dataset.report().first_left_out["bad lines"].ends_with(&error));
        }
    }
    let native = LineFormat::Native;
    check(native, "{", "EOF while parsing an object at byte 1");
    check(native, r#"{"query": "a", "positives": []}"#, "no positive");
    check(
        native,
        r#"{"query": "a", "positives": [{"text": " "}]}"#,
        "no positive that is not blank",
    );
    check(
        native,
        r#"{"query": " ", "positives": [{"text": "b"}]}"#,
        "query is blank",
    );
    check(native, r#"{"query": "a"}"#, "missing field `positives`");
    check(
        native,
        r#"{"query": [1, -2], "positives": []}"#,
        "neither text nor [text, text] nor token ids",
    );
    check(
        native,
        r#"{"query": "a", "positives": [{"title": "b"}]}"#,
        "a passage has `text`, `title` and `text`, or `tokens`",
    );
    check(
        native,
        r#"{"query": "a", "positives": [{"id": [], "text": "b"}]}"#,
        "an id is text or a whole number",
    );
    check(
        LineFormat::Openmatch,
        r#"{"query": [1], "positives": [[]]}"#,
        "no positive",
    );
    check(
        LineFormat::Openmatch,
        r#"{"query": [], "positives": [[1]]}"#,
        "query is blank",
    );
    check(
        LineFormat::OpenmatchPairwise,
        r#"{"query": [1], "positive": [2], "negative": [3]}"#,
        "missing field `score`",
    );
    check(
        LineFormat::OpenmatchListwise,
        r#"{"query": [1], "docs": [[2]], "scores": []}"#,
        "`scores` has 0 scores for 1 passages",
    );
    check(
        LineFormat::OpenmatchListwise,
        r#"{"query": [1], "docs": [], "scores": []}"#,
        "`docs` is empty",
    );
    check(
        LineFormat::Tevatron,
        r#"{"query_id": 1, "query": "a", "positive_passages": [{"docid": 2}]}"#,
        "missing field `text`",
    );
    check(
        LineFormat::FlagEmbedding,
        r#"{"query": "a", "pos": ["b"], "pos_scores": [1, 2]}"#,
        "`pos_scores` has 2 scores for 1 passages",
    );
}

#[test]
fn a_passage_with_an_empty_id_is_named_by_its_content() {
    let lines = [
        (
            LineFormat::Native,
            r#"{"query_id": "", "query": "a", "positives": [{"id": "", "text": "b"}], "negatives": [{"id": "", "text": "c"}]}"#,
        ),
        (
            LineFormat::Tevatron,
            r#"{"query_id": "", "query": "a", "positive_passages": [{"docid": "", "text": "b"}], "negative_passages": [{"docid": "", "text": "c"}]}"#,
        ),
    ];
    for (format, line) in lines {
        let folder = Folder::new(&[("train", line)]);
        let source = DataSource::Lines(LineSource {
            paths: vec![folder.path("train")],
            format,
            ..LineSource::default()
        });
        let example = read(&source).unwrap().example(0);
        let name = |content: &Content| format!("{:016x}", content.digest());
        assert_eq!(example.query_id, name(&example.query));
        for passage in [&example.positives[0], &example.negatives[0]] {
            assert_eq!(passage.id, name(&passage.content), "{format:?}");
        }
    }
}

#[test]
fn damaged_files_are_refused() {
    let folder = Folder::new(&[]);
    let gzip = fs::read(fixture("simlm/passages.jsonl.gz")).unwrap();
    folder.write("cut", &gzip[..gzip.len() / 2]);
    let corpus = CorpusSource::Rows(folder.path("cut"));
    let error = folder.error(&named("simlm/train.jsonl", NamedFormat::Simlm, corpus));
    assert!(error.contains("is truncated or damaged"), "{error}");

    folder.write(
        "latin",
        b"{\"query\": \"a\", \"positives\": [{\"text\": \"b\"}]}\n{\"query\": \"\xe9\"}\n",
    );
    let latin = DataSource::Lines(LineSource::native(vec![folder.path("latin")]));
    assert_eq!(folder.error(&latin), "latin:2: not UTF-8 at byte 12");

    folder.write("empty", b"\n");
    let empty = DataSource::Lines(LineSource::native(vec![folder.path("empty")]));
    assert_eq!(folder.error(&empty), "`empty` has no example");

    let missing = DataSource::Lines(LineSource::native(vec![folder.path("nowhere")]));
    assert!(!read(&missing).unwrap_err().is_bad_input());
}

#[test]
fn what_a_corpus_lacks_is_named_or_counted() {
    let folder = Folder::new(&[
        (
            "corpus.jsonl",
            "{\"_id\": \"a\", \"text\": \"x\"}\n{\"_id\": \"b\", \"text\": \"y\"}\n",
        ),
        (
            "queries.jsonl",
            "{\"_id\": \"q1\", \"text\": \"s\"}\n{\"_id\": \"q2\", \"text\": \"t\"}\n",
        ),
        ("qrels", "q1 0 a 1\nq2 0 b 1\nq2 0 none 1\n"),
        ("strange", "q1 0 a 1\nq3 0 b 1\n"),
        ("lists", "q1\tb,gone\nq9\tb\n"),
        (
            "ids",
            "{\"query_id\": 1, \"query_text\": \"s\", \"positive_document_ids\": [\"a\"], \"negative_document_ids\": [\"gone\"]}\n",
        ),
        ("bad", "q1 b,c\n"),
    ]);
    let source = |qrels: &str, lists: &str| JudgedSource {
        corpus: CorpusSource::file(&folder.path("corpus.jsonl")),
        queries: QuerySource::File(folder.path("queries.jsonl")),
        judgments: Judgments::Qrels {
            path: folder.path(qrels),
            min_grade: 1,
        },
        negatives: Some(NegativeSource::Lists(folder.path(lists))),
        ..beir()
    };
    let error = |source: JudgedSource| folder.error(&judged(source));
    assert_eq!(
        error(source("qrels", "lists")),
        "lists:1: passage `gone` of query `q1` is not in the corpus"
    );
    let mut both = source("qrels", "lists");
    both.negatives = None;
    assert_eq!(
        error(both),
        "qrels:3: passage `none` of query `q2` is not in the corpus"
    );
    assert_eq!(
        error(source("strange", "lists")),
        "strange:2: query `q3` is not in `queries.jsonl`"
    );
    assert_eq!(error(source("qrels", "bad")), "bad:1: no tab");

    let skipping = JudgedSource {
        skip_missing: true,
        ..source("qrels", "lists")
    };
    let dataset = read(&judged(skipping)).unwrap();
    let counts = &dataset.report().left_out;
    assert_eq!(counts["positives not in the corpus"], 1);
    assert_eq!(counts["negatives not in the corpus"], 1);
    assert_eq!(counts["lists of queries without judgments"], 1);
    assert_eq!(
        (
            dataset.example(1).positives.len(),
            dataset.example(0).negatives.len()
        ),
        (1, 1)
    );
    let skipping = JudgedSource {
        skip_missing: true,
        ..source("strange", "lists")
    };
    let report = read(&judged(skipping)).unwrap().report().clone();
    assert_eq!(
        report.first_left_out["judged queries that are not among the queries"],
        "q3"
    );

    let ids = DataSource::Named(NamedSource {
        paths: vec![folder.path("ids")],
        format: NamedFormat::TevatronIds,
        corpus: CorpusSource::file(&folder.path("corpus.jsonl")),
        passage: PassageText::default(),
        all_passages: false,
        skip_missing: false,
    });
    assert_eq!(
        folder.error(&ids),
        "ids:1: passage `gone` of query `1` is not in the corpus"
    );
}

#[test]
fn a_template_marker_that_no_record_has_is_refused() {
    let template = |text| PassageText::Template(Template::parse(text).unwrap());
    let error = |source: JudgedSource| read(&judged(source)).unwrap_err().to_string();
    let passage = error(JudgedSource {
        passage: template("<title> <abstract>"),
        ..beir()
    });
    assert!(
        passage.starts_with("template `<title> <abstract>` names `abstract`, which no record of"),
        "{passage}"
    );
    let nested = error(JudgedSource {
        passage: template("<meta.name> <text>"),
        ..beir()
    });
    assert!(nested.contains("names `meta.name`"), "{nested}");
    let query = Template::parse("<question>").unwrap();
    let query = error(JudgedSource { query, ..beir() });
    assert!(query.contains("names `question`"), "{query}");

    // A field that some have is left empty in the others, and they are counted.
    let folder = Folder::new(&[(
        "corpus.jsonl",
        "{\"_id\": \"0\", \"text\": \"x\", \"by\": \"me\"}\n{\"_id\": \"1\", \"text\": \"y\"}\n{\"_id\": \"2\", \"text\": \"z\"}\n{\"_id\": \"4\", \"text\": \"z\"}\n",
    )]);
    let source = JudgedSource {
        corpus: CorpusSource::file(&folder.path("corpus.jsonl")),
        passage: template("<text> by <by>"),
        ..beir()
    };
    let dataset = read(&judged(source)).unwrap();
    assert_eq!(
        dataset.report().left_out["template fields that a record lacks (left empty)"],
        3
    );
}

#[test]
fn rows_and_scores_must_be_what_they_say() {
    let folder = Folder::new(&[
        (
            "rows",
            "{\"id\": \"0\", \"contents\": \"x\"}\n{\"id\": \"7\", \"contents\": \"y\"}\n",
        ),
        ("twice", "a\tx\na\ty\n"),
        ("scores", "q1 0 high\n"),
        ("fields", "q1 0\n"),
    ]);
    let rows = CorpusSource::Rows(folder.path("rows"));
    let error = folder.error(&named("simlm/train.jsonl", NamedFormat::Simlm, rows));
    assert_eq!(error, "rows:2: id `7` in row 1: ids are rows, from 0");
    let texts = CorpusSource::TextsAndTitles {
        texts: folder.path("twice"),
        titles: folder.path("twice"),
    };
    let source = JudgedSource {
        corpus: texts,
        ..beir()
    };
    assert_eq!(folder.error(&judged(source)), "twice:2: id `a` repeats");
    let scores = |name: &str| {
        judged(JudgedSource {
            negatives: run(None),
            scores: vec![folder.path(name)],
            ..beir()
        })
    };
    assert_eq!(
        folder.error(&scores("scores")),
        "scores:1: score `high` is not a number"
    );
    assert_eq!(
        folder.error(&scores("fields")),
        "fields:1: 2 fields where 3 or 6 are expected"
    );
    assert!(
        read(&scores("nowhere")).is_err(),
        "a teacher that is not there is not ignored"
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn damaged_arrow_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus");
    copy(&fixture("retromae/corpus"), &corpus);
    let source = judged(JudgedSource {
        corpus: CorpusSource::Tokens(corpus.clone()),
        ..retromae()
    });
    let error = || read(&source).unwrap_err().to_string();
    let part = corpus.join("data-00001-of-00002.arrow");
    let bytes = fs::read(&part).unwrap();
    // Whatever is cut off or changed, reading ends with rows or with an error, and does not panic.
    for length in 0..bytes.len() {
        fs::write(&part, &bytes[..length]).unwrap();
        let whole = read(&source).is_ok();
        assert!(
            !whole || length >= bytes.len() - 8,
            "{length} bytes are not a whole stream"
        );
    }
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= [0x01, 0x80, 0xff][position % 3];
        fs::write(&part, &damaged).unwrap();
        let _ = read(&source);
    }
    fs::write(&part, &bytes).unwrap();
    assert_eq!(read(&source).unwrap().len(), 4);

    let ids = corpus.join("mapping_id.txt");
    let lines = fs::read_to_string(&ids).unwrap();
    for (line, expected) in [
        ("8\t8\n", "`8` is row 8, and there are 8 rows"),
        ("8\t7\n", "mapping_id.txt:9: row 7 is `7` already"),
        ("8\tx\n", "mapping_id.txt:9: row `x` is not a number"),
        ("8 7\n", "mapping_id.txt:9: no tab"),
    ] {
        fs::write(&ids, format!("{lines}{line}")).unwrap();
        assert!(error().ends_with(expected), "{}", error());
    }
    fs::write(&ids, lines).unwrap();
    fs::write(
        corpus.join("state.json"),
        "{\"_data_files\": [{\"filename\": \"../../passwords\"}]}",
    )
    .unwrap();
    assert!(error().contains("corpus/passwords"), "{}", error());
    fs::write(corpus.join("state.json"), "{}").unwrap();
    assert!(
        error().contains("missing field `_data_files`"),
        "{}",
        error()
    );
}
