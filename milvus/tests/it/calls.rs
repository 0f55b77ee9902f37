use std::fmt::Debug;
use std::time::Duration;

use milvus::{Cluster, Description, Distance, Hnsw, Import, MilvusError, NewCollection};
use testkit::{GrpcReply, GrpcServer};

use crate::{cluster, golden, proxy, search};

const PATIENT: Duration = Duration::from_secs(60);

/// Makes a call, and compares what was sent and what was made of the answer.
fn check<T: Debug + PartialEq>(
    call: &str,
    (request, answer): (&str, &str),
    made: impl Fn(&Cluster) -> Result<T, MilvusError>,
    expected: T,
) {
    let answer = if answer.is_empty() {
        Vec::new()
    } else {
        golden(answer)
    };
    let request = if request.is_empty() {
        Vec::new()
    } else {
        golden(request)
    };
    let proxy = proxy(GrpcReply::Message(answer));
    assert_eq!(
        made(&cluster(&[&proxy], PATIENT)).unwrap(),
        expected,
        "{call}"
    );
    let path = format!("/milvus.proto.milvus.MilvusService/{call}");
    assert_eq!(proxy.asked(), [(path, request)]);
}

#[test]
fn collections_are_asked_for() {
    let described = Description {
        name: "docs_1".to_owned(),
        text: "about".to_owned(),
        width: Some(2),
        aliases: vec!["docs".to_owned()],
    };
    let describe = |cluster: &Cluster| cluster.describe("docs_1");
    check(
        "DescribeCollection",
        ("describe", "described"),
        describe,
        Some(described),
    );
    check(
        "DescribeCollection",
        ("describe", "refused"),
        describe,
        None,
    );
    check(
        "ShowCollections",
        ("", "collections"),
        Cluster::collections,
        vec!["docs_1".to_owned(), "docs_2".to_owned()],
    );
    check(
        "GetCollectionStatistics",
        ("statistics", "counted"),
        |cluster| cluster.n_rows("docs_1"),
        16_349,
    );
}

#[test]
fn collections_are_made_filled_and_dropped() {
    let new = NewCollection {
        name: "docs_1".to_owned(),
        description: "about".to_owned(),
        width: 2,
        has_metadata: true,
        n_shards: 2,
    };
    check(
        "CreateCollection",
        ("create_collection", ""),
        |cluster| cluster.create(&new),
        (),
    );
    let files = || vec!["a/ordinal.npy".to_owned(), "a/vector.npy".to_owned()];
    check(
        "Import",
        ("import", "importing"),
        |cluster| cluster.import("docs_1", files()),
        7,
    );
    check(
        "GetImportState",
        ("import_state", "imported"),
        |cluster| cluster.import_state(7),
        Import::Done,
    );
    let hnsw = Hnsw {
        m: 16,
        ef_construction: 200,
    };
    check(
        "CreateIndex",
        ("create_index", ""),
        |cluster| cluster.create_index("docs_1", hnsw, Distance::L2),
        (),
    );
    check(
        "DescribeIndex",
        ("describe_index", "index"),
        |cluster| cluster.indexed_rows("docs_1"),
        5,
    );
    check(
        "LoadCollection",
        ("load", ""),
        |cluster| cluster.load("docs_1", 2),
        (),
    );
    check(
        "GetLoadingProgress",
        ("progress", "progressed"),
        |cluster| cluster.load_progress("docs_1"),
        50,
    );
    check(
        "DropCollection",
        ("drop", ""),
        |cluster| cluster.drop_collection("docs_1"),
        (),
    );
}

#[test]
fn an_alias_is_made_or_altered() {
    for (named, call) in [("described", "AlterAlias"), ("refused", "CreateAlias")] {
        let proxy = GrpcServer::start(move |path| {
            let is_question = path.ends_with("DescribeCollection");
            GrpcReply::Message(if is_question {
                golden(named)
            } else {
                Vec::new()
            })
        });
        cluster(&[&proxy], PATIENT)
            .set_alias("docs", "docs_2")
            .unwrap();
        let (path, request) = proxy.asked().pop().unwrap();
        assert!(path.ends_with(call), "{path}");
        let expected = [b"\x1a\x06docs_2".as_slice(), b"\x22\x04docs"].concat();
        assert_eq!(request, expected);
    }
}

#[test]
fn queries_are_sent_together() {
    let proxy = proxy(GrpcReply::Message(golden("found")));
    let found = search(&cluster(&[&proxy], PATIENT), None).unwrap();
    assert_eq!(found, [vec![4, 1], vec![300]]);
    let path = "/milvus.proto.milvus.MilvusService/Search".to_owned();
    assert_eq!(proxy.asked(), [(path, golden("search"))]);
}
