//! Calls to proxies that answer what their test tells them to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod calls;
mod retry;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use milvus::{Address, Cluster, Config, Distance, MilvusError, Search};
use testkit::{GrpcReply, GrpcServer};

/// A message as Milvus' Python client writes it (`tests/golden/milvus`).
fn golden(name: &str) -> Vec<u8> {
    let text = include_str!("../../../tests/golden/milvus/messages.json");
    let messages: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
    let digits = messages[name].as_bytes().chunks(2);
    let digits = digits.map(|pair| std::str::from_utf8(pair).unwrap());
    digits
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

/// A proxy that answers every call alike.
fn proxy(reply: GrpcReply) -> GrpcServer {
    GrpcServer::start(move |_| reply.clone())
}

fn cluster(proxies: &[&GrpcServer], timeout: Duration) -> Cluster {
    let address = Address {
        proxies: proxies
            .iter()
            .map(|proxy| proxy.address.to_string())
            .collect(),
        name: "docs".to_owned(),
        bucket: None,
    };
    let config = Config {
        timeout,
        admin_timeout: timeout,
        ..Config::default()
    };
    Cluster::new(&address, config).unwrap()
}

fn search(cluster: &Cluster, deadline: Option<Instant>) -> Result<Vec<Vec<u32>>, MilvusError> {
    let search = Search {
        collection: "docs_1".to_owned(),
        queries: vec![1.0, -2.0, 0.5, 0.25],
        width: 2,
        k: 3,
        distance: Distance::InnerProduct,
        ef: 128,
        expression: r#"json_contains(metadata["tag"], "a")"#.to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(cluster.search(search, deadline))
}
