//! A collection without documents.

use collection::{
    BuildMode, Collection, Counts, Generation, Manifest, Start, Templates, sha256_hex,
};
use corpus::Schema;
use encoder::BiEncoder;
use index::Metric;
use serde_json::json;
use store::{StoreConfig, StoreWriter};

use crate::digest::content_digest;
use crate::first_pass::{check_graph, check_query_template, to_value};
use crate::progress::{NoProgress, Watch};
use crate::source::{Source, external};
use crate::{BuildConfig, BuildError};

/// Where the vectors of documents to come will be from.
#[derive(Clone, Copy)]
pub enum VectorSource<'a> {
    /// An encoder makes them.
    Encoder(&'a BiEncoder),
    /// Documents bring them.
    Brought {
        /// Values of a vector.
        width: usize,
        /// How vectors are compared.
        metric: Metric,
    },
}

/// Makes a collection with one generation that has no passages, ready for documents; `schema` has the fields of their metadata.
/// Of `config` the corpus is not read.
///
/// # Errors
/// [`BuildError`]; [`BuildError::Exists`] when the collection has generations.
pub fn create(
    config: &BuildConfig,
    schema: &Schema,
    vectors: VectorSource<'_>,
) -> Result<Generation, BuildError> {
    check_query_template(config)?;
    config.passage_template.check_fields(schema)?;
    let (width, metric, fingerprint, invariant) = match vectors {
        VectorSource::Encoder(encoder) => {
            let source = Source::Encoder(encoder);
            source.splitter(config)?;
            let fingerprint = source.fingerprint(config);
            (
                source.width(),
                source.metric(),
                fingerprint,
                source.batch_invariant(),
            )
        }
        VectorSource::Brought { .. } if config.stride.is_some() => {
            return Err(BuildError::SplitVectors);
        }
        VectorSource::Brought { width, metric } => (width, metric, external(width, metric), true),
    };
    if !(1..=index::MAX_WIDTH).contains(&width) {
        let max = index::MAX_WIDTH;
        return Err(index::WriteError::Width { width, max }.into());
    }
    check_graph(config, width)?;
    let collection = Collection::create(&config.collection)?;
    let writer = collection.writer("create a collection")?;
    if !collection.generations()?.is_empty() {
        return Err(BuildError::Exists {
            path: config.collection.clone(),
        });
    }
    let spec = json!({
        "spec_version": 1,
        "fingerprint": fingerprint.digest(),
        "schema": to_value(schema),
        "build": to_value(config),
    });
    let Start::Build(building) = writer.begin(&spec, BuildMode::Restart)? else {
        unreachable!("a restarted build is never done");
    };
    let store = StoreConfig {
        language: config.language,
        schema: schema.clone(),
        ..StoreConfig::default()
    };
    StoreWriter::create(building.path(), &store)?.finish()?;
    let watch = Watch {
        progress: &NoProgress,
        cancelled: &false.into(),
    };
    let contents = Manifest {
        fingerprint_digest: fingerprint.digest(),
        fingerprint: to_value(&fingerprint),
        corpus_digest: sha256_hex(b""),
        content_digest: content_digest(building.path(), &[], watch)?,
        counts: Counts::default(),
        width,
        metric: metric.as_str().to_owned(),
        batch_invariant: invariant,
        templates: Templates {
            passage: config.passage_template.as_str().to_owned(),
            query: config.query_template.as_str().to_owned(),
        },
        schema: to_value(schema),
        build: to_value(config),
        ..Manifest::default()
    };
    Ok(writer.promote(&building, contents)?)
}
