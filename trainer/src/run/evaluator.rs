use std::collections::BTreeMap;
use std::path::PathBuf;

use corpus::CorpusError;
use encoder::training::TrainingError;
use encoder::{EncodeError, LoadError};

use crate::batches::Batches;
use crate::data::DataError;
use crate::objective::Objective;

/// Takes figures of a model that is being trained.
pub trait Evaluator<O: ?Sized> {
    /// Returns the names of the figures.
    ///
    /// # Errors
    /// [`EvaluatorError`], where a batch has to say it.
    fn names(&self, objective: &mut O) -> Result<Vec<String>, EvaluatorError>;

    /// Returns figures by name, such as `ndcg@10`.
    ///
    /// # Errors
    /// [`EvaluatorError`].
    fn evaluate(&mut self, objective: &mut O) -> Result<BTreeMap<String, f64>, EvaluatorError>;
}

/// Why figures cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluatorError {
    /// The model cannot be written, or its loss cannot be computed.
    #[error(transparent)]
    Model(#[from] TrainingError),
    /// What was written cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A text cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The dev set cannot be read.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// A held-out batch cannot be made.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Vectors cannot be written.
    #[error(transparent)]
    Write(#[from] index::WriteError),
    /// Vectors cannot be read.
    #[error(transparent)]
    Open(#[from] index::OpenError),
    /// A query's vector cannot be compared.
    #[error(transparent)]
    Search(#[from] index::SearchError),
    /// A ranking cannot be measured.
    #[error(transparent)]
    Measure(#[from] evaluation::EvaluationError),
    /// A file cannot be used.
    #[error("cannot use `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A dev set without a query that has a relevant passage.
    #[error("split `{split}` of `{}` has no query with a relevant passage", path.display())]
    NoQuery {
        /// The folder.
        path: PathBuf,
        /// The split.
        split: String,
    },
    /// A passage of a run is not among those of the dev set.
    #[error("passage `{id}` of `{}` is not in the dev set", path.display())]
    Missing {
        /// Its id.
        id: String,
        /// The run.
        path: PathBuf,
    },
    /// A run of other queries.
    #[error("`{}` ranks passages for no query of the dev set", path.display())]
    NoRanking {
        /// The run.
        path: PathBuf,
    },
}

/// The loss of held-out batches and the objective's own measures, without dropout: `loss`, and so on.
///
/// They are those of epoch 0, so that figures of two moments are of the same batches.
pub struct LossEvaluator<B> {
    /// The batches.
    pub batches: B,
}

impl<O, B> Evaluator<O> for LossEvaluator<B>
where
    O: Objective,
    B: Batches<Batch = O::Batch>,
{
    fn names(&self, objective: &mut O) -> Result<Vec<String>, EvaluatorError> {
        if self.batches.is_empty(0) {
            return Ok(Vec::new());
        }
        let report = objective.evaluate(&self.batches.batch(0, 0)?)?;
        let names = report.measures.into_keys().chain(["loss"]);
        Ok(names.map(str::to_owned).collect())
    }

    fn evaluate(&mut self, objective: &mut O) -> Result<BTreeMap<String, f64>, EvaluatorError> {
        let (mut sums, mut n_examples) = (BTreeMap::<String, f64>::new(), 0.0);
        for index in 0..self.batches.len(0) {
            let report = objective.evaluate(&self.batches.batch(0, index)?)?;
            let n = report.n_examples as f64;
            n_examples += n;
            let own = report.measures.into_iter().chain([("loss", report.loss)]);
            for (name, value) in own {
                *sums.entry(name.to_owned()).or_default() += n * value;
            }
        }
        sums.values_mut()
            .for_each(|sum| *sum /= n_examples.max(1.0));
        Ok(sums)
    }
}
