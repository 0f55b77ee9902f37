//! A generation whose vectors a cluster searches, and a cluster that says what its test tells it to.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use collection::{Counts, Generation, GenerationId, Manifest, Shard};
use compute::accelerator::SharedAccelerator;
use emulated_gpu::EmulatedGpu;
use index::{
    Bitmap, Metric, Neighbor, Plan, RowType, SearchParams, ShardConfig, ShardWriter, SketchPolicy,
    Verify,
};
use milvus::{Cluster, Config};
use retriever::{
    BackendError, BackendRequest, Deadline, InMilvus, Milvus, OpenConfig, Published,
    PublishedError, Retriever, SearchBackend, open_index,
};
use serde_json::json;
use testkit::{GrpcReply, GrpcServer};

/// More than are looked at without asking the cluster.
const N_ROWS: u32 = 2400;
const QUERY: [f32; 2] = [1.0, 0.5];
const K: usize = 3;

/// Row `i` is (i, 1), so that higher ordinals are nearer.
fn generation(folder: &Path) -> Generation {
    let config = ShardConfig {
        width: 2,
        metric: Metric::InnerProduct,
        row_type: RowType::F32,
        first_ordinal: 0,
        sketches: SketchPolicy::default(),
    };
    let mut writer = ShardWriter::create(&folder.join("rows"), config).unwrap();
    for i in 0..N_ROWS {
        writer.push(&[i as f32, 1.0]).unwrap();
    }
    writer.finish().unwrap();
    let id = GenerationId::parse("20261120T195500Z-3f9a1c").unwrap();
    let manifest = Manifest {
        generation: id.clone(),
        width: 2,
        metric: "inner_product".to_owned(),
        content_digest: "abc".to_owned(),
        fingerprint: json!("external"),
        counts: Counts {
            passages: N_ROWS.into(),
            ..Counts::default()
        },
        shards: vec![Shard {
            path: "rows".to_owned(),
            first_ordinal: 0,
            n_rows: N_ROWS,
            arithmetic: "f32".to_owned(),
            graph: None,
        }],
        ..Manifest::default()
    };
    Generation {
        id,
        path: folder.to_owned(),
        manifest,
    }
}

/// A field of a message: text, a message or packed numbers.
fn field(tag: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [
        vec![tag << 3 | 2],
        varint(value.len() as u64),
        value.to_vec(),
    ]
    .concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn pair(key: &str, value: &str) -> Vec<u8> {
    [field(1, key), field(2, value)].concat()
}

fn described(published: &Published, width: &str) -> Vec<u8> {
    let text = serde_json::to_string(published).unwrap();
    let vector = [field(2, "vector"), field(6, pair("dim", width))].concat();
    field(2, [field(2, text), field(4, vector)].concat())
}

/// One query's rows.
fn found(ordinals: &[u32]) -> Vec<u8> {
    let data: Vec<u8> = ordinals
        .iter()
        .flat_map(|&ordinal| varint(ordinal.into()))
        .collect();
    let ids = field(1, field(1, data));
    field(
        2,
        [
            vec![8, 1],
            field(5, ids),
            field(6, varint(ordinals.len() as u64)),
        ]
        .concat(),
    )
}

struct World {
    _folder: tempfile::TempDir,
    server: GrpcServer,
    opened: Result<InMilvus, PublishedError>,
}

/// A cluster that holds `published` in `n_rows` rows of a width, and that gives the answers to searches one after another.
fn world(
    published: impl Fn(Published) -> Published,
    width: &str,
    n_rows: u32,
    answers: &[&[u32]],
) -> World {
    let folder = tempfile::tempdir().unwrap();
    let generation = generation(folder.path());
    let described = described(&published(Published::of(&generation.manifest)), width);
    let (server, milvus) = cluster(described, n_rows, answers);
    let index = open_index(&generation, Verify::Header).unwrap();
    World {
        _folder: folder,
        server,
        opened: InMilvus::open(&milvus, &generation, index),
    }
}

fn cluster(described: Vec<u8>, n_rows: u32, answers: &[&[u32]]) -> (GrpcServer, Milvus) {
    let counted = field(2, pair("row_count", &n_rows.to_string()));
    let answers: Vec<Vec<u8>> = answers.iter().map(|ordinals| found(ordinals)).collect();
    let answers = Mutex::new(answers.into_iter());
    let server = GrpcServer::start(move |path| {
        GrpcReply::Message(match path.rsplit('/').next() {
            Some("DescribeCollection") => described.clone(),
            Some("GetCollectionStatistics") => counted.clone(),
            _ => answers
                .lock()
                .unwrap()
                .next()
                .expect("a search that no answer was given for"),
        })
    });
    let address = format!("milvus://{}/docs", server.address).parse().unwrap();
    // A call that is made again takes an answer that is another's.
    let config = Config {
        timeout: Duration::from_secs(60),
        admin_timeout: Duration::from_secs(60),
        ..Config::default()
    };
    let milvus = Milvus {
        cluster: Arc::new(Cluster::new(&address, config).unwrap()),
        name: "docs".to_owned(),
    };
    (server, milvus)
}

fn search(
    answers: &[&[u32]],
    passages: Option<Bitmap>,
    exact: bool,
) -> (Result<Vec<Neighbor>, BackendError>, usize) {
    let world = world(|published| published, "2", N_ROWS, answers);
    let backend = world.opened.unwrap();
    let request = BackendRequest {
        queries: QUERY.to_vec(),
        k: K,
        passages: passages.map(Arc::new),
        filter: None,
        params: SearchParams {
            exact,
            ..SearchParams::default()
        },
        deadline: Deadline::NONE,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut lists = runtime.block_on(backend.search(request));
    assert_eq!(lists.len(), 1);
    let asked = world.server.asked();
    let n_searches = asked
        .iter()
        .filter(|(path, _)| path.ends_with("/Search"))
        .count();
    (lists.remove(0), n_searches)
}

#[track_caller]
fn check(answers: &[&[u32]], passages: Option<Bitmap>, expected: &[u32]) {
    let (list, n_searches) = search(answers, passages, false);
    let list: Vec<(u32, f32)> = list.unwrap().iter().map(|n| (n.ordinal, n.score)).collect();
    let scored = expected
        .iter()
        .map(|&ordinal| (ordinal, ordinal as f32 + 0.5));
    assert_eq!(list, scored.collect::<Vec<_>>());
    assert_eq!(n_searches, answers.len());
}

#[test]
fn rows_of_the_cluster_are_scored_and_ordered_here() {
    check(&[&[5, 900, 17]], None, &[900, 17, 5]);
}

#[test]
fn a_list_is_never_shorter_than_it_could_be() {
    for answer in [&[5, 900][..], &[5, 900, 900], &[5, 900, N_ROWS]] {
        let (list, _) = search(&[answer], None, false);
        assert!(matches!(list, Err(BackendError::Milvus(_))), "{list:?}");
    }
}

#[test]
fn a_filter_asks_for_more_rows_until_enough_pass() {
    let odd = || Some((0..N_ROWS).filter(|n| n % 2 == 1).collect::<Bitmap>());
    check(&[&[5, 901, 17]], odd(), &[901, 17, 5]);
    check(
        &[&[4, 901, 18], &[4, 901, 18, 7, 9, 11]],
        odd(),
        &[901, 11, 9],
    );
    // The cluster has no more than these: the rest is looked for here.
    check(&[&[4, 901]], odd(), &[2399, 2397, 2395]);
}

#[test]
fn few_passages_and_exact_searches_do_not_need_the_cluster() {
    check(&[], Some((0..1000).collect()), &[999, 998, 997]);
    let (list, n_searches) = search(&[], None, true);
    assert_eq!((list.unwrap()[0].ordinal, n_searches), (N_ROWS - 1, 0));
}

#[test]
fn few_passages_are_asked_for_where_the_cluster_is_tried_out() {
    let world = world(|published| published, "2", N_ROWS, &[]);
    let backend = world.opened.unwrap();
    let (few, params) = ((0..1000).collect(), SearchParams::default());
    assert_ne!(backend.plan(K, Some(&few), &params), Plan::FilteredGraph);
    let backend = backend.for_any_number();
    assert_eq!(backend.plan(K, Some(&few), &params), Plan::FilteredGraph);
}

#[test]
fn devices_are_left_alone_where_a_cluster_searches() {
    let generation = crate::WORLD.retriever.generation();
    let manifest = &generation.manifest;
    let described = described(&Published::of(manifest), &manifest.width.to_string());
    let n_rows = u32::try_from(manifest.counts.passages).unwrap();
    let (_server, milvus) = cluster(described, n_rows, &[]);
    let gpu = EmulatedGpu::new("gpu:0", 1 << 30);
    let shared: SharedAccelerator = gpu.clone();
    let config = OpenConfig {
        devices: vec![shared],
        ..OpenConfig::default()
    };
    let opened = Retriever::open_in_milvus(generation.clone(), config.clone(), &milvus).unwrap();
    assert!(opened.searches_remotely());
    assert_eq!(gpu.allocated_bytes(), 0);
    let _opened = Retriever::open(generation.clone(), config).unwrap();
    assert_ne!(gpu.allocated_bytes(), 0);
}

#[test]
fn what_is_no_whole_copy_of_the_generation_is_refused() {
    let same = |published| published;
    for (world, differing) in [
        (world(same, "3", N_ROWS, &[]), "width"),
        (world(same, "2", N_ROWS - 1, &[]), "rows"),
        (
            world(
                |published| Published {
                    fingerprint: json!("other"),
                    ..published
                },
                "2",
                N_ROWS,
                &[],
            ),
            "fingerprint",
        ),
    ] {
        match world.opened {
            Err(PublishedError::Differs { field, .. }) => assert_eq!(field, differing),
            other => panic!("{differing}: {:?}", other.err()),
        }
    }
}
