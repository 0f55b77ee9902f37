//! Batches from files that are read as they are trained on, and batches prepared ahead.

use std::collections::BTreeSet;
use std::fs;

use trainer::data::{Group, LineFormat, LineSource, Sampling};
use trainer::{Batches, ShuffleBuffer, StreamBatches, StreamConfig};

/// Two files of 13 and 9 examples with three negatives each.
fn files() -> (tempfile::TempDir, LineSource) {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, n_lines) in [("a", 13), ("b", 9)] {
        let line = |i| {
            let negatives: Vec<String> = (0..3)
                .map(|n| format!("{{\"text\": \"{name}{i}-{n}\"}}"))
                .collect();
            format!(
                "{{\"query_id\": \"{name}{i}\", \"query\": \"q\", \"positives\": [{{\"text\": \"{name}{i}+\"}}], \"negatives\": [{}]}}\n",
                negatives.join(", ")
            )
        };
        paths.push(folder.path().join(name));
        fs::write(
            folder.path().join(name),
            (0..n_lines).map(line).collect::<String>(),
        )
        .unwrap();
    }
    (folder, LineSource::native(paths))
}

fn config(source: &LineSource) -> StreamConfig {
    StreamConfig {
        source: source.clone(),
        sampling: Sampling::new(3),
        batch_size: 4,
        seed: 5,
        buffer: 6,
        drop_last: false,
        scored: false,
        n_vocabulary: None,
        share: (0, 1),
    }
}

fn queries(batches: &impl Batches<Batch = Vec<Group>>, epoch: u64) -> Vec<String> {
    let batch = |index| batches.batch(epoch, index).unwrap();
    (0..batches.len(epoch))
        .flat_map(batch)
        .map(|group| group.query_id)
        .collect()
}

#[test]
fn an_epoch_is_every_example_once_in_an_order_of_its_own() {
    let (_folder, source) = files();
    let batches = StreamBatches::open(config(&source)).unwrap();
    assert_eq!(batches.len(0), 6);
    let (first, second) = (queries(&batches, 0), queries(&batches, 1));
    assert_eq!(first.len(), 22);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 22);
    assert_ne!(first, second);
    assert_eq!(
        first,
        queries(&StreamBatches::open(config(&source)).unwrap(), 0)
    );
    let in_order = StreamBatches::open(StreamConfig {
        buffer: 1,
        ..config(&source)
    })
    .unwrap();
    assert_eq!(queries(&in_order, 3)[12..14], ["a12", "b0"]);
    let dropping = StreamBatches::open(StreamConfig {
        drop_last: true,
        ..config(&source)
    })
    .unwrap();
    assert_eq!((dropping.len(0), queries(&dropping, 0).len()), (5, 20));
}

#[test]
fn any_batch_can_be_asked_for() {
    let (_folder, source) = files();
    let expected = StreamBatches::open(config(&source)).unwrap();
    let expected: Vec<_> = (0..6)
        .map(|index| expected.batch(2, index).unwrap())
        .collect();
    let batches = StreamBatches::open(config(&source)).unwrap();
    for index in [3, 4, 1, 5, 0, 0, 2] {
        assert_eq!(batches.batch(2, index).unwrap(), expected[index]);
        batches.batch(1, 2).unwrap();
    }
}

#[test]
fn shares_are_disjoint_and_complete() {
    let (_folder, source) = files();
    let whole = queries(&StreamBatches::open(config(&source)).unwrap(), 4);
    let mut all = Vec::new();
    for share in 0..3 {
        let batches = StreamBatches::open(StreamConfig {
            share: (share, 3),
            ..config(&source)
        })
        .unwrap();
        let one = queries(&batches, 4);
        assert_eq!(one.len(), [8, 7, 7][share as usize]);
        all.extend(one);
    }
    assert_eq!(all.iter().collect::<BTreeSet<_>>(), whole.iter().collect());
    assert_eq!(all.len(), 22);
}

#[test]
fn a_last_batch_without_any_negative_is_left_out() {
    let (_folder, source) = files();
    let of_pairs = |batch_size| StreamConfig {
        sampling: Sampling::new(1),
        batch_size,
        ..config(&source)
    };
    let lengths = |batch_size| -> Vec<usize> {
        let batches = StreamBatches::open(of_pairs(batch_size)).unwrap();
        let length = |index| batches.batch(0, index).unwrap().len();
        (0..batches.len(0)).map(length).collect()
    };
    assert_eq!(lengths(7), [7, 7, 7]); // of 22
    assert_eq!(lengths(10), [10, 10, 2]);
    let error = StreamBatches::open(of_pairs(1)).err().unwrap();
    assert!(error.to_string().contains("at least 2"), "{error}");
}

#[test]
fn what_cannot_be_trained_on_is_refused_when_the_files_are_opened() {
    let (folder, source) = files();
    let error = |config: StreamConfig| {
        let error = StreamBatches::open(config).err().unwrap().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    };
    let unscored = StreamConfig {
        scored: true,
        ..config(&source)
    };
    assert!(error(unscored).starts_with("a:1: passage `"));
    assert_eq!(
        error(StreamConfig {
            batch_size: 0,
            ..config(&source)
        }),
        "batch_size is 0; it is at least 1"
    );
    assert_eq!(
        error(StreamConfig {
            share: (2, 2),
            ..config(&source)
        }),
        "share is 2 of 2; it is below the number of shares"
    );
    let table = LineSource {
        paths: vec![folder.path().join("a"), folder.path().join("c.TSV.gz")],
        format: LineFormat::SentenceTransformers,
        ..LineSource::default()
    };
    assert_eq!(
        error(config(&table)),
        "source is c.TSV.gz; lines are streamed, tables are not"
    );
    fs::write(folder.path().join("b"), "{\"query\": \"q\", \"positives\": [{\"text\": \"p\"}], \"negatives\": [{\"text\": \"p\"}]}\n").unwrap();
    assert_eq!(
        error(config(&source)),
        "b:1: a group takes 2 negatives, and there are 0",
        "a positive is no negative"
    );
    let same_id = "{\"query\": \"q\", \"positives\": [{\"id\": \"1\", \"text\": \"p\"}], \"negatives\": [{\"id\": \"1\", \"text\": \"n\"}]}\n";
    fs::write(folder.path().join("b"), same_id).unwrap();
    assert_eq!(
        error(config(&source)),
        "b:1: a group takes 2 negatives, and there are 0",
        "by its id either"
    );
    let tokens = "{\"query\": [9], \"positives\": [{\"tokens\": [4, 100]}], \"negatives\": [{\"text\": \"n\"}, {\"text\": \"m\"}]}\n";
    fs::write(folder.path().join("b"), tokens).unwrap();
    let with = |n_vocabulary| StreamConfig {
        n_vocabulary: Some(n_vocabulary),
        ..config(&source)
    };
    assert_eq!(
        error(with(100)),
        "b:1: a text holds token 100, and the model has 100 of them"
    );
    StreamBatches::open(with(101)).unwrap();
    fs::write(folder.path().join("b"), "{\"query\": \"q\"}\n").unwrap();
    assert!(error(config(&source)).starts_with("b:1: missing field `positives`"));
}

#[test]
fn ids_of_several_texts_are_counted_in_a_stream() {
    let (folder, source) = files();
    let plain = StreamBatches::open(config(&source)).unwrap();
    assert_eq!(plain.ids_of_several_texts(), [None, None]);
    // Passages numbered within each line, and one query id for all.
    let line = |name: &str| {
        let passage = |i: u32| format!("{{\"id\": \"{i}\", \"text\": \"{name}{i}\"}}");
        format!(
            "{{\"query_id\": \"q\", \"query\": \"{name}\", \"positives\": [{}], \"negatives\": [{}, {}]}}\n",
            passage(0),
            passage(1),
            passage(2)
        )
    };
    fs::write(folder.path().join("b"), line("x") + &line("y")).unwrap();
    let numbered = StreamBatches::open(config(&source)).unwrap();
    assert_eq!(
        numbered.ids_of_several_texts(),
        [Some((3, "0".to_owned())), Some((1, "q".to_owned()))]
    );
}

#[test]
fn a_streamed_batch_may_have_room_for_more_than_all_examples() {
    let (_folder, source) = files();
    let whole = StreamBatches::open(StreamConfig {
        batch_size: usize::MAX,
        ..config(&source)
    })
    .unwrap();
    assert_eq!((whole.len(0), queries(&whole, 0).len()), (1, 22));
}

#[test]
fn a_buffer_loses_nothing() {
    for capacity in [0, 1, 3, 10, 100] {
        let drawn: Vec<u32> = ShuffleBuffer::new(0..20, capacity, 1, 2).collect();
        let mut sorted = drawn.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        assert_eq!(drawn == sorted, capacity <= 1);
        for (position, item) in drawn.into_iter().enumerate() {
            assert!(
                (item as usize) < position + capacity.max(1),
                "no item comes before it was read"
            );
        }
    }
}
