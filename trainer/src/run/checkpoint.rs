use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use encoder::training::{AdamW, Parameters};
use serde::{Deserialize, Serialize};

use super::directory::{self, RunDirectory, write_json};
use super::ema::Ema;
use super::error::TrainError;
use super::lora::Adapters;
use super::metrics::Interval;

/// Where a run stands between two steps. Nothing random has a state: masks, order and samples follow from seed and place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// The digest of the data.
    pub(super) data: u64,
    /// Steps of the optimizer.
    pub(super) step: u64,
    /// Batches since the run began.
    pub(super) n_batches: u64,
    /// The epoch of the next batch.
    pub(super) epoch: u64,
    /// The next batch in its epoch.
    pub(super) index: usize,
    pub(super) n_tokens: u64,
    /// Floating-point operations of matrix products.
    #[serde(default)]
    pub(super) n_operations: u64,
    pub(super) n_examples: u64,
    /// What was read of each epoch, by names.
    #[serde(default)]
    pub(super) epochs: BTreeMap<u64, BTreeMap<String, u64>>,
    /// What the log has not said yet.
    pub(super) interval: Interval,
    /// Dev figures by step.
    pub(super) dev: BTreeMap<u64, BTreeMap<String, f64>>,
    /// The best dev figure so far.
    pub(super) best: Option<Best>,
    /// Dev figures in a row that were no new best.
    pub(super) n_worse: u64,
    /// Mean loss of the first steps, once there are enough.
    pub(super) first_loss: Option<f64>,
    /// Losses of the last steps.
    pub(super) losses: Vec<f64>,
    /// Whether dev figures were taken after the present step.
    pub(super) is_evaluated: bool,
}

/// The best dev figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps before it.
    pub step: u64,
    /// The figure.
    pub value: f64,
}

/// Everything that a checkpoint holds beside [`State`].
pub(super) struct Weights<'a> {
    pub(super) model: &'a Parameters,
    pub(super) ema: Option<&'a Ema>,
    pub(super) adapters: Option<&'a Adapters>,
}

const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "ema.safetensors";
const ADAPTERS: &str = "adapters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

impl Weights<'_> {
    /// Writes a checkpoint, and removes those before the last `n_kept`, but for the best.
    pub(super) fn save(
        &self,
        run: &RunDirectory,
        state: &State,
        optimizer: &AdamW,
        n_kept: usize,
    ) -> Result<(), TrainError> {
        RunDirectory::publish(&run.checkpoint(state.step), |folder| {
            self.model.save(&folder.join(WEIGHTS))?;
            if let Some(ema) = self.ema {
                ema.save(&folder.join(AVERAGE))?;
            }
            if let Some(adapters) = self.adapters {
                adapters.save(&folder.join(ADAPTERS))?;
            }
            optimizer.save(&folder.join(OPTIMIZER))?;
            write_json(&folder.join(STATE), state)
        })?;
        let best = state.best.map(|best| best.step);
        let mut others = run.checkpoints()?;
        others.retain(|(step, _)| Some(*step) != best);
        let n_old = others.len().saturating_sub(n_kept);
        others
            .iter()
            .take(n_old)
            .try_for_each(|(_, folder)| directory::remove(folder))
    }

    /// Reads a checkpoint of the same model.
    pub(super) fn load(&self, folder: &Path, optimizer: &mut AdamW) -> Result<State, TrainError> {
        self.load_model(folder)?;
        optimizer.load(&folder.join(OPTIMIZER))?;
        let path = folder.join(STATE);
        let text = fs::read(&path).map_err(TrainError::file(&path))?;
        serde_json::from_slice(&text).map_err(|error| TrainError::Checkpoint {
            path,
            reason: error.to_string(),
        })
    }

    /// Reads the weights of a checkpoint.
    pub(super) fn load_model(&self, folder: &Path) -> Result<(), TrainError> {
        self.model.load(&folder.join(WEIGHTS))?;
        if let Some(ema) = self.ema {
            ema.load(&folder.join(AVERAGE))?;
        }
        if let Some(adapters) = self.adapters {
            adapters.load(&folder.join(ADAPTERS))?;
        }
        Ok(())
    }
}
