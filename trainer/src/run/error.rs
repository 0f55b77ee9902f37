use std::path::{Path, PathBuf};

use encoder::training::TrainingError;

use crate::data::DataError;
use crate::ranks::CollectiveError;

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting makes no sense.
    #[error("`{key}` is not {rule}")]
    Setting {
        /// Its key.
        key: &'static str,
        /// What it should be.
        rule: &'static str,
    },
    /// There is nothing to train on, or nothing to be trained.
    #[error("there is nothing to train{hint}")]
    Nothing {
        /// Why.
        hint: &'static str,
    },
    /// Names that a setting lists and the model does not have.
    #[error("`{key}` names `{name}`, and no parameter is called so")]
    UnknownParameter {
        /// The key of the setting.
        key: &'static str,
        /// What it names.
        name: String,
    },
    /// A part of names that no matrix has which could get an adapter.
    #[error(
        "`lora.targets` names `{name}`, and no matrix of the layers that is neither frozen nor in `lora.train` is called so"
    )]
    UnknownTarget {
        /// What it names.
        name: String,
    },
    /// Two parameters have one name, so that a checkpoint could not hold both.
    #[error("two parameters are called `{name}`")]
    RepeatedParameter {
        /// The name.
        name: String,
    },
    /// The objective cannot be trained by several ranks.
    #[error("this run is for one process, not for {world_size}: {reason}")]
    Unshareable {
        /// How many there are.
        world_size: usize,
        /// Why not.
        reason: &'static str,
    },
    /// Other ranks are missing, or do not go along.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    /// A batch cannot be made.
    #[error("batch {index} of epoch {epoch} cannot be made")]
    Data {
        /// The epoch.
        epoch: u64,
        /// The batch in it.
        index: usize,
        /// What is wrong.
        source: DataError,
    },
    /// A step failed, or its loss or gradient is not finite; the weights are those of the step before.
    #[error("step {step} failed; its examples are listed in `{}`", batch.display())]
    Step {
        /// The step, counted from 1.
        step: u64,
        /// The file that names the examples.
        batch: Box<Path>,
        /// What is wrong.
        source: Box<TrainingError>,
    },
    /// The loss of a batch is NaN or infinite.
    #[error("the loss of step {step} is {loss}; its examples are listed in `{}`", batch.display())]
    Loss {
        /// The step, counted from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// The file that names the examples.
        batch: Box<Path>,
    },
    /// The loss has grown out of all proportion.
    #[error(
        "the run diverges: the mean loss of the {n_steps} steps up to step {step} is {loss:.4}, that of the first was \
         {first:.4}; the last examples are listed in `{}`", batch.display()
    )]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// Steps of a mean.
        n_steps: usize,
        /// Mean loss of the last ones.
        loss: f64,
        /// Mean loss of the first ones.
        first: f64,
        /// The file that names the examples of the last step.
        batch: Box<Path>,
    },
    /// The model cannot be changed, written or read.
    #[error(transparent)]
    Model(#[from] TrainingError),
    /// Dev figures cannot be taken.
    #[error("dev figures cannot be taken")]
    Evaluation(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The measure that decides is not among the dev figures.
    #[error(
        "`run.measure` is `{measure}`, {}{}",
        if found.is_empty() { "and no dev figures are taken" } else { "the dev figures are " },
        found.join(", ")
    )]
    UnknownMeasure {
        /// The measure.
        measure: String,
        /// The figures that there are.
        found: Vec<String>,
    },
    /// Two kinds of dev figures have one name, so that one would take the other's place.
    #[error("two dev figures are called `{name}`")]
    RepeatedMeasure {
        /// The name.
        name: String,
    },
    /// A file of the run directory cannot be written or read.
    #[error("cannot use `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A new run in a folder that holds another one, or something else.
    #[error("`{}` holds something already", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// There is no run to go on with.
    #[error("`{}` holds no run", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// Another process works in the folder.
    #[error("`{}` is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A run is resumed with other data.
    #[error("the data are not those that `{}` was trained on", path.display())]
    OtherData {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A run is resumed with another configuration.
    #[error("`{}` was started with another configuration: it has `{recorded}`, not `{given}`", path.display())]
    OtherConfig {
        /// The recorded configuration.
        path: PathBuf,
        /// The first of its lines that differs.
        recorded: String,
        /// What stands there now.
        given: String,
    },
    /// A file of a checkpoint is not what it should be.
    #[error("checkpoint `{}`: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl TrainError {
    /// What a failure of the model is: that of other ranks is none of its own.
    pub(super) fn of_model(error: TrainingError) -> Self {
        match error {
            TrainingError::Peers(source) => match source.downcast() {
                Ok(source) => Self::Ranks(*source),
                Err(source) => Self::Model(TrainingError::Peers(source)),
            },
            error => Self::Model(error),
        }
    }

    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
