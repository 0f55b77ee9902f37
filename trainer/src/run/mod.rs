//! The one loop: steps, checkpoints, dev figures, early stopping, the exported model.
//!
//! [`train`] is the loop. It knows an objective only through [`Objective`](crate::Objective) and data only through
//! [`Batches`](crate::Batches), which have no state: a run is where it stands ([`RunDirectory`] keeps it) and nothing else.

mod ahead;
mod card;
mod checkpoint;
mod config;
mod dev;
mod directory;
mod ema;
mod error;
mod evaluator;
mod events;
mod lora;
mod metrics;
mod schedule;
mod train;

pub use card::{ModelCard, ModelKind};
pub use checkpoint::Best;
pub use config::{
    Every, OptimizerConfig, RunConfig, ScheduleConfig, ScheduleKind, TrainConfig, Warmup,
};
pub use dev::{DevConfig, DevSet, RerankEvaluator, SearchEvaluator};
pub use directory::RunDirectory;
pub use error::TrainError;
pub use evaluator::{Evaluator, EvaluatorError, LossEvaluator};
pub use lora::LoraConfig;
pub use metrics::StepLog;
pub use schedule::Schedule;
pub use train::{Describe, End, Event, Job, Plan, Summary, check, train};
