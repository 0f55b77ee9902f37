//! Publishing to a Milvus cluster, before and after the alias of the collection is changed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use collection::Generation;
use indexer::{MilvusConfig, MilvusReport, MilvusWatch, publish_to_milvus, switch_in_milvus};
use milvus::Address;
use objects::Location;
use retriever::{Milvus, Published};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::{interrupt, milvus as cluster, storage};

/// Which cluster searches the vectors of a collection.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Milvus")]
pub struct ToMilvusArgs {
    /// Put the vectors into a Milvus cluster first (docs/milvus.md); the alias NAME there changes with that of the collection.
    /// `bucket` is the object storage that the cluster itself uses, and where files are left that it imports.
    #[arg(long, value_name = "milvus://HOST:PORT[,..]/NAME?bucket=URL")]
    to: Option<Address>,
    /// Groups of query nodes that each hold all vectors.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "to", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: u16,
    /// The least part of the true ten nearest, over 200 passages, that the cluster finds; 0 compares nothing.
    #[arg(long, value_name = "0..1", default_value_t = MilvusConfig::default().min_recall, requires = "to")]
    min_recall: f64,
}

/// Time of a search while answers are compared, which nobody waits for.
const PATIENT: Duration = Duration::from_secs(20);

impl ToMilvusArgs {
    pub fn is_given(&self) -> bool {
        self.to.is_some()
    }

    /// Puts a generation into the cluster, where one is named.
    pub fn fill(&self, generation: &Generation, output: &Output) -> anyhow::Result<Option<Filled>> {
        let Some(address) = &self.to else {
            return Ok(None);
        };
        let bucket = address.bucket.as_deref().ok_or_else(|| {
            Failure::usage(format!("`{address}` names no bucket")).hint(
                "the cluster imports from its own object storage: `?bucket=s3://BUCKET/FOLDER`",
            )
        })?;
        let location = Location::parse(bucket)?;
        if !(0.0..=1.0).contains(&self.min_recall) {
            let text = format!("--min-recall is {}, expected 0 to 1", self.min_recall);
            return Err(Failure::usage(text).into());
        }
        let config = MilvusConfig {
            n_replicas: usize::from(self.replicas),
            min_recall: self.min_recall,
            n_queries: match self.min_recall > 0.0 {
                true => MilvusConfig::default().n_queries,
                false => 0,
            },
            ..MilvusConfig::default()
        };
        let milvus = cluster::open(address, PATIENT)?;
        let bucket = storage::open(&location)?;
        let (progress, cancelled) = (Progress::new(output), interrupt::flag()?);
        let start = Instant::now();
        let watch = MilvusWatch {
            on_rows: &|step, done, total| progress.update(step, "passages", done, total),
            cancelled: &cancelled,
        };
        let report = publish_to_milvus(generation, &milvus, &bucket, &config, watch);
        progress.finish();
        let id = &generation.id;
        let report = report.with_context(|| format!("cannot put `{id}` into `{address}`"))?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Some(Filled {
            milvus,
            generation: generation.clone(),
            report,
            seconds,
            dropped: Vec::new(),
        }))
    }
}

/// A generation that a cluster holds.
pub struct Filled {
    milvus: Milvus,
    generation: Generation,
    report: MilvusReport,
    seconds: f64,
    dropped: Vec<String>,
}

impl Filled {
    /// Makes the alias in the cluster name it.
    pub fn switch(&mut self) -> anyhow::Result<()> {
        self.dropped = switch(&self.milvus, &self.generation)?;
        Ok(())
    }

    pub fn json(&self) -> Value {
        json!({
            "collection": self.report.collection,
            "rows": self.report.n_rows,
            "was_there": self.report.was_there,
            "recall": self.report.recall,
            "seconds": self.seconds,
            "dropped": self.dropped,
        })
    }

    pub fn show(&self) -> String {
        let MilvusReport {
            collection,
            n_rows,
            was_there,
            recall,
        } = &self.report;
        let verb = if *was_there { "holds" } else { "imported" };
        let recall = recall.map_or(String::new(), |recall| format!(", recall@10 {recall:.4}"));
        format!(
            "Milvus {verb} {n_rows} passages in `{collection}`{recall}, {:.1} s\n",
            self.seconds
        )
    }
}

/// The cluster that a rollback is to be followed by, which holds the generation that it leads to.
pub fn holder(address: &Address, generation: &Generation) -> anyhow::Result<Milvus> {
    let milvus = cluster::open(address, PATIENT)?;
    let name = Published::collection(&milvus.name, &generation.id);
    Published::check(&milvus.cluster, &name, &generation.manifest)
        .with_context(|| format!("`{address}` cannot answer for `{}`", generation.id))?;
    Ok(milvus)
}

/// Makes the alias in a cluster name a generation; returns the collections that were dropped.
pub fn switch(milvus: &Milvus, generation: &Generation) -> anyhow::Result<Vec<String>> {
    switch_in_milvus(generation, milvus)
        .with_context(|| format!("Milvus does not call `{}` by its alias", generation.id))
}

/// Says that generations elsewhere are not put into a cluster.
pub fn refuse_elsewhere(path: &Path) -> anyhow::Error {
    let text = format!(
        "`{}` is in object storage: `--to` takes a folder",
        path.display()
    );
    Failure::usage(text)
        .hint("`index pull` copies a generation into one")
        .into()
}
