//! Milvus clusters named on the command line or in a configuration file.

use std::sync::Arc;
use std::time::Duration;

use milvus::{Address, Cluster, Config};
use retriever::Milvus;

use crate::commands::config::variables;

/// `user:password` for clusters that ask who they are used by.
const TOKEN: &str = "TRAWL_MILVUS_TOKEN";

/// Prepares connections to a cluster; a search of it gets so much time at one proxy.
pub fn open(address: &Address, timeout: Duration) -> anyhow::Result<Milvus> {
    let token = variables().find(|(name, _)| name == TOKEN);
    let config = Config {
        timeout,
        token: token.map(|(_, token)| token),
        ..Config::default()
    };
    Ok(Milvus {
        cluster: Arc::new(Cluster::new(address, config)?),
        name: address.name.clone(),
    })
}
