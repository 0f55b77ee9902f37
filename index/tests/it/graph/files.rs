//! Graphs' files that are not what they should be.

use std::fs;
use std::ops::ControlFlow;
use std::panic::catch_unwind;
use std::path::Path;

use index::{
    GraphIndex, HnswConfig, Metric, OpenError, Plan, RowType, SearchParams, ShardedIndex,
    SketchPolicy, VectorIndex, Verify, WriteError, build_graph,
};

use super::config;
use crate::hostile::repair;
use crate::write_shards;

const N: usize = 16;

/// The bytes of the graph of a small shard, and what opens others in its place.
struct Small {
    folder: tempfile::TempDir,
    shards: Vec<std::path::PathBuf>,
    bytes: Vec<u8>,
}

impl Small {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<f32> = (0..N * 3).map(|i| (i as f32 * 0.7).sin()).collect();
        let shards = write_shards(
            folder.path(),
            Metric::L2,
            (SketchPolicy::Never, RowType::F32),
            3,
            &rows,
            1,
        );
        let config = HnswConfig { m: 2, ..config(1) };
        let flat = ShardedIndex::open(&shards, Verify::Checksums).unwrap();
        let path = folder.path().join("graph.trawl");
        build_graph(&path, &flat.shards()[0], &config, &|_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        Self {
            bytes: fs::read(path).unwrap(),
            folder,
            shards,
        }
    }

    fn open(&self, bytes: &[u8], verify: Verify) -> Result<GraphIndex, OpenError> {
        let path = self.folder.path().join("damaged.trawl");
        let _ = fs::remove_file(&path); // some file systems are slow to shorten a file
        fs::write(&path, bytes).unwrap();
        let flat = ShardedIndex::open(&self.shards, Verify::Header).unwrap();
        GraphIndex::open(flat, &[path], verify)
    }

    /// Where a section is in the file, by its name.
    fn section(&self, name: &str) -> usize {
        let table = u64::from_le_bytes(self.bytes[16..24].try_into().unwrap()) as usize;
        let entry = self.bytes[table..]
            .chunks_exact(64)
            .find(|entry| entry.starts_with(name.as_bytes()) && entry[name.len()] == 0);
        u64::from_le_bytes(entry.unwrap()[40..48].try_into().unwrap()) as usize
    }

    /// The bytes with a `u32` changed and all checksums right.
    fn forge(&self, at: usize, value: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        repair(&mut bytes);
        bytes
    }
}

/// Searching is safe whatever the graph says.
fn check_search(index: &GraphIndex) {
    let found = index.search_by(
        Plan::Graph,
        &[0.1, 0.2, 0.3],
        5,
        None,
        &SearchParams::default(),
    );
    assert!(found.unwrap()[0].len() <= 5);
}

#[test]
fn every_truncation_is_a_named_error() {
    let small = Small::new();
    check_search(&small.open(&small.bytes, Verify::Checksums).unwrap());
    for length in 0..small.bytes.len() {
        for verify in [Verify::Header, Verify::Checksums] {
            let error = small.open(&small.bytes[..length], verify).unwrap_err();
            assert!(
                error.to_string().contains("damaged.trawl"),
                "{length} bytes: {error}"
            );
        }
    }
}

#[test]
fn every_flipped_byte_is_a_named_error() {
    let small = Small::new();
    for at in 0..small.bytes.len() {
        let mut changed = small.bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let error = small
            .open(&changed, Verify::Checksums)
            .expect_err("a changed byte");
        assert!(
            error.to_string().contains("damaged.trawl"),
            "byte {at}: {error}"
        );
        if let Ok(index) = small.open(&changed, Verify::Header) {
            let searched = catch_unwind(std::panic::AssertUnwindSafe(|| check_search(&index)));
            assert!(searched.is_ok(), "byte {at}");
        }
    }
}

#[test]
fn hostile_graphs_with_right_checksums_are_named_errors() {
    let small = Small::new();
    let check = |section: &str, at: usize, value: u32, expected: &str| {
        let bytes = small.forge(small.section(section) + at, value);
        let error = small
            .open(&bytes, Verify::Checksums)
            .expect_err(expected)
            .to_string();
        assert!(
            error.contains(expected) && error.contains("damaged.trawl"),
            "{error}"
        );
        if let Ok(index) = small.open(&bytes, Verify::Header) {
            check_search(&index);
        }
    };
    check("graph", 0, 9, "its metric is 9, the shard's 2");
    check("graph", 4, 4, "its width is 4, the shard's 3");
    check("graph", 8, 1, "its first ordinal is 1, the shard's 0");
    check("graph", 12, 0, "has number of directions 0");
    check("graph", 12, 4, "has number of directions 4");
    check("graph", 16, 1, "has m 1");
    check("graph", 16, 3, "section `graph_links`");
    check("graph", 20, N as u32, "has entry 16");
    check("graph", 24, 17, "its number of rows is 17, the shard's 16");
    check("graph", 32, 0, "its checksum is");
    check("graph_offsets", 0, 1, "has first offset 1");
    check("graph_offsets", 4, u32::MAX, "has offset, of node 1");
    check(
        "graph_offsets",
        N * 4,
        u32::MAX,
        "section `graph_upper_links`",
    );
    check("graph_links", 0, N as u32, "has link 16");
    check("graph_links", 0, u32::MAX, "has link");
    check("graph_upper_links", 0, 1 << 31, "has link 2147483648");
}

#[test]
fn a_graph_of_other_rows_is_refused() {
    let small = Small::new();
    let rows = [0.5; N * 3];
    let other = write_shards(
        Path::new(small.folder.path()),
        Metric::L2,
        (SketchPolicy::Always, RowType::F32),
        3,
        &rows,
        1,
    );
    let open = |graphs: &[std::path::PathBuf]| {
        let flat = ShardedIndex::open(&other, Verify::Header).unwrap();
        GraphIndex::open(flat, graphs, Verify::Header)
            .map(|index| index.len())
            .unwrap_err()
    };
    let error = open(&[small.folder.path().join("graph.trawl")]);
    assert!(
        matches!(
            error,
            OpenError::GraphShard {
                field: "checksum",
                ..
            }
        ),
        "{error}"
    );
    let error = open(&[]);
    assert_eq!(error.to_string(), "0 graphs for 1 shards");
}

#[test]
fn parameters_that_cannot_be_are_refused() {
    let small = Small::new();
    let flat = ShardedIndex::open(&small.shards, Verify::Header).unwrap();
    let path = small.folder.path().join("refused.trawl");
    for m in [0, 1, 257] {
        let config = HnswConfig { m, ..config(1) };
        let refused = build_graph(&path, &flat.shards()[0], &config, &|_| {
            ControlFlow::Continue(())
        });
        assert!(matches!(refused, Err(WriteError::Links { .. })), "{m}");
    }
    let config = HnswConfig {
        ef_construction: 0,
        ..config(1)
    };
    assert_eq!(
        build_graph(&path, &flat.shards()[0], &config, &|_| {
            ControlFlow::Continue(())
        })
        .unwrap()
        .n_nodes,
        N as u64
    );
}
