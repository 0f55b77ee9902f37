//! Numbers of a configuration that make no sense.

use encoder::training::TrainingError;

/// Refuses a number that is not above 0.
pub(super) fn above_0(name: &'static str, value: f64) -> Result<(), TrainingError> {
    let rule = "it is above 0";
    check(value.is_finite() && value > 0.0, name, value, rule)
}

/// Refuses a number that is below 0.
pub(super) fn at_least_0(name: &'static str, value: f64) -> Result<(), TrainingError> {
    let rule = "it is at least 0";
    check(value.is_finite() && value >= 0.0, name, value, rule)
}

/// Refuses a number that does not hold to its rule.
pub(super) fn check(
    holds: bool,
    name: &'static str,
    value: f64,
    rule: &'static str,
) -> Result<(), TrainingError> {
    match holds {
        true => Ok(()),
        false => Err(TrainingError::Setting { name, value, rule }),
    }
}

/// Refuses what is no probability of dropout.
pub(super) fn dropout(p: Option<f32>) -> Result<(), TrainingError> {
    let p = p.unwrap_or(0.0);
    let rule = "it is at least 0 and below 1";
    check((0.0..1.0).contains(&p), "dropout", p.into(), rule)
}
