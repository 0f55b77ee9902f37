//! What is refused before it is searched, and for which reason. With the real model: quality is what it is about.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use collection::{BuildMode, Collection, Generation, Manifest, Start};
use index::{FlatShard, ShardConfig, ShardWriter, SketchPolicy};
use serde_json::{Value, json};

use crate::{fail, json as run_json, sample, succeed, text};

/// The sample corpus, indexed by the default model, with another generation beside the one that is live.
struct Fixture {
    folder: tempfile::TempDir,
    live: String,
}

impl Fixture {
    fn collection(&self) -> PathBuf {
        self.folder.path().join("sample")
    }

    fn corpus(&self) -> PathBuf {
        self.folder.path().join("corpus.jsonl")
    }

    fn build(&self, corpus: &Path, model: &Path, more: &[&str]) -> String {
        let collection = self.collection();
        let mut args = vec!["--json", "index", "build", "--corpus", text(corpus)];
        args.extend(["--model", text(model), "--collection", text(&collection)]);
        args.extend(more);
        let report = run_json(args);
        report["generation"].as_str().expect("a name").to_owned()
    }

    fn generation(&self, name: &str) -> Generation {
        let collection = Collection::open(&self.collection()).expect("a collection");
        collection.resolve(name).expect("a generation")
    }

    /// A generation with the files of one, the rows of another and checksums that fit: what a broken program writes.
    fn forge(
        &self,
        of: &str,
        mut rows: Vec<Vec<f32>>,
        change: impl Fn(&mut Vec<Vec<f32>>),
    ) -> String {
        let source = self.generation(of);
        change(&mut rows);
        let collection = Collection::open(&self.collection()).expect("a collection");
        let writer = collection.writer("test").expect("the lock");
        let spec = json!({"forged": collection.generations().expect("ids").len()});
        let Start::Build(building) = writer.begin(&spec, BuildMode::New).expect("a build") else {
            panic!("it is new");
        };
        for file in &source.manifest.files {
            let to = building.path().join(&file.path);
            fs::create_dir_all(to.parent().expect("a folder")).expect("made");
            if file.path != "spec.json" {
                fs::copy(source.path.join(&file.path), to).expect("copied");
            }
        }
        let shard = &source.manifest.shards[0].path;
        let config = ShardConfig {
            sketches: SketchPolicy::Never,
            ..*open(&source).config()
        };
        let mut vectors =
            ShardWriter::create(&building.path().join(shard), config).expect("a file");
        rows.iter()
            .for_each(|row| vectors.push(row).expect("a row"));
        vectors.finish().expect("written");
        let contents = Manifest {
            content_digest: "forged".to_owned(),
            ..source.manifest
        };
        let made = writer.promote(&building, contents).expect("a generation");
        made.id.to_string()
    }

    fn publish(&self, exit: i32, name: &str, more: &[&str]) -> String {
        let collection = self.collection();
        let mut args = vec!["index", "publish", text(&collection), name];
        args.extend(more);
        let error = fail(exit, args);
        let listed = self.generation("live").id.to_string();
        assert_eq!(listed, self.live, "what is live stays");
        error
    }
}

fn open(generation: &Generation) -> FlatShard {
    let path = generation.path.join(&generation.manifest.shards[0].path);
    FlatShard::open(&path, index::Verify::Checksums).expect("a shard")
}

fn rows(generation: &Generation) -> Vec<Vec<f32>> {
    let shard = open(generation);
    let n_rows = generation.manifest.counts.passages as usize;
    (0..n_rows).map(|i| shard.row(i).into_owned()).collect()
}

/// So many passages of the sample corpus.
const N_PASSAGES: usize = 120;

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = fs::read_to_string(sample("corpus.jsonl")).expect("the corpus");
    let lines = corpus.lines().take(N_PASSAGES);
    let corpus: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(folder.path().join("corpus.jsonl"), corpus).expect("written");
    let mut fixture = Fixture {
        folder,
        live: String::new(),
    };
    fixture.live = fixture.build(&fixture.corpus(), &testkit::default_model(), &[]);
    fixture
}

/// The default model with the first weight of its last layer's normalization changed.
fn changed_model() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let (from, folder) = (
            testkit::default_model(),
            tempfile::tempdir().expect("a folder"),
        );
        copy(&from, folder.path());
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&path).expect("weights");
        let n_header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + n_header]).expect("JSON");
        let tensor = &header["encoder.layer.5.output.LayerNorm.weight"];
        assert_eq!(tensor["dtype"], "F32");
        let offset = tensor["data_offsets"][0].as_u64().expect("an offset") as usize;
        let weight = &mut bytes[8 + n_header + offset..][..4];
        let value = f32::from_le_bytes((&*weight).try_into().expect("4 bytes"));
        weight.copy_from_slice(&(value * 1.5).to_le_bytes());
        fs::write(&path, bytes).expect("written");
        folder
    });
    folder.path()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("copied");
        }
    }
}

#[test]
fn an_equal_generation_passes_and_its_report_is_kept() {
    let fixture = fixture();
    let collection = fixture.collection();
    let second = fixture.build(&fixture.corpus(), &testkit::default_model(), &["--full"]);
    let shown = run_json(["--json", "index", "publish", text(&collection), &second]);
    let gate = &shown["gate"];
    assert_eq!(
        (&gate["passed"], &gate["questions"]),
        (&json!(true), &json!("titles"))
    );
    assert_eq!(gate["rows"]["n_differing"], 0);
    assert_eq!(
        gate["rows"]["largest_distance"], 0.0,
        "the engine is batch-invariant"
    );
    let of = |name: &str| {
        let measures = gate["measures"].as_array().expect("a list");
        let found = measures.iter().find(|measured| measured["name"] == name);
        found.expect("a measure")["candidate"]
            .as_f64()
            .expect("a number")
    };
    assert_eq!(
        (of("recall"), of("overlap"), of("score_drift")),
        (1.0, 1.0, 0.0)
    );
    assert!(of("mrr") > 0.8, "{gate}");
    assert_eq!(fixture.generation("live").id.to_string(), second);
    let kept = Collection::open(&collection).expect("a collection");
    let kept = kept
        .gate_report(&fixture.generation(&second).id)
        .expect("JSON");
    assert_eq!(kept.as_ref(), Some(gate));
    let verified = run_json(["--json", "index", "verify", text(&collection)]);
    let n = fixture.generation("live").manifest.counts.passages;
    assert_eq!(verified["rows_compared"], 2 * n);
}

/// 5 % of the rows belong to other passages: the sample says so, whatever searches say.
#[test]
fn shuffled_vectors_are_corrupt() {
    let fixture = fixture();
    let rows = rows(&fixture.generation("live"));
    let n_shuffled = rows.len().div_ceil(20).max(2);
    let shuffled = fixture.forge(&fixture.live, rows, |rows| {
        rows[..n_shuffled].rotate_left(1)
    });
    let error = fixture.publish(5, &shuffled, &[]);
    assert!(error.contains("are not those of their passages"), "{error}");
    let collection = fixture.collection();
    let error = fail(
        5,
        [
            "index",
            "verify",
            text(&collection),
            "--generation",
            &shuffled,
        ],
    );
    assert!(error.contains("1 faults in"), "{error}");
}

#[test]
fn a_wrong_prompt_is_refused_by_its_name_and_if_that_is_hidden_by_the_rows() {
    let fixture = fixture();
    let (corpus, model) = (fixture.corpus(), testkit::default_model());
    let wrong = fixture.build(&corpus, &model, &["--passage-prompt", "query: "]);
    let error = fixture.publish(4, &wrong, &[]);
    assert!(
        error.contains("`passage.prompt` is \"query: \", expected \"\""),
        "{error}"
    );
    assert!(error.contains("--new-model"), "{error}");

    let hidden = fixture.forge(&fixture.live, rows(&fixture.generation(&wrong)), |_| ());
    let error = fixture.publish(5, &hidden, &[]);
    assert!(error.contains("are not those of their passages"), "{error}");
}

#[test]
fn one_changed_weight_is_refused_by_its_name_and_if_that_is_hidden_by_the_rows() {
    let fixture = fixture();
    let changed = fixture.build(&fixture.corpus(), changed_model(), &[]);
    let error = fixture.publish(4, &changed, &[]);
    assert!(error.contains("`space.weights` is"), "{error}");

    let hidden = fixture.forge(&fixture.live, rows(&fixture.generation(&changed)), |_| ());
    let error = fixture.publish(5, &hidden, &[]);
    assert!(error.contains("are not those of their passages"), "{error}");

    // Meant to be: then what is found decides, and here nothing is lost.
    let collection = fixture.collection();
    succeed([
        "index",
        "publish",
        text(&collection),
        &changed,
        "--new-model",
    ]);
    assert_eq!(fixture.generation("live").id.to_string(), changed);
}

#[test]
fn a_worse_candidate_is_refused_with_the_queries_that_lost_most() {
    let fixture = fixture();
    let corpus = fs::read_to_string(fixture.corpus()).expect("the corpus");
    // A dump that lost the texts of its second half, and the titles with them.
    let lines: Vec<Value> = corpus
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let half = lines.len() / 2;
    let cut = lines.iter().enumerate().map(|(i, line)| match i < half {
        true => format!("{line}\n"),
        false => format!(
            "{}\n",
            json!({"_id": line["_id"], "text": format!("no text {i}")})
        ),
    });
    let path = fixture.folder.path().join("cut.jsonl");
    fs::write(&path, cut.collect::<String>()).expect("written");
    let worse = fixture.build(&path, &testkit::default_model(), &[]);
    let collection = fixture.collection();
    let output = crate::trawl(["index", "publish", text(&collection), &worse]);
    assert_eq!(output.status.code(), Some(3));
    let (shown, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        error.contains("mrr is") && error.contains("% below live"),
        "{error}"
    );
    assert!(shown.contains("overlap 0."), "{shown}");
    assert!(shown.contains("nDCG 0.0000 (live 1.0000)"), "{shown}");

    // A smaller one that finds all that it has: no question lost anything.
    let few: String = corpus
        .lines()
        .take(half)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&path, few).expect("written");
    let smaller = fixture.build(&path, &testkit::default_model(), &[]);
    let output = crate::trawl(["index", "publish", text(&collection), &smaller]);
    assert_eq!(output.status.code(), Some(3));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("more than 20 % below live"), "{shown}");
    assert!(!shown.contains("nDCG"), "{shown}");

    // Judged queries and limits of one's own.
    let gate = fixture.folder.path().join("gate.toml");
    let queries = sample("queries.jsonl");
    let qrels = sample("qrels/test.tsv");
    let written = format!(
        "queries = {:?}\nqrels = {:?}\nk = 5\n[require]\nndcg = {{ max_drop = 1.0 }}\nmrr = {{ max_drop = \"100%\" }}\noverlap = {{ min = 0 }}\n",
        text(&queries),
        text(&qrels)
    );
    fs::write(&gate, written).expect("written");
    let shown = run_json([
        "--json",
        "index",
        "publish",
        text(&collection),
        &worse,
        "--gate",
        text(&gate),
    ]);
    assert_eq!(
        (&shown["gate"]["questions"], &shown["gate"]["k"]),
        (&json!("queries"), &json!(5))
    );

    fs::write(&gate, "[require]\nndgc = { min = 1 }\n").expect("written");
    let error = fail(
        2,
        [
            "index",
            "publish",
            text(&collection),
            &fixture.live,
            "--gate",
            text(&gate),
        ],
    );
    assert!(error.contains("unknown field `ndgc`"), "{error}");
    assert!(error.contains("did you mean `ndcg`?"), "{error}");

    for name in ["k", "n_queries"] {
        fs::write(&gate, format!("{name} = 0\n")).expect("written");
        let args = ["index", "publish", text(&collection), &fixture.live];
        let error = fail(2, [&args[..], &["--gate", text(&gate)][..]].concat());
        assert!(error.contains(&format!("`{name}` is 0")), "{error}");
    }
}

#[test]
fn judgments_of_a_file_are_of_the_documents_that_were_split() {
    let fixture = fixture();
    let split = ["--stride", "24", "--passage-tokens", "32"];
    let split = fixture.build(&fixture.corpus(), &testkit::default_model(), &split);
    let gate = fixture.folder.path().join("gate.toml");
    let (queries, qrels) = (sample("queries.jsonl"), sample("qrels/test.tsv"));
    let written = format!(
        "queries = {:?}\nqrels = {:?}\n[require]\nndcg = {{ max_drop = \"100%\" }}\nmrr = {{ max_drop = \"100%\" }}\n",
        text(&queries),
        text(&qrels)
    );
    fs::write(&gate, written).expect("written");
    let collection = fixture.collection();
    let shown = run_json([
        "--json",
        "index",
        "publish",
        text(&collection),
        &split,
        "--new-model",
        "--gate",
        text(&gate),
    ]);
    let measures = shown["gate"]["measures"].as_array().expect("a list");
    for name in ["ndcg", "mrr"] {
        let measure = measures.iter().find(|measure| measure["name"] == name);
        let measure = measure.expect("it is measured");
        for side in ["candidate", "live"] {
            assert!(measure[side].as_f64() > Some(0.0), "{side}: {measure}");
        }
    }
}
