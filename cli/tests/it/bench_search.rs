//! `trawl bench search`: what it finds is what brute force finds, and what it reports is there.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{fail, json as json_of, text, trawl};

const WIDTH: usize = 8;

struct Files {
    folder: tempfile::TempDir,
    base: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
}

/// Rows of small whole numbers, so that scores are exact and some are equal.
fn rows(n: usize, mut seed: u64) -> Vec<Vec<f32>> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 60) as f32 - 7.5
    };
    (0..n)
        .map(|_| (0..WIDTH).map(|_| next()).collect())
        .collect()
}

impl Files {
    fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
            base: rows(300, 1),
            queries: rows(7, 2),
        };
        fs::write(files.path("base.fvecs"), fvecs(&files.base)).unwrap();
        fs::write(files.path("queries.fvecs"), fvecs(&files.queries)).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (base, queries) = (self.path("base.fvecs"), self.path("queries.fvecs"));
        let mut arguments = vec!["--json", "bench", "search", "--base", text(&base)];
        if !more.contains(&"--requests") {
            arguments.extend(["--queries", text(&queries)]);
        }
        arguments.extend(more);
        arguments.into_iter().map(str::to_owned).collect()
    }

    fn report(&self, more: &[&str]) -> Value {
        json_of(self.arguments(more).iter().map(String::as_str))
    }

    /// The command that answers requests on one thread, with pipes.
    fn asked(&self, more: &[&str]) -> Command {
        let more = [&["--requests", "--threads", "1"], more].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_trawl"));
        command
            .args(self.arguments(&more))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    /// The best `k` rows of each query, of those that pass; ties go to the smaller number.
    fn exact(
        &self,
        k: usize,
        score: impl Fn(&[f32], &[f32]) -> f64,
        passes: impl Fn(i64) -> bool,
    ) -> Vec<Vec<i64>> {
        let of = |query: &Vec<f32>| {
            let mut all: Vec<(f64, i64)> = (0i64..)
                .zip(&self.base)
                .filter(|(i, _)| passes(*i))
                .map(|(i, row)| (-score(row, query), i))
                .collect();
            all.sort_by(|a, b| a.partial_cmp(b).unwrap());
            all.into_iter().take(k).map(|(_, i)| i).collect()
        };
        self.queries.iter().map(of).collect()
    }
}

fn fvecs(rows: &[Vec<f32>]) -> Vec<u8> {
    let row = |row: &Vec<f32>| {
        let values = row.iter().flat_map(|value| value.to_le_bytes());
        let width = (row.len() as i32).to_le_bytes();
        width.into_iter().chain(values).collect::<Vec<_>>()
    };
    rows.iter().flat_map(row).collect()
}

fn inner_product(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

fn negated_distance(a: &[f32], b: &[f32]) -> f64 {
    -a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a - b).powi(2))
        .sum::<f64>()
}

/// The rows of a NumPy file of 64-bit integers.
fn ids(path: &PathBuf, k: usize) -> Vec<Vec<i64>> {
    let bytes = fs::read(path).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'descr': '<i8'"));
    let (values, _) = bytes[128..].as_chunks();
    let values: Vec<i64> = values
        .iter()
        .map(|&value| i64::from_le_bytes(value))
        .collect();
    values.chunks(k).map(<[i64]>::to_vec).collect()
}

#[test]
fn rows_found_are_those_of_brute_force() {
    let files = Files::new();
    let out = files.path("ids.npy");
    let check = |more: &[&str], expected: Vec<Vec<i64>>| {
        let k = expected[0].len().to_string();
        let fixed = ["-k", &k, "--repeat", "2", "--ids-out", text(&out)];
        let report = files.report(&[&fixed[..], more].concat());
        assert_eq!(ids(&out, expected[0].len()), expected, "{more:?}");
        assert_eq!(report["recall"], 1.0, "{report}");
        assert_eq!(
            (&report["n_rows"], &report["n_queries"]),
            (&json!(300), &json!(7))
        );
        for figure in [
            "queries_per_s",
            "p50_ms",
            "p99_ms",
            "index_bytes",
            "build_s",
            "rss_bytes",
        ] {
            assert!(report[figure].as_f64().unwrap() > 0.0, "{figure}: {report}");
        }
        report
    };
    let all = |_| true;
    let report = check(
        &["--kind", "flat-rows", "--batch", "3", "--threads", "2"],
        files.exact(5, inner_product, all),
    );
    assert!(report["read_bytes_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["machine_bytes_per_s"].as_f64().unwrap() > 0.0);
    let report = check(&["--metric", "l2"], files.exact(4, negated_distance, all));
    assert!(report["read_bytes_per_s"].is_null());
    assert!(report["scored_per_query"].as_f64().unwrap() >= 4.0);
    let cosine = |row: &[f32], query: &[f32]| {
        inner_product(row, query)
            / inner_product(row, row).sqrt()
            / inner_product(query, query).sqrt()
    };
    check(&["--metric", "cosine"], files.exact(1, cosine, all));

    let filter = files.path("filter");
    fs::write(&filter, "7\n8\n250\n").unwrap();
    let passing = files.exact(3, inner_product, |i| [7, 8, 250].contains(&i));
    let report = check(&["--filter", text(&filter)], passing);
    assert_eq!(report["n_pass"], 3);
    assert!(report["read_bytes_per_s"].is_null());
    fs::write(&filter, "7\n").unwrap();
    let one = files.exact(2, inner_product, |i| i == 7);
    let padded = one.into_iter().map(|row| vec![row[0], -1]).collect();
    check(&["--filter", text(&filter)], padded);
}

#[test]
fn graphs_are_measured() {
    let files = Files::new();
    // One thread builds the same graph on every machine.
    let graph = [
        "--kind", "hnsw", "--metric", "l2", "--rows", "f16", "--m", "8",
    ];
    let report = files.report(&[&graph[..], &["--threads", "1"]].concat());
    assert!(report["recall"].as_f64().unwrap() > 0.8, "{report}");
    assert!(
        ["scan", "graph"].contains(&report["plan"].as_str().unwrap()),
        "{report}"
    );
    let wide = files.report(&["--kind", "hnsw", "--ef", "300", "--threads", "2"]);
    assert!(wide["recall"].as_f64().unwrap() > 0.95, "{wide}");
}

#[test]
fn requests_are_answered_line_by_line() {
    let files = Files::new();
    let mut child = files.asked(&["-k", "2"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |request: &str| -> Value {
        writeln!(input, "{request}").unwrap();
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
    };
    let expected = files.exact(2, inner_product, |_| true);
    let (queries, out) = (files.path("queries.fvecs"), files.path("ids.npy"));
    let answer =
        ask(&json!({"queries": queries, "batch": 4, "ef": 20, "ids_out": out}).to_string());
    assert_eq!(ids(&out, 2), expected);
    assert_eq!(answer["n_queries"], 7);
    assert!(answer["wall_s"].as_f64().unwrap() > 0.0);
    // 1, 0, 0, … as 32-bit floats, in base64.
    let one = format!("AACAPw{}=", "A".repeat(37));
    let bytes_missing = ask(r#"{"vectors": "AACAPwA="}"#);
    assert_eq!(bytes_missing["error"], "`vectors` has 5 bytes");
    let first = ask(&json!({"vectors": one, "k": 1}).to_string());
    let largest = (0..300).max_by(|&a, &b| {
        let order = files.base[a][0].total_cmp(&files.base[b][0]);
        order.then(b.cmp(&a))
    });
    assert_eq!(first["ids"], json!([[largest.unwrap()]]), "{first}");
    let unknown = ask(r#"{"querys": "x"}"#);
    assert!(
        unknown["error"]
            .as_str()
            .unwrap()
            .contains("unknown field `querys`")
    );
    let neither = ask("{}");
    assert!(
        neither["error"]
            .as_str()
            .unwrap()
            .contains("either `queries` or `vectors`")
    );
    drop(input);
    assert!(child.wait().unwrap().success());
}

/// Seven threads are those of whatever does not say how many it wants, and end with the process.
#[cfg(target_os = "linux")]
#[test]
fn one_thread_builds_where_one_is_asked_for() {
    let files = Files::new();
    // As many rows have sketches.
    fs::write(files.path("base.fvecs"), fvecs(&rows(3000, 1))).unwrap();
    let mut child = files
        .asked(&[])
        .env("RAYON_NUM_THREADS", "7")
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let request = json!({"queries": files.path("queries.fvecs")});
    writeln!(input, "{request}").unwrap();
    let answer: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(answer["n_queries"], 7);
    let threads = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let n_threads = threads.count();
    assert!(n_threads < 7, "{n_threads} threads");
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn bad_vectors_and_arguments_are_named() {
    let files = Files::new();
    let refused =
        |exit: i32, more: &[&str]| fail(exit, files.arguments(more).iter().map(String::as_str));
    let nan = files.path("nan.fvecs");
    let mut rows = files.queries.clone();
    rows[3][2] = f32::NAN;
    fs::write(&nan, fvecs(&rows)).unwrap();
    let (base, queries) = (files.path("base.fvecs"), files.path("queries.fvecs"));
    let errors = fail(
        65,
        [
            "bench",
            "search",
            "--base",
            text(&base),
            "--queries",
            text(&nan),
        ],
    );
    assert!(errors.contains("row 3 of `"), "{errors}");
    assert!(errors.contains("not finite at dimension 2"), "{errors}");
    let errors = fail(
        65,
        [
            "bench",
            "search",
            "--base",
            text(&nan),
            "--queries",
            text(&queries),
        ],
    );
    assert!(errors.contains("row 3 of `"), "{errors}");

    let wide = files.path("wide.bvecs");
    fs::write(&wide, [3, 0, 0, 0, 1, 2, 3]).unwrap();
    let errors = fail(
        65,
        [
            "bench",
            "search",
            "--base",
            text(&base),
            "--queries",
            text(&wide),
        ],
    );
    assert!(
        errors.contains("has width 3, the rows that are searched 8"),
        "{errors}"
    );

    let filter = files.path("filter");
    fs::write(&filter, "1\ntwo\n").unwrap();
    let errors = refused(65, &["--filter", text(&filter)]);
    assert!(
        errors.contains("filter:2: `two` is no row number"),
        "{errors}"
    );
    fs::write(&filter, "299\n300\n").unwrap();
    let errors = refused(65, &["--filter", text(&filter)]);
    assert!(
        errors.contains("filter:2: row 300, expected one below 300"),
        "{errors}"
    );
    for (arguments, expected) in [
        (["--m", "8"], "--m has an effect"),
        (
            ["--ef-construction", "50"],
            "--ef-construction has an effect",
        ),
        (["--ef", "20"], "--ef has an effect"),
    ] {
        for kind in ["flat", "flat-rows"] {
            let errors = refused(2, &[&arguments[..], &["--kind", kind]].concat());
            assert!(errors.contains(expected), "{errors}");
        }
    }
    let errors = refused(2, &["--kind", "hnsw", "--device", "cuda:0"]);
    assert!(errors.contains("--device has an effect"), "{errors}");
    for flag in ["--repeats", "--exact-queries"] {
        let errors = refused(2, &["--requests", flag, "3"]);
        assert!(errors.contains(flag), "{errors}");
    }
    refused(2, &["--metric", "hamming"]);
    refused(2, &["--batch", "0"]);
    refused(2, &["--device", "gpu"]);
    if !cfg!(feature = "cuda") {
        let errors = refused(1, &["--device", "cuda:0"]);
        assert!(
            errors.contains("built without the feature `cuda`") && errors.contains("--device cpu"),
            "{errors}"
        );
    }
    assert_eq!(
        trawl(["bench", "search", "--base", text(&base)])
            .status
            .code(),
        Some(2)
    );
}
