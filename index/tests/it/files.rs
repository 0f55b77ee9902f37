use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use index::{
    FlatShard, KnownSection, Metric, Need, OpenError, RowType, SectionFile, SectionWriter,
    ShardConfig, ShardWriter, ShardedIndex, SketchPolicy, VectorIndex, Verify, WriteError,
};

use crate::{METRICS, config, write_shards};

/// The bytes of a shard of five rows of three.
fn small_shard(folder: &Path) -> Vec<u8> {
    small_shard_with(folder, SketchPolicy::Never)
}

fn small_shard_with(folder: &Path, sketches: SketchPolicy) -> Vec<u8> {
    let rows: Vec<f32> = (1..=15).map(|value| value as f32).collect();
    fs::read(&write_shards(folder, Metric::L2, (sketches, RowType::F32), 3, &rows, 1)[0]).unwrap()
}

fn open_bytes(folder: &Path, bytes: &[u8], verify: Verify) -> Result<FlatShard, OpenError> {
    let path = folder.join("damaged.trawl");
    fs::write(&path, bytes).unwrap();
    FlatShard::open(&path, verify)
}

#[test]
fn rows_are_read_as_written() {
    let folder = tempfile::tempdir().unwrap();
    for verify in [Verify::Header, Verify::Checksums] {
        let shard = open_bytes(folder.path(), &small_shard(folder.path()), verify).unwrap();
        assert_eq!(
            (
                shard.len(),
                shard.width(),
                shard.metric(),
                shard.first_ordinal()
            ),
            (5, 3, Metric::L2, 0)
        );
        assert_eq!(shard.row(4)[..], [13.0, 14.0, 15.0]);
    }
}

#[test]
fn format_version_1_is_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = include_bytes!("../fixtures/shard-v1.trawl");
    assert_eq!(
        small_shard(folder.path()),
        fixture,
        "a change of the format needs a new version"
    );
}

#[test]
fn every_truncation_is_a_named_error() {
    check_truncations(SketchPolicy::Never);
    check_truncations(SketchPolicy::Always);
}

fn check_truncations(sketches: SketchPolicy) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = small_shard_with(folder.path(), sketches);
    for length in 0..bytes.len() {
        let expect_named = |verify| {
            let error = open_bytes(folder.path(), &bytes[..length], verify).unwrap_err();
            assert!(
                matches!(error, OpenError::Magic { .. } | OpenError::Length { .. }),
                "{length} bytes: {error}"
            );
            assert!(error.to_string().contains("damaged.trawl"), "{error}");
        };
        expect_named(Verify::Header);
        expect_named(Verify::Checksums);
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(
        open_bytes(folder.path(), &longer, Verify::Header),
        Err(OpenError::Length { .. })
    ));
}

#[test]
fn every_flipped_byte_is_a_named_error() {
    check_flips(SketchPolicy::Never);
    check_flips(SketchPolicy::Always);
}

fn check_flips(sketches: SketchPolicy) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = small_shard_with(folder.path(), sketches);
    for at in 0..bytes.len() {
        for flip in [1 << (at % 8), 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            let error =
                open_bytes(folder.path(), &changed, Verify::Checksums).expect_err("a changed byte");
            assert!(
                error.to_string().contains("damaged.trawl"),
                "byte {at}: {error}"
            );
            // Without checksums the file may open; searching it must then be safe.
            if let Ok(shard) = open_bytes(folder.path(), &changed, Verify::Header) {
                let searched = catch_unwind(|| {
                    shard
                        .search(&[1.0, 2.0, 3.0], 2, None, &Default::default())
                        .unwrap()
                });
                assert_eq!(searched.unwrap()[0].len(), 2, "byte {at}");
            }
        }
    }
}

/// Changes bytes of the header or the table and makes the checksums right again.
fn forge(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let table = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    change(&mut bytes);
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[table..]);
    bytes[32..40].copy_from_slice(&checksum.to_le_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..56]);
    bytes[56..64].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn hostile_files_with_right_checksums_are_named_errors() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = small_shard(folder.path());
    let table = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let check = |what: &str, expected: &str, change: &dyn Fn(&mut [u8])| {
        for verify in [Verify::Header, Verify::Checksums] {
            let error = open_bytes(folder.path(), &forge(&bytes, change), verify).expect_err(what);
            assert!(error.to_string().contains(expected), "{what}: {error}");
        }
    };
    let put = |bytes: &mut [u8], at: usize, value: u64| {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes())
    };
    check("wrong magic", "is not a vector file", &|bytes| {
        bytes[0] = b'T'
    });
    check(
        "newer format",
        "has format version 2, this release reads version 1",
        &|bytes| bytes[8] = 2,
    );
    check(
        "oversized table",
        "impossible section table: 4294967295 sections",
        &|bytes| bytes[12..16].fill(0xff),
    );
    check(
        "smaller table",
        "impossible section table: 2 sections",
        &|bytes| bytes[12] = 2,
    );
    check("table past the end", "impossible section table", &|bytes| {
        put(bytes, 16, u64::MAX - 191)
    });
    check(
        "table over the header",
        "impossible section table",
        &|bytes| put(bytes, 16, 0),
    );
    check("longer file", "instead of 18446744073709551615", &|bytes| {
        put(bytes, 24, u64::MAX)
    });
    check(
        "section over the header",
        "entry 0 of the section table",
        &|bytes| put(bytes, table + 40, 0),
    );
    check("section not aligned", "impossible offset", &|bytes| {
        put(bytes, table + 40, 65)
    });
    check("section far away", "impossible offset", &|bytes| {
        put(bytes, table + 40, u64::MAX - 63)
    });
    check(
        "section over the next",
        "entry 1 of the section table",
        &|bytes| put(bytes, table + 48, 128),
    );
    check("section without end", "impossible length", &|bytes| {
        put(bytes, table + 48, u64::MAX)
    });
    check("no name", "impossible name", &|bytes| {
        bytes[table..table + 32].fill(0)
    });
    check("name that is not UTF-8", "impossible name", &|bytes| {
        bytes[table] = 0xff
    });
    check("text after the name", "impossible name", &|bytes| {
        bytes[table + 31] = b'x'
    });
    check("unknown flag", "impossible flag", &|bytes| {
        bytes[table + 36] = 3
    });
    check("name twice", "which another entry has", &|bytes| {
        bytes.copy_within(table..table + 32, table + 64)
    });
    check(
        "newer required section",
        "needs section `rows` version 9",
        &|bytes| bytes[table + 32] = 9,
    );
    check(
        "unknown required section",
        "needs section `rowz` version 1",
        &|bytes| bytes[table + 3] = b'z',
    );
    check("rows gone", "has no section `rows`", &|bytes| {
        bytes[table + 3] = b'z';
        bytes[table + 36] = 0;
    });
}

#[test]
fn hostile_shards_with_right_checksums_are_named_errors() {
    let folder = tempfile::tempdir().unwrap();
    // metric, row type, width, first ordinal, rows
    let check = |shard: [u32; 4], n_rows: u64, expected: &str| {
        let path = folder.path().join("hostile.trawl");
        let mut writer = SectionWriter::create(&path).unwrap();
        writer.begin("rows", 1, Need::Required).unwrap();
        writer.write(&[0; 8]).unwrap();
        writer.begin("block_norms", 1, Need::Required).unwrap();
        writer.write(&[0; 4]).unwrap();
        writer.begin("shard", 1, Need::Required).unwrap();
        shard
            .iter()
            .for_each(|field| writer.write(&field.to_le_bytes()).unwrap());
        writer.write(&n_rows.to_le_bytes()).unwrap();
        writer.finish().unwrap();
        let error = FlatShard::open(&path, Verify::Checksums)
            .map(|shard| shard.len())
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    check([3, 0, 2, 0], 1, "has metric 3");
    check([0, 4, 2, 0], 1, "has row type 4");
    check([0, 0, 0, 0], 1, "has width 0");
    check([0, 0, u32::MAX, 0], 1, "has width 4294967295");
    check(
        [0, 0, 2, 0],
        u64::MAX,
        "has number of rows 18446744073709551615",
    );
    check([0, 0, 2, u32::MAX], 2, "has number of rows 2");
    check(
        [0, 0, 2, 0],
        1 << 32,
        "has 8 bytes, its shard needs 34359738368",
    );
    check([0, 0, 2, 0], 0, "has 8 bytes, its shard needs 0");
}

#[test]
fn a_value_beyond_f16_is_refused_by_ordinal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.trawl");
    let config = ShardConfig {
        row_type: RowType::F16,
        ..config(2, Metric::InnerProduct, 7)
    };
    let mut writer = ShardWriter::create(&path, config).unwrap();
    writer.push(&[1.0, 65_504.0]).unwrap();
    let error = writer.push(&[1.0, -65_520.0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 8 has -65520 at dimension 1, more than f16 can hold"
    );
    assert_eq!(writer.finish().unwrap().n_rows, 1);
    let shard = FlatShard::open(&path, Verify::Checksums).unwrap();
    assert_eq!(shard.config().row_type, RowType::F16);
    assert_eq!(shard.row(0)[..], [1.0, 65_504.0]);
}

#[test]
fn hostile_sketches_with_right_checksums_are_named_errors() {
    let folder = tempfile::tempdir().unwrap();
    // coordinates of heads, then the five bounds; bytes of the other sections
    let check = |n_head: u64, bounds: [f64; 5], n_bytes: [usize; 3], expected: &str| {
        let path = folder.path().join("hostile.trawl");
        let mut writer = SectionWriter::create(&path).unwrap();
        let mut section = |name: &str, bytes: &[u8]| {
            writer.begin(name, 1, Need::Optional).unwrap();
            writer.write(bytes).unwrap();
        };
        section("rows", &[0; 8]);
        section("block_norms", &[0; 4]);
        for (name, n) in ["sketch_projection", "sketch_heads", "sketch_tails"]
            .into_iter()
            .zip(n_bytes)
        {
            section(name, &vec![0; n]);
        }
        let bounds = bounds.iter().flat_map(|bound| bound.to_le_bytes());
        section(
            "sketch",
            &n_head
                .to_le_bytes()
                .into_iter()
                .chain(bounds)
                .collect::<Vec<u8>>(),
        );
        let shard: [u32; 6] = [0, 0, 2, 0, 1, 0]; // one row of two values
        section("shard", &shard.map(u32::to_le_bytes).concat());
        writer.finish().unwrap();
        match FlatShard::open(&path, Verify::Checksums) {
            Ok(shard) => {
                let found = shard.search(&[1.0, 2.0], 2, None, &Default::default());
                assert_eq!((found.unwrap()[0].len(), expected), (1, "sound"));
            }
            Err(error) => assert!(error.to_string().contains(expected), "{error}"),
        }
    };
    let sound = [24, 192, 8];
    check(1, [1.0; 5], sound, "sound");
    check(0, [1.0; 5], sound, "coordinates in a sketch's head 0");
    check(3, [1.0; 5], sound, "coordinates in a sketch's head 3");
    check(
        u64::MAX,
        [1.0; 5],
        sound,
        "coordinates in a sketch's head 18446744073709551615",
    );
    check(
        1,
        [1.0, 1.0, f64::NAN, 1.0, 1.0],
        sound,
        "bound of its sketches",
    );
    check(
        1,
        [1.0, 1.0, 1.0, 1.0, -1.0],
        sound,
        "bound of its sketches",
    );
    check(1, [f64::INFINITY; 5], sound, "sound"); // it proves nothing, then
    check(
        1,
        [1.0; 5],
        [23, 192, 8],
        "has 23 bytes, its shard needs 24",
    );
    check(
        1,
        [1.0; 5],
        [24, 191, 8],
        "has 191 bytes, its shard needs 192",
    );
    check(
        1,
        [1.0; 5],
        [24, 192, 12],
        "has 12 bytes, its shard needs 8",
    );
    check(2, [1.0; 5], [24, 192, 8], "has 8 bytes, its shard needs 0");
}

#[test]
fn a_shard_that_is_not_there_is_a_read_error() {
    let folder = tempfile::tempdir().unwrap();
    let opened = FlatShard::open(&folder.path().join("missing.trawl"), Verify::Header);
    assert!(matches!(opened, Err(OpenError::Read { .. })));
    assert!(matches!(
        FlatShard::open(folder.path(), Verify::Header),
        Err(OpenError::Read { .. })
    ));
}

#[test]
fn unknown_sections_are_skipped_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sections.trawl");
    let mut writer = SectionWriter::create(&path).unwrap();
    for (name, version, need, content) in [
        ("rows", 1, Need::Required, "many rows"),
        ("codes", 2, Need::Optional, ""),
        ("graph", 1, Need::Optional, "links"),
    ] {
        writer.begin(name, version, need).unwrap();
        writer.write(content.as_bytes()).unwrap();
    }
    let n_bytes = writer.finish().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), n_bytes);

    let rows = KnownSection {
        name: "rows",
        version: 1,
    };
    let codes = |version| KnownSection {
        name: "codes",
        version,
    };
    let file = SectionFile::open(&path, &[rows], Verify::Checksums).unwrap();
    let range = file.section("rows").unwrap();
    assert!(range.start.is_multiple_of(64));
    assert_eq!(&file.bytes()[range], b"many rows");
    assert!(
        matches!(file.section("graph"), Err(OpenError::MissingSection { section, .. }) if section == "graph")
    );

    let file = SectionFile::open(&path, &[rows, codes(1)], Verify::Checksums).unwrap();
    assert!(
        file.section("codes").is_err(),
        "an optional section newer than known is skipped"
    );
    let file = SectionFile::open(&path, &[rows, codes(2)], Verify::Checksums).unwrap();
    assert!(file.section("codes").unwrap().is_empty());

    let error = SectionFile::open(&path, &[codes(2)], Verify::Header).unwrap_err();
    assert!(
        matches!(error, OpenError::UnknownSection { section, version: 1, .. } if section == "rows")
    );
}

#[test]
fn a_shard_has_its_name_only_when_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vectors.trawl");
    let names = || {
        fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect::<Vec<_>>()
    };

    let mut writer = ShardWriter::create(&path, config(2, Metric::L2, 0)).unwrap();
    writer.push(&[1.0, 2.0]).unwrap();
    assert_eq!(names(), ["vectors.trawl.tmp"]);
    drop(writer);
    assert!(names().is_empty(), "an abandoned writer leaves nothing");

    fs::write(folder.path().join("vectors.trawl.tmp"), [7; 10_000]).unwrap(); // what a killed process left
    let writer = ShardWriter::create(&path, config(2, Metric::L2, 0)).unwrap();
    let summary = writer.finish().unwrap();
    assert_eq!(names(), ["vectors.trawl"]);
    assert_eq!(
        (summary.n_rows, summary.n_bytes),
        (0, fs::metadata(&path).unwrap().len())
    );
    FlatShard::open(&path, Verify::Checksums).unwrap();

    let nowhere = folder.path().join("none").join("vectors.trawl");
    assert!(matches!(
        ShardWriter::create(&nowhere, config(2, Metric::L2, 0)).err(),
        Some(WriteError::Write { .. })
    ));
}

#[test]
fn rows_are_refused_by_ordinal_and_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let path = folder.path().join("refused.trawl");
        let mut writer = ShardWriter::create(&path, config(2, metric, 40)).unwrap();
        writer.push(&[1.0, 0.0]).unwrap();
        let mut refuse = |row: &[f32], expected: &str| {
            assert_eq!(writer.push(row).unwrap_err().to_string(), expected)
        };
        refuse(&[1.0, f32::NAN], "row 41 is not finite at dimension 1");
        refuse(&[f32::INFINITY, 1.0], "row 41 is not finite at dimension 0");
        refuse(&[1.0], "row 41 has width 1, its shard 2");
        if metric == Metric::Cosine {
            refuse(&[0.0, -0.0], "row 41 is zero, which has no cosine");
        }
        writer.push(&[0.0, 1.0]).unwrap();
        assert_eq!(writer.finish().unwrap().n_rows, 2);
        let shard = FlatShard::open(&path, Verify::Checksums).unwrap();
        assert_eq!(
            (&shard.row(0)[..], &shard.row(1)[..]),
            (&[1.0, 0.0][..], &[0.0, 1.0][..])
        );
    }
}

#[test]
fn ordinals_and_widths_have_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.trawl");
    let mut writer = ShardWriter::create(&path, config(1, Metric::L2, u32::MAX)).unwrap();
    writer.push(&[1.0]).unwrap();
    assert!(matches!(writer.push(&[1.0]), Err(WriteError::TooManyRows)));
    writer.finish().unwrap();
    let shard = FlatShard::open(&path, Verify::Checksums).unwrap();
    assert_eq!(
        shard.search(&[0.0], 1, None, &Default::default()).unwrap()[0][0].ordinal,
        u32::MAX
    );

    for width in [0, index::MAX_WIDTH + 1] {
        assert!(matches!(
            ShardWriter::create(&path, config(width, Metric::L2, 0)).err(),
            Some(WriteError::Width { .. })
        ));
    }
}

#[test]
fn shards_of_one_index_agree() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |metric, width: usize, first_ordinal, n_rows| {
        let path = folder.path().join("shard.trawl");
        let mut writer = ShardWriter::create(&path, config(width, metric, first_ordinal)).unwrap();
        (0..n_rows).for_each(|_| writer.push(&vec![1.0; width]).unwrap());
        writer.finish().unwrap();
        FlatShard::open(&path, Verify::Header).unwrap()
    };
    let refuse = |second: FlatShard, expected: &str| {
        let joined = ShardedIndex::from_shards(vec![shard(Metric::L2, 2, 0, 3), second]);
        assert!(
            joined.unwrap_err().to_string().ends_with(expected),
            "{expected}"
        );
    };
    refuse(
        shard(Metric::L2, 3, 3, 1),
        "has width 3, the shards before it 2",
    );
    refuse(
        shard(Metric::Cosine, 2, 3, 1),
        "has metric cosine, the shards before it l2",
    );
    refuse(
        shard(Metric::L2, 2, 4, 1),
        "begins at ordinal 4, the shards before it end at 3",
    );
    refuse(
        shard(Metric::L2, 2, 0, 1),
        "begins at ordinal 0, the shards before it end at 3",
    );
    assert!(matches!(
        ShardedIndex::from_shards(vec![]),
        Err(OpenError::NoShards)
    ));

    let shards =
        [(5, 2), (7, 0), (7, 1)].map(|(first, n_rows)| shard(Metric::L2, 2, first, n_rows));
    let index = ShardedIndex::from_shards(shards.into()).unwrap();
    assert_eq!(index.len(), 3);
    assert_eq!(
        [4, 5, 7, 8].map(|ordinal| index.row(ordinal).is_some()),
        [false, true, true, false]
    );
}
