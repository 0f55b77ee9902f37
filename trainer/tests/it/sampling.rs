//! Groups and batches: which passages an epoch sees, and that nothing else decides it than seed, epoch and index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use trainer::data::{
    Candidate, Content, DataError, Dataset, Example, Group, Sampling, SamplingRule,
};
use trainer::{Batches, GroupBatches, GroupsConfig, Mixing};

const RULES: [SamplingRule; 5] = [
    SamplingRule::Openmatch,
    SamplingRule::Simlm,
    SamplingRule::Retromae,
    SamplingRule::FlagEmbedding,
    SamplingRule::First,
];

fn candidate(id: &str) -> Candidate {
    Candidate {
        id: id.to_owned(),
        content: Content::Text(format!("text of {id}")),
        score: None,
    }
}

/// A query with passages named after it.
fn example(query: &str, n_positives: usize, n_negatives: usize) -> Example {
    let named = |kind, n| -> Vec<Candidate> {
        (0..n)
            .map(|i| candidate(&format!("{query}{kind}{i}")))
            .collect()
    };
    Example {
        query_id: query.to_owned(),
        query: Content::Text(format!("query {query}")),
        positives: named('+', n_positives),
        negatives: named('-', n_negatives),
    }
}

fn dataset(name: &str, n_examples: usize, n_negatives: usize) -> Arc<Dataset> {
    let examples = (0..n_examples).map(|i| example(&format!("{name}{i}"), 1 + i % 3, n_negatives));
    Arc::new(Dataset::from_examples(examples).unwrap())
}

fn sampling(rule: SamplingRule, n_passages: usize, seed: u64) -> Sampling {
    Sampling {
        rule,
        seed,
        ..Sampling::new(n_passages)
    }
}

fn config(n_passages: usize, batch_size: usize) -> GroupsConfig {
    GroupsConfig {
        sampling: Sampling::new(n_passages),
        batch_size,
        seed: 7,
        in_order: false,
        drop_last: false,
        no_duplicates: false,
        mixing: Mixing::Together,
        scored: false,
    }
}

fn ids(group: &Group) -> Vec<&str> {
    group.passages.iter().map(|p| p.id.as_str()).collect()
}

/// All batches of an epoch.
fn epoch(batches: &GroupBatches, epoch: u64) -> Vec<Vec<Group>> {
    (0..batches.len(epoch))
        .map(|index| batches.batch(epoch, index).unwrap())
        .collect()
}

proptest! {
    /// Over ⌈len/k⌉ epochs the windows of OpenMatch and SimLM cover every negative.
    #[test]
    fn windows_cover_the_list(n_windows in 1usize..6, k in 1usize..8, index in 0u64..100, seed in 0u64..9) {
        let len = n_windows * k;
        for rule in [SamplingRule::Openmatch, SamplingRule::Simlm] {
            let sampling = sampling(rule, k + 1, seed);
            let first = 5;
            let seen: BTreeSet<usize> = (first..first + n_windows as u64)
                .flat_map(|epoch| sampling.draw(1, len, epoch, index).negatives)
                .collect();
            prop_assert_eq!(seen.len(), len);
        }
    }

    /// A group has the numbers it asks for, within the lists, and without repeats where the list is long enough.
    #[test]
    fn draws_are_within_the_lists(
        n_positives in 1usize..5, n_negatives in 0usize..20, k in 0usize..8, epoch in 0u64..50,
        index in 0u64..1000, seed: u64, pool in 1usize..25,
    ) {
        for rule in RULES {
            let sampling = Sampling { pool: Some(pool), ..sampling(rule, k + 1, seed) };
            let draw = sampling.draw(n_positives, n_negatives, epoch, index);
            prop_assert_eq!(&draw, &sampling.draw(n_positives, n_negatives, epoch, index));
            prop_assert!(draw.positive < n_positives);
            let n_pool = n_negatives.min(pool);
            prop_assert!(draw.negatives.iter().all(|&number| number < n_pool));
            let distinct: BTreeSet<&usize> = draw.negatives.iter().collect();
            if n_pool >= k {
                prop_assert_eq!((draw.negatives.len(), distinct.len()), (k, k));
            } else if rule == SamplingRule::Retromae || n_pool == 0 {
                prop_assert_eq!(distinct.len(), n_pool);
            } else {
                prop_assert_eq!(draw.negatives.len(), k);
            }
        }
    }
}

#[test]
fn positives_take_turns() {
    let drawn = |rule, index| -> Vec<usize> {
        let sampling = sampling(rule, 1, 2);
        (0..4)
            .map(|epoch| sampling.draw(3, 0, epoch, index).positive)
            .collect()
    };
    assert_eq!(drawn(SamplingRule::Openmatch, 0), [2, 0, 1, 2]);
    assert_eq!(drawn(SamplingRule::Openmatch, 5), [1, 2, 0, 1]);
    assert_eq!(drawn(SamplingRule::Simlm, 5), [2, 0, 1, 2]);
    assert_eq!(drawn(SamplingRule::First, 5), [0, 0, 0, 0]);
}

#[test]
fn simlm_walks_through_the_list_in_file_order() {
    let sampling = sampling(SamplingRule::Simlm, 4, 1);
    let drawn = |epoch| sampling.draw(1, 5, epoch, 9).negatives;
    assert_eq!(drawn(0), [3, 4, 0]);
    assert_eq!(drawn(1), [1, 2, 3]);
    assert_eq!(sampling.draw(1, 2, 0, 9).negatives, [1, 0, 1]);
}

#[test]
fn openmatch_permutes_each_list_once() {
    let sampling = sampling(SamplingRule::Openmatch, 5, 3);
    let drawn = |epoch, index| sampling.draw(1, 8, epoch, index).negatives;
    assert_eq!(drawn(0, 1), drawn(2, 1), "two windows of 4 go round 8");
    assert_ne!(drawn(0, 1), drawn(0, 2));
    let short: Vec<Vec<usize>> = (0..20)
        .map(|epoch| sampling.draw(1, 3, epoch, 1).negatives)
        .collect();
    assert!(short.iter().all(|drawn| drawn.len() == 4));
    assert!(short.iter().any(|drawn| *drawn != short[0]));
}

#[test]
fn flag_embedding_takes_each_copy_of_the_list_once() {
    let sampling = sampling(SamplingRule::FlagEmbedding, 8, 3);
    for epoch in 0..50 {
        let mut count = BTreeMap::new();
        for number in sampling.draw(1, 3, epoch, 0).negatives {
            *count.entry(number).or_insert(0) += 1;
        }
        assert!(count.values().all(|&n| n <= 3), "{count:?}");
    }
}

#[test]
fn first_negatives_are_taken_when_asked_for() {
    for rule in RULES {
        let sampling = Sampling {
            first_positive: true,
            first_negatives: true,
            ..sampling(rule, 4, 11)
        };
        let draw = sampling.draw(3, 9, 5, 2);
        assert_eq!((draw.positive, draw.negatives), (0, vec![0, 1, 2]));
    }
}

#[test]
fn what_a_list_lacks_is_drawn_from_the_whole_set_and_is_never_a_positive() {
    let examples = (0..6).map(|i| example(&format!("q{i}"), 2, if i == 0 { 1 } else { 0 }));
    let dataset = Dataset::from_examples(examples).unwrap();
    let mut seen = BTreeSet::new();
    for epoch in 0..40 {
        let group = dataset
            .group(0, epoch, &sampling(SamplingRule::Retromae, 5, 0))
            .unwrap();
        let ids = ids(&group);
        assert!(ids[0].starts_with("q0+"));
        assert_eq!(ids[1], "q0-0");
        assert!(ids[2..].iter().all(|id| !id.starts_with("q0")));
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(*group.positives, ["q0+0", "q0+1"]);
        seen.extend(ids[2..].iter().map(|id| (*id).to_owned()));
    }
    assert_eq!(seen.len(), 10, "every passage of the others comes up");
    // 13 passages, of which 2 are positives of the query.
    let error = dataset.check(&Sampling::new(13), false).unwrap_err();
    let DataError::TooFewNegatives { needed, found, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((needed, found), (12, 11));
    dataset.check(&Sampling::new(12), false).unwrap();
}

#[test]
fn a_random_negative_is_no_positive_of_the_query_by_its_id_or_in_another_example() {
    let mut examples: Vec<Example> = ["a", "b", "c", "d"].map(|name| example(name, 1, 0)).into();
    // Another wording of the first positive, and a copy of the query with another positive.
    let positive = examples[0].positives[0].clone();
    examples[1].positives.push(Candidate {
        content: Content::Text("another wording".to_owned()),
        ..positive
    });
    examples[2].query_id = "a".to_owned();
    // The same query under another id.
    examples[3].query = examples[0].query.clone();
    let others = ["e", "f"].map(|name| example(name, 1, 0));
    let dataset = Dataset::from_examples(examples.into_iter().chain(others)).unwrap();
    for epoch in 0..20 {
        let rule = sampling(SamplingRule::Retromae, 4, 0);
        let group = dataset.group(0, epoch, &rule).unwrap();
        let found: BTreeSet<&str> = ids(&group).into_iter().collect();
        assert_eq!(found, BTreeSet::from(["a+0", "b+0", "e+0", "f+0"]));
        assert_eq!(
            group.passages[0].content,
            Content::Text("text of a+0".to_owned())
        );
    }
    let error = dataset.group(0, 0, &sampling(SamplingRule::Retromae, 5, 0));
    assert!(matches!(error, Err(DataError::TooFewNegatives { .. })));
}

#[test]
fn a_positive_among_the_negatives_is_left_out() {
    let mut examples = vec![example("a", 2, 3)];
    let positive = examples[0].positives[1].clone();
    // The same text under another id is as relevant.
    let copy = Candidate {
        id: "copy".to_owned(),
        ..positive.clone()
    };
    // And so is another text under the same id.
    let edited = Candidate {
        content: Content::Text("another wording".to_owned()),
        ..positive.clone()
    };
    examples[0].negatives.extend([positive, copy, edited]);
    let dataset = Dataset::from_examples(examples).unwrap();
    assert_eq!(dataset.example(0), example("a", 2, 3));
    let report = dataset.report();
    assert_eq!(report.left_out["negatives that are positives"], 3);
    assert_eq!((report.n_positives, report.n_negatives), (2, 3));
}

#[test]
fn examples_without_positives_are_refused() {
    let error = Dataset::from_examples([example("a", 1, 1), example("b", 0, 1)]).unwrap_err();
    assert_eq!(error.to_string(), "query `b` has no positive");
    assert!(matches!(
        Dataset::from_examples([]).unwrap_err(),
        DataError::Empty { .. }
    ));
}

#[test]
fn ids_of_several_texts_are_counted() {
    let plain = Dataset::from_examples([example("a", 1, 1), example("b", 2, 1)]).unwrap();
    assert_eq!(plain.ids_of_several_texts(), [None, None]);
    // Passages numbered within each line, and a query under the id of another.
    let numbered = ["a", "b", "c"].map(|name| {
        let mut one = example(name, 1, 1);
        one.positives[0].id = "0".to_owned();
        one.negatives[0].id = "1".to_owned();
        one
    });
    let mut repeated = example("d", 1, 0);
    repeated.query_id = "c".to_owned();
    let dataset = Dataset::from_examples(numbered.into_iter().chain([repeated])).unwrap();
    assert_eq!(
        dataset.ids_of_several_texts(),
        [Some((2, "0".to_owned())), Some((1, "c".to_owned()))]
    );
}

#[test]
fn scores_are_demanded_before_the_first_step() {
    let mut one = example("a", 1, 2);
    one.positives[0].score = Some(1.0);
    one.negatives[0].score = Some(0.5);
    let scored = GroupsConfig {
        scored: true,
        ..config(2, 1)
    };
    let new = |example: &Example| {
        let dataset = Arc::new(Dataset::from_examples([example.clone()]).unwrap());
        GroupBatches::new(vec![dataset], scored.clone())
    };
    assert_eq!(
        new(&one).unwrap_err().to_string(),
        "passage `a-1` of query `a` has no teacher score"
    );
    one.negatives[1].score = Some(-0.5);
    let batches = new(&one).unwrap();
    assert_eq!(batches.batch(0, 0).unwrap()[0].passages[0].score, Some(1.0));
}

#[test]
fn an_epoch_sees_every_example_once_in_another_order() {
    let datasets = vec![dataset("a", 23, 4), dataset("b", 9, 4)];
    let batches = GroupBatches::new(datasets, config(3, 4)).unwrap();
    let queries = |epoch_number| -> Vec<String> {
        epoch(&batches, epoch_number)
            .into_iter()
            .flatten()
            .map(|group| group.query_id)
            .collect()
    };
    let (first, second) = (queries(0), queries(1));
    assert_eq!(first.len(), 32);
    assert_ne!(first, second);
    let set = |queries: &[String]| queries.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(set(&first), set(&second));
    assert_eq!(set(&first).len(), 32);
}

#[test]
fn a_batch_is_the_same_from_any_thread_in_any_order() {
    let new = || {
        let datasets = vec![dataset("a", 30, 6), dataset("b", 11, 6)];
        GroupBatches::new(datasets, config(4, 5)).unwrap()
    };
    let expected: Vec<_> = (0..3).map(|number| epoch(&new(), number)).collect();
    let batches = new();
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (batches, expected) = (&batches, &expected);
            scope.spawn(move || {
                for epoch in [2, 0, 1] {
                    for index in (0..batches.len(epoch)).rev() {
                        if index % 3 == worker {
                            let batch = batches.batch(epoch, index).unwrap();
                            assert_eq!(batch, expected[epoch as usize][index]);
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn the_last_batch_is_kept_or_dropped() {
    let sizes = |drop_last| -> Vec<usize> {
        let config = GroupsConfig {
            drop_last,
            in_order: true,
            ..config(1, 4)
        };
        let batches = GroupBatches::new(vec![dataset("a", 10, 1)], config).unwrap();
        epoch(&batches, 0).iter().map(Vec::len).collect()
    };
    assert_eq!(sizes(false), [4, 4, 2]);
    assert_eq!(sizes(true), [4, 4]);
}

#[test]
fn no_text_stands_twice_in_a_batch() {
    // Three examples share each passage's text, under ids of their own, and two each query's.
    let examples = (0..30).map(|i| Example {
        query_id: i.to_string(),
        query: Content::Text(format!("query {}", i % 15)),
        positives: vec![Candidate {
            id: format!("p{i}"),
            ..candidate(&(i / 3).to_string())
        }],
        negatives: Vec::new(),
    });
    let dataset = Arc::new(Dataset::from_examples(examples).unwrap());
    let config = GroupsConfig {
        no_duplicates: true,
        ..config(1, 8)
    };
    let batches = GroupBatches::new(vec![dataset], config).unwrap();
    let mut n_groups = 0;
    for batch in epoch(&batches, 3) {
        let texts = |group: &Group| [group.query.digest(), group.passages[0].content.digest()];
        let distinct: BTreeSet<u64> = batch.iter().flat_map(texts).collect();
        assert_eq!(distinct.len(), 2 * batch.len());
        n_groups += batch.len();
    }
    assert_eq!(n_groups, 30, "who waits comes later");
}

#[test]
fn data_sets_share_an_epoch() {
    // Two batches of one data set and five of the other.
    let order = |mixing, number| -> String {
        let datasets = vec![dataset("a", 8, 2), dataset("b", 20, 2)];
        let config = GroupsConfig {
            mixing,
            ..config(2, 4)
        };
        let batches = GroupBatches::new(datasets, config).unwrap();
        let of = |batch: Vec<Group>| {
            let first = batch[0].query_id.chars().next().unwrap();
            let same = batch.iter().all(|group| group.query_id.starts_with(first));
            assert!(same || mixing == Mixing::Together);
            if same { first } else { '?' }
        };
        epoch(&batches, number).into_iter().map(of).collect()
    };
    assert_eq!(order(Mixing::RoundRobin, 0), "abab");
    let proportional: Vec<String> = (0..4).map(|n| order(Mixing::Proportional, n)).collect();
    for order in &proportional {
        assert_eq!(order.matches('a').count(), 2);
        assert_eq!(order.matches('b').count(), 5);
    }
    assert!(proportional.iter().any(|order| *order != proportional[0]));
    assert!(order(Mixing::Together, 0).contains('?'));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let refuse = |config, expected: &str| {
        let error = GroupBatches::new(vec![dataset("a", 3, 2)], config).unwrap_err();
        assert!(matches!(error, DataError::Setting { .. }), "{error}");
        assert!(error.to_string().starts_with(expected), "{error}");
    };
    refuse(config(0, 4), "group_size is 0; ");
    refuse(config(2, 0), "batch_size is 0; ");
    let many = 1_000_000_000_000_000_000;
    refuse(
        config(many, 4),
        "group_size is 1000000000000000000; it is at least 1 and at most 65536",
    );
}

#[test]
fn a_batch_may_have_room_for_more_than_all_examples() {
    let batches = GroupBatches::new(vec![dataset("a", 3, 2)], config(3, usize::MAX)).unwrap();
    assert_eq!(batches.len(0), 1);
    assert_eq!(batches.batch(0, 0).unwrap().len(), 3);
}
