//! The collection of format version 1 that is kept: this release opens it and would build the same.

use collection::{Collection, FORMAT_VERSION};
use corpus::{CorpusConfig, CorpusReader, Passage};
use index::FlatShard;
use indexer::BuildConfig;
use store::Store;

use crate::{config, run};

#[test]
fn a_collection_of_format_version_1_opens() {
    assert_eq!(
        FORMAT_VERSION, 1,
        "a new version needs a fixture of its own, and this one still has to open"
    );
    let root = testkit::fixture("collection-v1");
    let kept = Collection::open(&root).unwrap().resolve("live").unwrap();
    let faults = kept.verify(|_| ());
    assert!(faults.is_empty(), "{faults:?}");

    let corpus = CorpusConfig {
        paths: vec![root.join("passages.jsonl")],
        ..CorpusConfig::default()
    };
    let passages: Vec<Passage> = CorpusReader::open(&corpus)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let ordinals: Vec<u32> = (0..10).collect();
    let store = Store::open(&kept.path, store::Verify::Checksums).unwrap();
    assert_eq!(store.passages(&ordinals).unwrap(), passages);
    assert_eq!(store.ordinal_of("lamp").unwrap(), Some(7));
    assert_eq!(
        store.search_lexical("melting tungsten", 1, None).unwrap()[0].ordinal,
        7
    );

    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder.path().join("c"), &root.join("passages.jsonl"));
    let built = run(&BuildConfig {
        n_shards: 2,
        ..config
    })
    .unwrap();
    assert_eq!((built.counts, built.live), (kept.manifest.counts, true));
    for shard in &kept.manifest.shards {
        let open = |path: &std::path::Path| {
            FlatShard::open(&path.join(&shard.path), index::Verify::Checksums).unwrap()
        };
        let (old, new) = (open(&kept.path), open(&built.path));
        for i in 0..shard.n_rows as usize {
            let close = old
                .row(i)
                .iter()
                .zip(&*new.row(i))
                .all(|(a, b)| (a - b).abs() <= 1e-5);
            assert!(
                close,
                "row {i} from {}: {:?} and {:?}",
                shard.first_ordinal,
                old.row(i),
                new.row(i)
            );
        }
    }
}
