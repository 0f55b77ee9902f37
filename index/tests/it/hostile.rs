//! Drivers of the file readers for any bytes: the property test next door and the targets in `fuzz/` run them.
#![allow(dead_code, reason = "a fuzz target runs one of them")]
#![allow(clippy::unwrap_used, reason = "a panic is what the drivers look for")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use index::{
    FlatShard, GraphIndex, HnswConfig, KnownSection, Metric, Plan, RowType, SearchParams,
    SectionFile, ShardConfig, ShardWriter, ShardedIndex, SketchPolicy, VectorIndex, Verify,
    build_graph,
};
use xxhash_rust::xxh3::xxh3_64;

/// Length of the header and of a table entry.
const UNIT: usize = 64;

/// Has a driver read a file of these bytes, and one whose length and checksums are made right, so that what lies behind them
/// is read, too.
pub fn each_reading(bytes: &[u8], read: fn(&Path, Verify)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.trawl");
    let mut repaired = bytes.to_vec();
    repair(&mut repaired);
    for bytes in [bytes, repaired.as_slice()] {
        let _ = fs::remove_file(&path); // some file systems are slow to shorten a file
        fs::write(&path, bytes).unwrap();
        read(&path, Verify::Header);
        read(&path, Verify::Checksums);
    }
}

/// Makes the length of the file and the checksums of header, table and sections right, as far as they can be found.
pub fn repair(bytes: &mut [u8]) {
    if bytes.len() < UNIT {
        return;
    }
    let length = bytes.len() as u64;
    put(bytes, 24, length);
    let table = number(bytes, 16).min(length) as usize;
    for entry in (table..=bytes.len() - UNIT).step_by(UNIT) {
        let (start, length) = (number(bytes, entry + 40), number(bytes, entry + 48));
        let end = start.saturating_add(length) as usize;
        if let Some(checksum) = bytes.get(start as usize..end).map(xxh3_64) {
            put(bytes, entry + 56, checksum);
        }
    }
    let checksum = xxh3_64(&bytes[table..]);
    put(bytes, 32, checksum);
    let checksum = xxh3_64(&bytes[..56]);
    put(bytes, 56, checksum);
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

/// Whatever opens lies inside the file.
pub fn read_sections(path: &Path, verify: Verify) {
    let known = ["rows", "block_norms", "shard"].map(|name| KnownSection { name, version: 1 });
    if let Ok(file) = SectionFile::open(path, &known, verify) {
        for section in known {
            if let Ok(range) = file.section(section.name) {
                assert!(range.start.is_multiple_of(UNIT));
                assert!(file.bytes().get(range).is_some());
            }
        }
    }
}

/// Whatever opens answers, with as many neighbors as there are, though not with the right ones.
pub fn read_shard(path: &Path, verify: Verify) {
    let Ok(shard) = FlatShard::open(path, verify) else {
        return;
    };
    let n_queries = 9; // enough for each way to search
    let values = (0..n_queries * shard.width()).map(|i| (i % 7) as f32 - 2.5);
    let queries: Vec<f32> = values.collect();
    let k = 3;
    let found = shard
        .search(&queries, k, None, &SearchParams::default())
        .unwrap();
    assert_eq!(found.len(), n_queries);
    let first = u64::from(shard.first_ordinal());
    let ordinals = first..first + shard.len() as u64;
    for neighbors in found {
        assert_eq!(neighbors.len(), k.min(shard.len()));
        let mut found = neighbors.iter().map(|neighbor| neighbor.ordinal.into());
        assert!(found.all(|ordinal| ordinals.contains(&ordinal)));
    }
}

/// Whatever opens as the graph of [`small_shard`] can be walked.
pub fn read_graph(path: &Path, verify: Verify) {
    let flat = ShardedIndex::open(&[small_shard(path.parent().unwrap())], Verify::Header).unwrap();
    let Ok(index) = GraphIndex::open(flat, &[path.to_owned()], verify) else {
        return;
    };
    let found = index.search_by(
        Plan::Graph,
        &[0.5, -1.0, 2.0],
        3,
        None,
        &SearchParams::default(),
    );
    for neighbor in &found.unwrap()[0] {
        assert!((neighbor.ordinal as usize) < index.len());
    }
}

/// The right graph of [`small_shard`].
pub fn small_graph() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let shard = FlatShard::open(&small_shard(folder.path()), Verify::Header).unwrap();
    let path = folder.path().join("graph.trawl");
    let config = HnswConfig {
        m: 2,
        ..HnswConfig::default()
    };
    build_graph(&path, &shard, &config, &|_| ControlFlow::Continue(())).unwrap();
    fs::read(path).unwrap()
}

/// Writes a shard of 16 rows of three into a folder.
fn small_shard(folder: &Path) -> PathBuf {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let path = folder.join("vectors.trawl");
    let bytes = BYTES.get_or_init(|| {
        let config = ShardConfig {
            width: 3,
            metric: Metric::L2,
            row_type: RowType::F32,
            first_ordinal: 0,
            sketches: SketchPolicy::Never,
        };
        let mut writer = ShardWriter::create(&path, config).unwrap();
        for row in 0..16 {
            let value = |i: i32| ((3 * row + i) as f32 * 0.7).sin();
            writer.push(&[0, 1, 2].map(value)).unwrap();
        }
        writer.finish().unwrap();
        fs::read(&path).unwrap()
    });
    fs::write(&path, bytes).unwrap();
    path
}
