use tempfile::TempDir;

use super::*;
use crate::{BuildMode, Manifest, Retention, Start};

fn empty() -> (TempDir, Collection) {
    let folder = tempfile::tempdir().unwrap();
    let collection = Collection::create(&folder.path().join("docs")).unwrap();
    (folder, collection)
}

fn open(collection: &Collection) -> Result<LogWriter, CollectionError> {
    collection.log_writer("test", LogConfig::default())
}

fn record(n: u64, n_bytes: usize) -> NewRecord {
    let payload = (0..n_bytes)
        .map(|i| (n as u8).wrapping_mul(7).wrapping_add(i as u8) | 1)
        .collect();
    NewRecord {
        kind: n as u8,
        payload,
    }
}

/// A log of frames of 1, 2 and 3 records, and how long its file was after each.
fn example(collection: &Collection) -> Vec<u64> {
    let mut log = open(collection).unwrap();
    let mut lengths = vec![log.segment.n_bytes];
    let mut n = 0;
    for n_records in 1..=3 {
        let records: Vec<_> = (0..n_records)
            .map(|_| {
                n += 1;
                record(n, 9 * n as usize)
            })
            .collect();
        assert_eq!(log.append(&records).unwrap().end, n + 1);
        lengths.push(log.segment.n_bytes);
    }
    lengths
}

fn read(collection: &Collection, after: u64) -> Result<Vec<NewRecord>, CollectionError> {
    let (mut found, mut next) = (Vec::new(), None);
    let end = collection.read_log(after, &mut |record| {
        assert_eq!(*next.get_or_insert(record.position), record.position);
        next = Some(record.position + 1);
        found.push(NewRecord {
            kind: record.kind,
            payload: record.payload.to_vec(),
        });
    })?;
    assert!(next.is_none_or(|next| next == end + 1));
    Ok(found)
}

fn file(collection: &Collection) -> PathBuf {
    collection.segments().unwrap().pop().unwrap().1
}

fn generation(writer: &Writer, name: &str, log_position: u64) {
    let spec = serde_json::json!({ "name": name });
    let Start::Build(building) = writer.begin(&spec, BuildMode::New).unwrap() else {
        panic!("{name} is there already");
    };
    let contents = Manifest {
        log_position,
        ..Manifest::default()
    };
    writer.promote(&building, contents).unwrap();
}

#[test]
fn what_is_written_is_read_from_any_position() {
    let (_folder, collection) = empty();
    assert_eq!(collection.log_positions().unwrap(), 1..1);
    assert_eq!(read(&collection, 0).unwrap(), []);
    example(&collection);
    let expected: Vec<_> = (1..=6).map(|n| record(n, 9 * n as usize)).collect();
    for after in 0..=6 {
        assert_eq!(
            read(&collection, after).unwrap(),
            expected[after as usize..]
        );
    }
    assert_eq!(collection.log_positions().unwrap(), 1..7);
    let mut log = open(&collection).unwrap();
    assert_eq!(log.append(&[]).unwrap(), 7..7);
    assert_eq!(log.append(&[record(7, 0)]).unwrap(), 7..8);
    assert_eq!(read(&collection, 6).unwrap(), [record(7, 0)]);
}

#[test]
fn one_process_writes() {
    let (_folder, collection) = empty();
    let log = open(&collection).unwrap();
    let error = open(&collection).unwrap_err();
    assert!(matches!(error, CollectionError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(": test"), "{error}");
    let _generations = collection.writer("beside it").unwrap();
    drop(log);
    open(&collection).unwrap();
}

#[test]
fn a_log_that_ends_anywhere_is_cut_to_its_last_whole_frame() {
    let (_folder, collection) = empty();
    let lengths = example(&collection);
    let path = file(&collection);
    let whole = fs::read(&path).unwrap();
    for n_bytes in 0..=whole.len() {
        fs::write(&path, &whole[..n_bytes]).unwrap();
        let n_frames = lengths
            .iter()
            .skip(1)
            .filter(|end| **end <= n_bytes as u64)
            .count() as u64;
        let expected = n_frames * (n_frames + 1) / 2;
        assert_eq!(read(&collection, 0).unwrap().len() as u64, expected);
        let mut log = open(&collection).unwrap();
        assert_eq!(log.position(), expected, "{n_bytes} bytes");
        log.append(&[record(9, 9)]).unwrap();
        assert_eq!(read(&collection, expected).unwrap(), [record(9, 9)]);
    }
}

#[test]
fn every_flipped_bit_is_an_error() {
    let (_folder, collection) = empty();
    example(&collection);
    let path = file(&collection);
    let whole = fs::read(&path).unwrap();
    for bit in 0..8 * whole.len() {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        let error = read(&collection, 0).unwrap_err();
        assert!(error.is_corrupt(), "bit {bit}: {error}");
        if bit % 97 == 0 {
            assert!(open(&collection).unwrap_err().is_corrupt(), "bit {bit}");
        }
        assert_eq!(fs::read(&path).unwrap(), flipped);
    }
}

#[test]
fn pages_that_were_not_written_end_a_log_and_holes_are_damage() {
    let (_folder, collection) = empty();
    let mut log = open(&collection).unwrap();
    for n in 1..=3 {
        log.append(&[record(n, 3 * PAGE_BYTES)]).unwrap();
    }
    let end = log.segment.n_bytes as usize;
    drop(log);
    let path = file(&collection);
    let whole = fs::read(&path).unwrap();
    let n_frame = (end - HEADER_BYTES) / 3;
    for page in 0..end.div_ceil(PAGE_BYTES) {
        let lost = page * PAGE_BYTES..((page + 1) * PAGE_BYTES).min(end);
        let mut holey = whole.clone();
        holey[lost.clone()].fill(0);
        fs::write(&path, &holey).unwrap();
        let found = read(&collection, 0);
        match lost.start > end - n_frame {
            true => assert_eq!(found.unwrap().len(), 2, "page {page}"),
            false => assert!(found.unwrap_err().is_corrupt(), "page {page}"),
        }
    }
    // A frame of which nothing but its length came to the disk.
    let mut longer = whole[..end - n_frame].to_vec();
    longer.resize(end, 0);
    fs::write(&path, &longer).unwrap();
    assert_eq!(open(&collection).unwrap().position(), 2);
}

#[test]
fn segments_follow_each_other_and_go_when_every_generation_has_them() {
    let (_folder, collection) = empty();
    let config = LogConfig {
        durability: Durability::Os,
        segment_bytes: 200,
    };
    let mut log = collection.log_writer("test", config).unwrap();
    for n in 1..=20 {
        log.append(&[record(n, 50)]).unwrap();
    }
    let firsts = |collection: &Collection| -> Vec<u64> {
        let segments = collection.segments().unwrap().into_iter();
        segments.map(|(first, _)| first).collect()
    };
    assert_eq!(firsts(&collection), [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
    for after in 0..=20 {
        assert_eq!(read(&collection, after).unwrap().len(), 20 - after as usize);
    }
    let writer = collection.writer("test").unwrap();
    generation(&writer, "old", 7);
    generation(&writer, "new", 20);
    assert!(log.truncate(&writer).unwrap() > 0);
    assert_eq!(firsts(&collection)[0], 7);
    assert_eq!(read(&collection, 7).unwrap().len(), 13);
    for after in [0, 1, 5] {
        let error = read(&collection, after).unwrap_err();
        assert!(
            matches!(error, CollectionError::LogGap { first: 7, .. }),
            "{error}"
        );
    }
    // What is dropped is not needed either.
    let ids = collection.generations().unwrap();
    let live = crate::AliasName::parse(crate::LIVE).unwrap();
    writer.set_alias_without(&live, &ids[0], 12).unwrap();
    assert_eq!(
        collection
            .replayed_after(&collection.generation(&ids[0]).unwrap())
            .unwrap(),
        12
    );
    log.truncate(&writer).unwrap();
    assert_eq!(firsts(&collection)[0], 13);
    writer.publish(&ids[1]).unwrap();
    writer.publish(&ids[1]).unwrap();
    let retention = Retention {
        keep: 1,
        ..Retention::default()
    };
    writer.publish(&ids[0]).unwrap();
    writer.publish(&ids[1]).unwrap();
    assert_eq!(writer.gc(&retention).unwrap().generations, []); // live before
    fs::remove_dir_all(&collection.generation(&ids[0]).unwrap().path).unwrap();
    log.truncate(&writer).unwrap();
    assert_eq!(firsts(&collection), [21]);
    drop(log);
    assert_eq!(
        open(&collection).unwrap().append(&[record(1, 1)]).unwrap(),
        21..22
    );

    // A missing segment, and a log that is gone although generations know of it.
    let mut log = collection.log_writer("test", config).unwrap();
    for n in 1..=20 {
        log.append(&[record(n, 50)]).unwrap();
    }
    drop(log);
    let segments = collection.segments().unwrap();
    fs::remove_file(&segments[1].1).unwrap();
    let error = read(&collection, 20).unwrap_err();
    assert!(matches!(error, CollectionError::Log { .. }), "{error}");
    fs::remove_dir_all(collection.log_folder()).unwrap();
    assert_eq!(collection.log_positions().unwrap(), 21..21);
    assert_eq!(open(&collection).unwrap().position(), 20);
}

#[test]
fn a_generation_that_lacks_what_the_log_has_no_more_is_not_published() {
    let (_folder, collection) = empty();
    let config = LogConfig {
        durability: Durability::Os,
        segment_bytes: HEADER_BYTES as u64 + 1,
    };
    let mut log = collection.log_writer("test", config).unwrap();
    let writer = collection.writer("test").unwrap();
    generation(&writer, "compacted", 4);
    for n in 1..=6 {
        log.append(&[record(n, 9)]).unwrap();
    }
    log.truncate(&writer).unwrap();
    assert_eq!(collection.log_positions().unwrap(), 5..7);
    assert_eq!(read(&collection, 4).unwrap().len(), 2);
    // They come from elsewhere: no build of this collection has such a position.
    for position in 0..4 {
        generation(&writer, &position.to_string(), position);
        let id = collection.generations().unwrap().pop().unwrap();
        let error = writer.publish(&id).unwrap_err();
        assert!(
            matches!(error, CollectionError::LogGap { first: 5, after, .. } if after == position),
            "{error}"
        );
        assert!(matches!(
            read(&collection, position),
            Err(CollectionError::LogGap { .. })
        ));
        let live = crate::AliasName::parse(crate::LIVE).unwrap();
        writer.set_alias_without(&live, &id, 6).unwrap();
        writer.rollback(&live).unwrap();
        writer.publish(&id).unwrap();
    }
    // A first build, a whole log and none.
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    generation(&writer, "first", 0);
    generation(&writer, "second", 0);
    let ids = collection.generations().unwrap();
    writer.publish(&ids[1]).unwrap();
    example(&collection);
    writer.publish(&ids[0]).unwrap();
    assert_eq!(read(&collection, 0).unwrap().len(), 6);
}

#[test]
fn a_rollback_to_a_generation_that_lacks_what_the_log_has_no_more_leaves_that_out() {
    let (_folder, collection) = empty();
    let (writer, live) = (
        collection.writer("test").unwrap(),
        crate::AliasName::parse(crate::LIVE).unwrap(),
    );
    generation(&writer, "old", 0);
    example(&collection);
    generation(&writer, "compacted", 6);
    let ids = collection.generations().unwrap();
    writer.publish(&ids[1]).unwrap();
    // It is removed here, and comes back from elsewhere.
    let old = collection.generation(&ids[0]).unwrap();
    let aside = collection.root().join("aside");
    fs::rename(&old.path, &aside).unwrap();
    open(&collection).unwrap().truncate(&writer).unwrap();
    fs::rename(&aside, &old.path).unwrap();
    assert_eq!(collection.log_positions().unwrap(), 7..7);

    for error in [
        collection.check_log(&old).unwrap_err(),
        writer.rollback(&live).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                CollectionError::LogGap {
                    first: 7,
                    after: 0,
                    ..
                }
            ),
            "{error}"
        );
    }
    assert_eq!(collection.resolve(crate::LIVE).unwrap().id, ids[1]);
    assert_eq!(writer.rollback_without(&live, 6).unwrap(), ids[0]);
    assert_eq!(collection.resolve(crate::LIVE).unwrap(), old);
    assert_eq!(collection.replayed_after(&old).unwrap(), 6);
    collection.check_log(&old).unwrap();
}

#[test]
fn a_log_shorter_than_generations_know_is_damaged() {
    let (_folder, collection) = empty();
    example(&collection);
    generation(&collection.writer("test").unwrap(), "one", 6);
    open(&collection).unwrap();
    assert_eq!(collection.check_log_positions().unwrap(), 1..7);
    let path = file(&collection);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    for error in [
        open(&collection).unwrap_err(),
        collection.check_log_positions().unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                CollectionError::LogEnd {
                    end: 3,
                    known: 6,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn too_much_at_once_is_refused_and_nothing_is_written() {
    let (_folder, collection) = empty();
    let mut log = open(&collection).unwrap();
    let huge = NewRecord {
        kind: 1,
        payload: vec![1; MAX_FRAME_BYTES],
    };
    let error = log.append(&[huge]).unwrap_err();
    assert!(matches!(error, CollectionError::LogFrame { .. }), "{error}");
    assert_eq!(log.append(&[record(1, 1)]).unwrap(), 1..2);
}

#[test]
fn what_could_not_be_taken_back_is_taken_back_before_the_next_write() {
    let (_folder, collection) = empty();
    let mut log = open(&collection).unwrap();
    log.append(&[record(1, 9)]).unwrap();
    let path = file(&collection);
    // A file that is open for reading can neither be written nor cut off.
    let fail = |log: &mut LogWriter| {
        let reading = File::open(&path).unwrap();
        let writing = std::mem::replace(&mut log.segment.file, reading);
        let error = log.append(&[record(2, 9)]).unwrap_err();
        assert!(
            !matches!(error, CollectionError::LogBroken { .. }),
            "{error}"
        );
        let error = log.append(&[record(2, 9)]).unwrap_err();
        assert!(
            matches!(error, CollectionError::LogBroken { .. }),
            "{error}"
        );
        log.segment.file = writing;
    };
    let leave = |bytes: &[u8]| {
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(bytes).unwrap();
    };
    fail(&mut log);
    leave(&log.buffer[..10]);
    assert_eq!(log.append(&[record(3, 9)]).unwrap(), 2..3);
    assert_eq!(read(&collection, 0).unwrap(), [record(1, 9), record(3, 9)]);

    // A whole frame stays, and is there for whoever opens the log.
    fail(&mut log);
    leave(&log.buffer);
    let error = log.append(&[record(4, 9)]).unwrap_err();
    assert!(
        matches!(error, CollectionError::LogBroken { .. }),
        "{error}"
    );
    drop(log);
    let mut log = open(&collection).unwrap();
    assert_eq!(log.append(&[record(4, 9)]).unwrap(), 4..5);
    let all = [record(1, 9), record(3, 9), record(2, 9), record(4, 9)];
    assert_eq!(read(&collection, 0).unwrap(), all);
}

#[test]
fn a_frame_that_others_may_have_read_is_not_taken_back() {
    let (_folder, collection) = empty();
    let mut log = open(&collection).unwrap();
    log.append(&[record(1, 9)]).unwrap();
    log.sync = |_| Err(io::Error::other("the disk does not answer"));
    let error = log.append(&[record(2, 9)]).unwrap_err();
    assert!(matches!(error, CollectionError::Io { .. }), "{error}");
    // Whoever has the log knows that it is to be opened again before the next write fails.
    assert!(log.is_broken());
    assert_eq!(read(&collection, 1).unwrap(), [record(2, 9)]);
    let error = log.append(&[record(3, 9)]).unwrap_err();
    assert!(
        matches!(error, CollectionError::LogBroken { .. }),
        "{error}"
    );
    drop(log);
    let mut log = open(&collection).unwrap();
    assert!(!log.is_broken());
    assert_eq!(log.append(&[record(3, 9)]).unwrap(), 3..4);
    let all = [record(1, 9), record(2, 9), record(3, 9)];
    assert_eq!(read(&collection, 0).unwrap(), all);
}

#[test]
fn a_broken_log_is_not_shortened_below_what_a_generation_has_of_it() {
    let (_folder, collection) = empty();
    let mut log = open(&collection).unwrap();
    log.append(&[record(1, 9)]).unwrap();
    log.sync = |_| Err(io::Error::other("the disk does not answer"));
    log.append(&[record(2, 9)]).unwrap_err();
    // It was folded from what is there to be read.
    let writer = collection.writer("test").unwrap();
    generation(&writer, "folded", 2);
    let error = log.truncate(&writer).unwrap_err();
    assert!(
        matches!(error, CollectionError::LogBroken { .. }),
        "{error}"
    );
    drop(log);
    let mut log = open(&collection).unwrap();
    assert!(log.truncate(&writer).unwrap() > 0);
    assert_eq!(log.append(&[record(3, 9)]).unwrap(), 3..4);
    assert_eq!(read(&collection, 2).unwrap(), [record(3, 9)]);
}
