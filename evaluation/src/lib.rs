//! Measures over judgments and runs, and the significance of their differences.
//!
//! Definitions, ties and averaging are those of `trec_eval`: [`evaluate`] with [`Averaging::Intersection`] equals
//! `pytrec_eval`, with [`Averaging::Complete`] `trec_eval -c`. [`Profile`] names the conventions of other evaluators.

mod answer;
mod config;
mod measure;
mod ranking;
mod report;
mod significance;

pub use answer::{Answers, evaluate_answers};
pub use config::{Averaging, EvaluationConfig, Profile, ScorePrecision, Ties, UnknownProfile};
pub use measure::{Measure, MeasureError, MeasureKind};
pub use report::{EvaluationError, QueryReport, Report, evaluate};
pub use significance::{CompareError, ComparisonConfig, Significance, compare};
