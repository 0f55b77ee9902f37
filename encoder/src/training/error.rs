use std::path::PathBuf;

use crate::error::{EncodeError, LoadError};

/// Why a training step or its preparation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainingError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Texts do not fit the model.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A device does not train such a model.
    #[error("{device} cannot train this model: {reason}")]
    Unsupported {
        /// As in `cuda:0`.
        device: String,
        /// What of it.
        reason: String,
    },
    /// The gradient of a parameter holds NaN or infinity.
    #[error("gradient of `{parameter}` is not finite")]
    NotFinite {
        /// Its name.
        parameter: String,
    },
    /// The loss of a batch is NaN or infinite.
    #[error("the loss is {value}")]
    Loss {
        /// What it is.
        value: f64,
    },
    /// A setting makes no sense.
    #[error("{name} is {value}; {rule}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What is accepted.
        rule: &'static str,
    },
    /// Settings that do not go together.
    #[error("{reason}")]
    Settings {
        /// Which, and why.
        reason: &'static str,
    },
    /// What other processes of the run were to give did not come.
    #[error(transparent)]
    Peers(Box<dyn std::error::Error + Send + Sync>),
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of optimizer state does not fit the parameters.
    #[error("optimizer state `{}`: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}
