use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use openapi::{Limits, Version};

use crate::state::App;

/// Which program answers
#[utoipa::path(
    get, path = "/v1/version", tag = "operation", operation_id = "version",
    responses((status = 200, description = "Name and version", body = Version)),
)]
pub(super) async fn version() -> Json<Version> {
    Json(Version {
        name: "trawl".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// What requests may ask for at most
#[utoipa::path(
    get, path = "/v1/limits", tag = "operation", operation_id = "limits",
    responses((status = 200, description = "The limits of this server", body = Limits)),
)]
pub(super) async fn limits(State(app): State<App>) -> Json<Limits> {
    let config = &app.config;
    let limits = serde_json::to_value(config.limits).expect("limits are numbers with names");
    let limits: BTreeMap<String, u64> =
        serde_json::from_value(limits).expect("limits are numbers with names");
    let limits = limits.into_iter();
    let mut settings: BTreeMap<String, u64> = limits
        .map(|(name, limit)| (format!("limits.{name}"), limit))
        .collect();
    for (name, limit) in [
        ("server.max_body", config.max_body_bytes as u64),
        (
            "server.default_timeout",
            config.default_timeout.as_millis() as u64,
        ),
        ("server.max_timeout", config.max_timeout.as_millis() as u64),
    ] {
        settings.insert(name.to_owned(), limit);
    }
    Json(Limits { settings })
}
