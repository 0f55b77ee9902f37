//! `trawl eval` from its arguments to its output and exit code.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `trawl` in the folder with arguments separated by spaces.
    fn trawl(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trawl"));
        command
            .args(arguments.split(' '))
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        let output = self.trawl(&format!("{arguments} --json"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Checks the exit code and that standard error says `message`.
    #[track_caller]
    fn check_failure(&self, arguments: &str, exit: i32, message: &str) {
        let output = self.trawl(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{errors}");
        assert!(errors.contains(message), "{errors}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Judgments of two queries, a run that has both, and one that has the first only.
fn small() -> Folder {
    let folder = Folder::new();
    folder.write("qrels", "q1 0 a 1\nq1 0 b 2\nq2 0 c 1\n");
    folder.write(
        "run",
        "q1 Q0 a 1 3 x\nq1 Q0 b 2 2 x\nq2 Q0 a 1 2 x\nq2 Q0 c 2 1 x\n",
    );
    folder.write("other", "q1 Q0 z 1 3 y\nq1 Q0 b 2 2 y\n");
    folder
}

#[test]
fn a_run_is_measured() {
    let folder = small();
    let output = folder.trawl("eval --qrels qrels --run run -m mrr@10,recall@1,10 -m P@1");
    assert_eq!(
        text(&output.stdout),
        "num_q                 \tall\t2\nnum_q_missing         \tall\t0\nmrr@10                \tall\t0.7500\n\
         recall@1              \tall\t0.2500\nrecall@10             \tall\t1.0000\nP@1                   \tall\t0.5000\n"
    );
    assert!(text(&output.stderr).contains("2 queries, 0 missing in the run"));
    let found = folder.json("eval --qrels qrels --run run --profile trec-dl --per-query -m mrr");
    assert_eq!(
        (&found["relevance_level"], &found["metrics"]),
        (&json!(2), &json!({"mrr": 0.25}))
    );
    assert_eq!(
        found["per_query"],
        json!({"q1": {"mrr": 0.5}, "q2": {"mrr": 0.0}})
    );
    let found = folder
        .json("eval --qrels qrels --run other --average intersection -m mrr -l 2 --ties file");
    assert_eq!(
        (&found["metrics"]["mrr"], &found["num_q_missing"]),
        (&json!(0.5), &json!(1))
    );
}

#[test]
fn lists_of_measures_may_have_spaces() {
    let folder = small();
    let measured = |list: &str| {
        let arguments = [
            "eval", "--json", "--qrels", "qrels", "--run", "run", "-m", list,
        ];
        let output = Command::new(env!("CARGO_BIN_EXE_trawl"))
            .args(arguments)
            .current_dir(folder.0.path())
            .output()
            .unwrap();
        match output.status.code() {
            Some(0) => serde_json::from_slice::<Value>(&output.stdout).unwrap()["metrics"].clone(),
            _ => json!(text(&output.stderr)),
        }
    };
    let expected = measured("mrr@10,recall@1,10");
    assert!(expected.is_object(), "{expected}");
    for list in [
        "mrr@10, recall@1, 10",
        " mrr@10 recall@1,10,",
        "mrr@10,,recall@1,10",
    ] {
        assert_eq!(measured(list), expected, "{list}");
    }
    for list in ["", " ", ","] {
        let error = measured(list).to_string();
        assert!(error.contains("--measures names no measure"), "{error}");
    }
}

#[test]
fn two_runs_are_compared() {
    let folder = small();
    let found = folder.json("eval --qrels qrels --run run --against other -m mrr --per-query");
    let comparison = &found["comparison"][0];
    assert_eq!(comparison["differences"], json!({"q1": 0.5, "q2": 0.5}));
    assert_eq!(
        (&comparison["difference"], &comparison["interval"]),
        (&json!(0.5), &json!([0.5, 0.5]))
    );
    // Of four assignments of signs, two are as far.
    assert_eq!(
        (&comparison["p_value"], &comparison["is_exact"]),
        (&json!(0.5), &json!(true))
    );
    assert_eq!(found["against"]["metrics"]["mrr"], json!(0.25));
    let output = folder.trawl("eval --qrels qrels --run run --against other -m mrr");
    assert!(
        text(&output.stdout).contains("+0.5000 to +0.5000"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn answers_are_looked_for_in_texts() {
    let folder = small();
    folder.write("questions.jsonl", "{\"_id\": \"q1\", \"text\": \"?\", \"answers\": [\"Blue\"]}\n{\"_id\": \"q2\", \"text\": \"?\"}\n");
    folder.write("corpus.jsonl", "{\"_id\": \"a\", \"text\": \"red\"}\n{\"_id\": \"b\", \"text\": \"the blue sky\"}\n{\"_id\": \"c\", \"text\": \"x\"}\n");
    let found =
        folder.json("eval --answers questions.jsonl --corpus corpus.jsonl --run run -m answer@1,2");
    assert_eq!(
        (&found["num_q"], &found["metrics"]),
        (&json!(1), &json!({"answer@1": 0.0, "answer@2": 1.0}))
    );
    let other = "eval --answers questions.jsonl --corpus corpus.jsonl --run other";
    folder.check_failure(other, 65, "passage `z` of query `q1` has no text");

    let asked = |answers| format!("{{\"_id\": \"q1\", \"text\": \"?\", \"answers\": {answers}}}\n");
    folder.write("corpus.jsonl", "{\"_id\": \"a\", \"text\": \"in 1969\"}\n{\"_id\": \"b\", \"text\": \"x\"}\n{\"_id\": \"c\", \"text\": \"x\"}\n");
    let numbers = "eval --answers questions.jsonl --corpus corpus.jsonl --run run -m answer@2";
    for answers in ["1969", "[7, 1969]"] {
        folder.write("questions.jsonl", &asked(answers));
        assert_eq!(folder.json(numbers)["metrics"], json!({"answer@2": 1.0}));
    }
    folder.write("questions.jsonl", &asked("[\"Blue\", true]"));
    let expected = "answer `true` to query `q1` is neither text nor a number";
    folder.check_failure(numbers, 65, expected);
}

#[test]
fn failures_have_their_exit_codes() {
    let folder = small();
    folder.write("bad", "q1 0 a 1\nq1 0 b high\n");
    folder.check_failure(
        "eval --qrels bad --run run",
        65,
        "bad:2: relevance `high` is not an integer",
    );
    folder.check_failure(
        "eval --qrels qrels --run other --strict",
        65,
        "the run lacks 1 of 2 queries",
    );
    folder.check_failure(
        "eval --qrels qrels --run nowhere",
        1,
        "cannot open `nowhere`",
    );
    folder.check_failure(
        "eval --qrels qrels --run run -m ndgc@10",
        2,
        "no measure `ndgc@10`",
    );
    folder.check_failure(
        "eval --qrels qrels --run run --ties random",
        2,
        "expected trec, file or docid-asc",
    );
    folder.check_failure("eval --qrels qrels", 2, "<COLLECTION|--run <FILE>>");
    folder.check_failure("eval --run run", 2, "--qrels");
    let errors = crate::fail(2, ["eval", "data/one"]);
    assert!(errors.contains("--dataset"), "{errors}");
    assert!(!errors.contains("--qrels"), "{errors}");
}

#[test]
fn arguments_without_an_effect_are_refused() {
    let folder = small();
    dataset(&folder, "one", "test");
    for (arguments, flag) in [
        ("-k 5", "--top-k"),
        ("--lexical", "--lexical"),
        ("--filter lang=en", "--filter"),
        ("--group-by document", "--group-by"),
        ("--model mine", "--model"),
        ("--precision f32", "--precision"),
    ] {
        let run = format!("eval --qrels qrels --run run {arguments}");
        folder.check_failure(&run, 2, flag);
        let suite = format!("eval suite sets/one --runs runs --out out {arguments}");
        folder.check_failure(&suite, 2, flag);
    }
    let collection = "eval data/one --dataset sets/one --lexical";
    for (arguments, flag) in [
        ("--qrels-format trec", "--qrels-format"),
        ("--run-format trec", "--against"),
        ("--explain", "--explain"),
    ] {
        folder.check_failure(&format!("{collection} {arguments}"), 2, flag);
    }
    let run = "search data/one --queries queries.jsonl --run-out run.trec";
    for (arguments, flag) in [("--explain", "--explain"), ("--facets lang", "--facets")] {
        folder.check_failure(&format!("{run} {arguments}"), 2, flag);
    }
    let search = "search data/one bread";
    for (arguments, flag) in [
        ("--lexical --exact", "--exact"),
        ("--lexical --ef 20", "--ef"),
        (
            "--hybrid --fusion weighted --rrf-k 5",
            "--rrf-k has an effect",
        ),
    ] {
        folder.check_failure(&format!("{search} {arguments}"), 2, flag);
    }
    let vectors = "search data/one --vectors q.npy --ids q.ids --run-out run.trec --facets lang";
    folder.check_failure(vectors, 2, "--facets");
    let suite = "eval suite sets/one --collections data --out out --explain";
    folder.check_failure(suite, 2, "--explain");
    let answers = "eval --answers questions.jsonl --corpus corpus.jsonl --run run";
    for (arguments, flag) in [
        ("-l 2", "--relevance-level"),
        ("--judged-only", "--judged-only"),
    ] {
        folder.check_failure(&format!("{answers} {arguments}"), 2, flag);
    }
    let suite = "eval suite sets/one --collections data --out out --run-format trec";
    folder.check_failure(suite, 2, "--run-format");
    folder.json("eval --qrels qrels --qrels-format trec --run run --run-format trec");
}

#[test]
fn a_query_whose_results_no_run_can_hold_is_named_before_any_is_searched() {
    let folder = small();
    folder.write("corpus.jsonl", "{\"_id\": \"a\", \"text\": \"x\"}\n");
    let (model, build) = (crate::tiny_model(), "index build --corpus corpus.jsonl");
    folder.json(&format!(
        "{build} --collection data/one --model {}",
        crate::text(&model)
    ));
    dataset(&folder, "one", "test");
    let queries = "{\"_id\": \"q1\", \"text\": \"x\"}\n\n{\"_id\": \"q 2\", \"text\": \"x\"}\n";
    folder.write("sets/one/queries.jsonl", queries);
    let search = "search data/one --lexical --queries sets/one/queries.jsonl --run-out run.trec";
    let evaluate = "eval data/one --lexical --dataset sets/one -m mrr";
    let suite = "eval suite sets/one --lexical --collections data --out out -m mrr";
    let judged = "search data/one --lexical --queries sets/one/queries.jsonl --qrels sets/one/qrels/test.tsv";
    // It is no query of the split.
    folder.json(&format!("{judged} --run-out judged.trec"));
    folder.json(&format!("{evaluate} --run-out judged.trec"));
    let qrels = "query-id\tcorpus-id\tscore\nq 2\ta\t1\n";
    folder.write("sets/one/qrels/test.tsv", qrels);
    let expected = "sets/one/queries.jsonl:3: id `q 2` is empty or has white space";
    folder.check_failure(search, 65, expected);
    folder.check_failure(&format!("{judged} --run-out run.trec"), 65, expected);
    folder.check_failure(&format!("{evaluate} --run-out run.trec"), 65, expected);
    folder.check_failure(suite, 65, expected);
    // Where no run is written it is a query like any other.
    assert_eq!(folder.json(evaluate)["metrics"]["mrr"], 1.0);
}

#[test]
fn a_passage_that_no_run_can_hold_ends_the_search_at_the_query_that_finds_it() {
    let folder = small();
    dataset(&folder, "one", "test");
    let (model, build) = (crate::tiny_model(), "index build --corpus corpus.jsonl");
    folder.write("corpus.jsonl", "{\"_id\": \"a b\", \"text\": \"x\"}\n");
    folder.write(
        "sets/one/queries.jsonl",
        "{\"_id\": \"q1\", \"text\": \"x\"}\n",
    );
    folder.json(&format!(
        "{build} --collection data/one --model {}",
        crate::text(&model)
    ));
    let search = "search data/one --lexical --queries sets/one/queries.jsonl --run-out run.trec";
    let evaluate = "eval data/one --lexical --dataset sets/one -m mrr";
    let evaluate_out = format!("{evaluate} --run-out run.trec");
    let suite = "eval suite sets/one --lexical --collections data --out out -m mrr";
    for (command, run) in [
        (search, "run.trec"),
        (evaluate_out.as_str(), "run.trec"),
        (suite, "out/one.test.trec"),
    ] {
        let expected = format!("cannot write the results of query `q1` to run `{run}`");
        folder.check_failure(command, 65, &expected);
        folder.check_failure(command, 65, "id `a b` is empty or has white space");
    }
    // Where no run is written it is a passage like any other.
    assert_eq!(folder.json(evaluate)["metrics"]["mrr"], 0.0);
}

#[test]
fn who_has_stopped_reading_remarks_ends_nothing() {
    let folder = small();
    folder.write("corpus.jsonl", "{\"_id\": \"a\", \"text\": \"x\"}\n");
    let model = crate::tiny_model();
    let build = format!(
        "index build --corpus corpus.jsonl --collection data/one --model {}",
        crate::text(&model)
    );
    for (arguments, exit, printed) in [
        ("eval --qrels qrels --run run -m mrr", 0, "mrr"),
        ("eval --qrels qrels --run nowhere", 1, ""),
        (build.as_str(), 0, "(live)"),
        ("-vv search data/one x --lexical", 0, "1 passages"),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_trawl"))
            .args(arguments.split(' '))
            .current_dir(folder.0.path())
            .stderr(writer)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(exit), "{arguments}");
        let shown = text(&output.stdout);
        assert!(shown.contains(printed), "{shown}");
    }
}

#[test]
fn what_would_be_lost_at_the_end_is_refused_before_work_begins() {
    let folder = small();
    // Nothing else that these commands name is there, and nothing else is looked at first.
    for arguments in [
        "eval data/one --dataset sets/one --run-out nowhere/run.trec",
        "search data/one --queries queries --run-out nowhere/run.trec",
        "rerank --run none --queries none --corpus none --run-out nowhere/run.trec",
        "bench search --base none.npy --queries none.npy --ids-out nowhere/ids.npy",
        "bench serve --url http://127.0.0.1:1 --path /livez --rate 1 --plot nowhere/load.png",
    ] {
        folder.check_failure(arguments, 1, "cannot write into `nowhere`");
    }
    folder.write("queries.jsonl", "{\"_id\": \"q1\", \"text\": \"?\"}\n");
    let rerank = "rerank --run run --queries queries.jsonl --corpus none --run-out new.trec";
    folder.check_failure(rerank, 65, "query `q2` of the run");
    assert!(!folder.0.path().join("new.trec").exists());
}

fn dataset(folder: &Folder, name: &str, split: &str) {
    folder.write(
        &format!("sets/{name}/corpus.jsonl"),
        "{\"_id\": \"a\", \"text\": \"x\"}\n",
    );
    folder.write(
        &format!("sets/{name}/queries.jsonl"),
        "{\"_id\": \"q1\", \"text\": \"y\"}\n",
    );
    folder.write(
        &format!("sets/{name}/qrels/{split}.tsv"),
        "query-id\tcorpus-id\tscore\nq1\ta\t1\n",
    );
}

#[test]
fn a_suite_is_averaged_and_not_done_twice() {
    let folder = Folder::new();
    dataset(&folder, "one", "test");
    dataset(&folder, "two", "dev");
    folder.write("runs/one.test.trec", "q1 Q0 a 1 1 x\n");
    let suite = "eval suite sets/one sets/two --runs runs --out out -m mrr@10";
    folder.check_failure(suite, 1, "cannot evaluate data set `sets/two`");

    // The first data set is done; only the second is left.
    folder.write("runs/two.dev.trec", "q1 Q0 b 1 2 x\nq1 Q0 a 2 1 x\n");
    let output = folder.trawl(suite);
    let errors = text(&output.stderr);
    assert!(
        errors.contains("one.test: unchanged") && errors.contains("two.dev: evaluated"),
        "{errors}"
    );
    assert!(text(&output.stdout).contains("mean of 2"));
    // All measures of a profile are too many to stand side by side.
    let wide = "eval suite sets/one sets/two --runs runs --out wide --profile beir";
    let shown = folder.trawl(wide);
    let shown = text(&shown.stdout);
    for name in ["ndcg@1 ", "ndcg@1000 ", "recall@1000 ", "P@100 ", "mrr@10 "] {
        assert!(shown.contains(name), "{name}:\n{shown}");
    }
    assert_eq!(shown.matches("mean of 2").count(), 5, "{shown}");
    let found = folder.json(suite);
    assert_eq!(
        (&found["macro_average"], &found["n_datasets"]),
        (&json!({"mrr@10": 0.75}), &json!(2))
    );

    assert!(found["datasets"][0]["report"].get("per_query").is_none());
    let kept: Value =
        serde_json::from_slice(&std::fs::read(folder.0.path().join("out/two.dev.json")).unwrap())
            .unwrap();
    assert_eq!(kept["report"]["per_query"], json!({"q1": {"mrr@10": 0.5}}));

    // Contents decide, not names or times.
    folder.write("runs/two.dev.trec", "q1 Q0 a 1 1 x\n");
    let output = folder.trawl(suite);
    let errors = text(&output.stderr);
    assert!(
        errors.contains("one.test: unchanged") && errors.contains("two.dev: evaluated"),
        "{errors}"
    );
    folder.write("out/one.test.json", "damaged");
    assert!(text(&folder.trawl(suite).stderr).contains("one.test: evaluated"));
    let errors = text(&folder.trawl(&format!("{suite},100")).stderr);
    assert!(
        errors.contains("one.test: evaluated") && errors.contains("two.dev: evaluated"),
        "{errors}"
    );

    // What is kept of the first stays: neither is evaluated.
    dataset(&folder, "../more/one", "test");
    let kept = || std::fs::read(folder.0.path().join("out/one.test.json")).unwrap();
    let before = kept();
    folder.check_failure(
        "eval suite sets/one more/one --runs runs --out out -m mrr@10",
        2,
        "two data sets are named `one`",
    );
    assert_eq!(kept(), before);
    folder.check_failure(
        "eval suite sets/one --runs runs --out out --split train",
        65,
        "has no `qrels/train.tsv`",
    );
    dataset(&folder, "three", "train");
    folder.check_failure(
        "eval suite sets/three --runs runs --out out",
        2,
        "neither split `test` nor `dev`",
    );
}

#[test]
fn a_suite_searches_again_what_was_written_to() {
    let folder = Folder::new();
    dataset(&folder, "one", "test");
    folder.write(
        "sets/one/corpus.jsonl",
        "{\"_id\": \"b\", \"text\": \"y\"}\n",
    );
    let model = crate::tiny_model();
    let model = crate::text(&model);
    folder.json(&format!(
        "index build --quiet --corpus sets/one/corpus.jsonl --collection data/one --model {model}"
    ));
    let reranker = testkit::fixture("models/tiny-cross-bert");
    for entry in std::fs::read_dir(&reranker).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            std::fs::create_dir_all(folder.0.path().join("ce")).unwrap();
            std::fs::write(folder.0.path().join("ce").join(name), bytes).unwrap();
        }
    }
    let suite = "eval suite sets/one --collections data --out out -m mrr@10 --lexical";
    let check = |options: &str, expected: &str| {
        let output = folder.trawl(&format!("{suite}{options}"));
        let errors = text(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(
            errors.contains(&format!("one.test: {expected}")),
            "{errors}"
        );
    };
    check("", "evaluated");
    check("", "unchanged");
    folder.write("new.jsonl", "{\"_id\": \"a\", \"text\": \"y y\"}\n");
    folder.json("documents add data/one new.jsonl");
    check("", "evaluated");
    check("", "unchanged");
    check(" --drop-live", "evaluated");
    folder.json("documents add data/one new.jsonl");
    check(" --drop-live", "unchanged");
    check(" --rerank ce", "evaluated");
    check(" --rerank ce", "unchanged");
    folder.write("ce/README.md", "another one");
    check(" --rerank ce", "evaluated");
}
