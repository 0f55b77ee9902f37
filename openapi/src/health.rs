use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether the server lives, or is ready for requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// The state.
    pub status: HealthStatus,
}

/// A state of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// The process answers.
    Live,
    /// Every model and collection gave the known answer.
    Ready,
}
