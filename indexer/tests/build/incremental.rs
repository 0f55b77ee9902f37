//! Builds that take over what the generation before has: the content of a full build, with less to encode.

use std::fs;
use std::path::Path;

use collection::{BuildMode, Collection, GenerationId};
use corpus::Template;
use index::{HnswConfig, RowType};
use indexer::{BuildConfig, BuildReport, NotReused, Phase, Reuse, diff};
use serde_json::Value;

use crate::{Folder, config, run, run_until};

/// A changed copy of a corpus of 100: five texts, a year, three passages gone, four new, the first at the end.
fn changed(folder: &Folder, corpus: &Path) -> std::path::PathBuf {
    let text = fs::read_to_string(corpus).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for i in [10, 20, 30, 40, 50] {
        lines[i]["text"] = format!("changed {i}").into();
    }
    lines[60]["year"] = 2001.into();
    lines.drain(70..73);
    lines.rotate_left(1);
    for i in 0..4 {
        lines.push(serde_json::json!({"_id": format!("new{i}"), "title": "new", "text": format!("passage {i}"), "year": 1}));
    }
    let path = folder.0.path().join("changed.jsonl");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(&path, text).unwrap();
    path
}

fn n_reused(report: &BuildReport, base: &GenerationId) -> u64 {
    match &report.reuse {
        Reuse::From {
            generation,
            n_passages,
        } if generation == base => *n_passages,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_result_is_that_of_a_full_build() {
    let folder = Folder::new();
    let old = folder.corpus(1, 100);
    let new = changed(&folder, &old);
    for (rows, n_shards) in [
        (RowType::F32, 1),
        (RowType::F16, 3),
        (RowType::Bf16, 1),
        (RowType::Int8, 2),
    ] {
        let name = rows.as_str();
        let with = |corpus: &Path| BuildConfig {
            rows,
            n_shards,
            ..config(&folder.collection(name), corpus)
        };
        let first = run(&with(&old)).unwrap();
        assert_eq!(first.reuse, Reuse::Nothing(NotReused::First));
        let second = run(&with(&new)).unwrap();
        let full = run(&BuildConfig {
            base: None,
            ..with(&new)
        })
        .unwrap();
        assert_eq!(full.reuse, Reuse::Nothing(NotReused::Full));
        assert_eq!(n_reused(&second, &first.generation), 101 - 9, "{name}");
        assert_eq!(second.content_digest, full.content_digest, "{name}");
        assert_eq!(second.counts, full.counts, "{name}");
        // A third one, from the second: what is taken over can be taken over again.
        let third = run(&BuildConfig {
            base: Some(second.generation.to_string()),
            ..with(&new)
        })
        .unwrap();
        assert_eq!(n_reused(&third, &second.generation), 101);
        assert_eq!(third.content_digest, full.content_digest, "{name}");
    }
}

#[test]
fn a_graph_over_rows_taken_over_is_the_graph_of_a_full_build() {
    let folder = Folder::new();
    let corpus = folder.corpus(1, 100);
    let with = |name: &str| BuildConfig {
        graph: Some(HnswConfig::default()),
        ..config(&folder.collection(name), &corpus)
    };
    let first = run(&with("c")).unwrap();
    let again = run(&with("c")).unwrap();
    assert_eq!(n_reused(&again, &first.generation), 100);
    let rows =
        |report: &BuildReport| fs::read(report.path.join("shards/000/vectors.trawl")).unwrap();
    assert_eq!(rows(&first), rows(&again));
}

#[test]
fn other_vectors_are_not_taken_over_and_the_reason_has_a_name() {
    let folder = Folder::new();
    let corpus = folder.corpus(1, 30);
    let base = config(&folder.collection("c"), &corpus);
    let first = run(&base).unwrap();
    let reason = |config: BuildConfig| match run(&config).unwrap().reuse {
        Reuse::Nothing(reason) => reason.to_string(),
        other => panic!("{other:?}"),
    };
    let passage_template = Template::parse("<text>").unwrap();
    assert_eq!(
        reason(BuildConfig {
            passage_template,
            ..base.clone()
        }),
        format!(
            r#"`passage.template` differs from that of generation {}: "<title> <text>" before, "<text>" now"#,
            first.generation
        )
    );
    let f16 = reason(BuildConfig {
        rows: RowType::F16,
        ..base.clone()
    });
    assert!(
        f16.starts_with("the type of the rows of generation"),
        "{f16}"
    );
    assert!(f16.ends_with("is f32, not f16"), "{f16}");

    let error = run(&BuildConfig {
        base: Some("nosuch".to_owned()),
        ..base.clone()
    });
    assert!(error.is_err());
    fs::remove_dir_all(base.collection.join("building")).unwrap();

    // Damage is not spread.
    let full = run(&BuildConfig {
        base: None,
        ..base.clone()
    })
    .unwrap();
    let check_damage = |file: &str| {
        let path = first.path.join(file);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let report = run(&base).unwrap();
        assert!(
            matches!(report.reuse, Reuse::Nothing(NotReused::Damaged { .. })),
            "{file}: {:?}",
            report.reuse
        );
        assert_eq!(report.content_digest, full.content_digest);
        fs::write(&path, whole).unwrap();
    };
    check_damage("shards/000/vectors.trawl");
    check_damage("inputs");
}

#[test]
fn a_stopped_build_goes_on_even_if_the_generation_before_is_another_by_then() {
    let folder = Folder::new();
    let old = folder.corpus(1, 100);
    let new = changed(&folder, &old);
    let with = |name: &str, corpus: &Path| BuildConfig {
        mode: BuildMode::Resume,
        ..config(&folder.collection(name), corpus)
    };
    run(&with("c", &old)).unwrap();
    let other = run(&with("c", &folder.corpus(2, 100))).unwrap();
    let full = run(&with("full", &new)).unwrap();
    let resume = || run(&with("c", &new)).unwrap();

    run_until(&with("c", &new), Phase::Encode, 48);
    let resumed = resume();
    assert_eq!(
        (resumed.n_resumed, &resumed.content_digest),
        (48, &full.content_digest)
    );

    fs::remove_dir_all(&resumed.path).unwrap();
    run_until(&with("c", &new), Phase::Encode, 48);
    let collection = Collection::open(&folder.collection("c")).unwrap();
    collection
        .writer("test")
        .unwrap()
        .publish(&other.generation)
        .unwrap();
    let resumed = resume();
    assert_eq!(
        (resumed.n_resumed, &resumed.content_digest),
        (0, &full.content_digest)
    );
    assert_eq!(resumed.counts, full.counts);
}

#[test]
fn a_diff_counts_what_changed() {
    let folder = Folder::new();
    let old = folder.corpus(1, 100);
    let new = changed(&folder, &old);
    let base = config(&folder.collection("c"), &old);
    run(&base).unwrap();
    run(&BuildConfig {
        passage_template: Template::parse("<text>").unwrap(),
        rows: RowType::F16,
        ..config(&folder.collection("c"), &new)
    })
    .unwrap();
    let collection = Collection::open(&base.collection).unwrap();
    let ids = collection.generations().unwrap();
    let [from, to] = [0, 1].map(|i| collection.generation(&ids[i]).unwrap());
    let mut n_read = 0;
    let found = diff(&from, &to, 2, |n| n_read = n).unwrap();
    assert_eq!(n_read, 201);
    let counts = [&found.added, &found.changed, &found.removed].map(|changes| changes.n);
    assert_eq!((counts, found.n_unchanged), ([4, 6, 3], 91));
    assert_eq!(found.added.ids, ["new0", "new1"]);
    assert_eq!(found.removed.ids, ["p70", "p71"]);
    assert_eq!(found.changed.ids, ["p10", "p20"]);
    let entries = |list: &[[String; 3]]| {
        list.iter()
            .map(|found| found[0].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(entries(&found.fingerprint), ["passage.template"]);
    assert_eq!(entries(&found.settings), ["rows"]);
    assert!(!found.same_content);
    let same = diff(&from, &from, 2, |_| ()).unwrap();
    assert_eq!((same.n_unchanged, same.same_content), (100, true));
    assert!(same.fingerprint.is_empty() && same.settings.is_empty());
}
