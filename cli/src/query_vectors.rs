//! Queries that were made vectors elsewhere.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use index::Metric;
use vectors::{VectorFile, ZeroRows};

use crate::failure::{Exit, Failure};

/// Flags that name a file of query vectors.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Queries as vectors")]
pub struct QueryVectorArgs {
    /// Vectors in place of texts, without a model: .npy, .fvecs, .bvecs, .safetensors; needs `--ids` and `--run-out`.
    #[arg(long, value_name = "FILE", requires_all = ["ids", "run_out"], conflicts_with_all = ["query", "queries", "lexical", "hybrid", "rerank", "model"])]
    vectors: Option<PathBuf>,
    /// Text file with the id of each vector's query, one a line.
    #[arg(long, value_name = "FILE", requires = "vectors")]
    pub ids: Option<PathBuf>,
    /// Tensor of `--vectors` (default: its only two-dimensional one).
    #[arg(long, value_name = "NAME", requires = "vectors")]
    vectors_name: Option<String>,
}

/// Ids and vectors of queries, in the order of their lines.
pub struct QueryVectors(pub Vec<(String, Vec<f32>)>);

impl QueryVectorArgs {
    /// Whether vectors were named.
    pub fn given(&self) -> bool {
        self.vectors.is_some()
    }

    /// Reads them for an index of `width` that compares by `metric`; `None` when none were named.
    pub fn read(&self, width: usize, metric: &str) -> anyhow::Result<Option<QueryVectors>> {
        let (Some(path), Some(ids)) = (&self.vectors, &self.ids) else {
            return Ok(None);
        };
        let file = VectorFile::open(path, self.vectors_name.as_deref())?;
        if file.width() != width {
            let (path, found) = (path.display(), file.width());
            let text = format!("`{path}` has width {found}, the index {width}");
            return Err(Failure::new(Exit::BadInput, text).into());
        }
        let ids = read_ids(ids, file.n_rows())?;
        let zero_rows = match metric {
            metric if metric == Metric::Cosine.as_str() => ZeroRows::Refused,
            _ => ZeroRows::Allowed,
        };
        let values = file.read_all(zero_rows)?;
        let rows = values.chunks_exact(width).map(<[f32]>::to_vec);
        Ok(Some(QueryVectors(ids.into_iter().zip(rows).collect())))
    }
}

fn read_ids(path: &Path, n_rows: u64) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text); // a byte order mark
    let ids: Vec<String> = text.lines().map(str::to_owned).collect();
    let bad = |text| Err(Failure::new(Exit::BadInput, text).into());
    if ids.len() as u64 != n_rows {
        let (path, n_ids) = (path.display(), ids.len());
        return bad(format!("`{path}` has {n_ids} ids for {n_rows} vectors"));
    }
    let mut seen = HashSet::new();
    match ids.iter().position(|id| !seen.insert(id)) {
        Some(line) => bad(format!(
            "{}:{}: two vectors have the id `{}`",
            path.display(),
            line + 1,
            ids[line]
        )),
        None => Ok(ids),
    }
}
