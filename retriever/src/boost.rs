use std::time::SystemTime;

use corpus::{FieldKind, Schema};
use serde::Serialize;
use serde_json::Value;
use store::{FieldFault, FilterError, SelectError, View, field_kind};

use crate::SearchError;
use crate::candidates::Candidate;

/// What is added to the scores of passages for the values that they have in a field.
///
/// A passage gains `weight · f(x)`; of several values x the one with the greatest f counts, and without a value it gains
/// nothing. Dates are seconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct Boost {
    /// An integer, float or (for a decay) date field.
    pub field: String,
    /// What becomes of a value.
    pub function: BoostFunction,
    /// How much it counts; below zero, it takes away.
    pub weight: f64,
    /// Which scores it is added to.
    pub stage: BoostStage,
}

/// What becomes of a value x.
#[derive(Clone, Debug, PartialEq)]
pub enum BoostFunction {
    /// Falls with the distance from an origin, `d = max(0, |x − origin| − offset)`, as Elasticsearch defines it: 1 at the
    /// origin, `decay` at the distance `scale`.
    Decay {
        /// How it falls.
        shape: DecayShape,
        /// A number; for dates a date or `"now"`.
        origin: Value,
        /// A number above 0; for dates a duration such as `"30d"` (s, m, h, d, w).
        scale: Value,
        /// As `scale`, and may be 0: values so near have the full 1.
        offset: Option<Value>,
        /// Between 0 and 1.
        decay: f64,
    },
    /// `ln(1 + max(x, 0))`.
    Log1p,
    /// `x`.
    Linear,
}

/// How a decay falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecayShape {
    /// `exp(d · ln(decay) / scale)`.
    Exponential,
    /// `exp(d² · ln(decay) / scale²)`.
    Gauss,
    /// `max(0, 1 − d · (1 − decay) / scale)`.
    Linear,
}

/// Which scores a boost is added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BoostStage {
    /// Those of the first stage, after fusion: it decides which passages the cross-encoder reads.
    #[default]
    Retrieval,
    /// Those of the cross-encoder.
    Rerank,
}

/// What a boost added to the score of one passage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Boosted {
    /// The field.
    pub field: String,
    /// The function.
    pub function: &'static str,
    /// Which score it was added to.
    pub stage: BoostStage,
    /// The value that counted; dates are seconds since 1970. None where the passage has none.
    pub input: Option<f64>,
    /// What the function made of it.
    pub value: f64,
    /// That times the weight.
    pub contribution: f64,
}

const NUMBERS: &[FieldKind] = &[FieldKind::Integer, FieldKind::Float];
const MOMENTS: &[FieldKind] = &[FieldKind::Integer, FieldKind::Float, FieldKind::Date];

impl BoostFunction {
    /// Its name, as requests have it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Decay { shape, .. } => match shape {
                DecayShape::Exponential => "exp_decay",
                DecayShape::Gauss => "gauss_decay",
                DecayShape::Linear => "linear_decay",
            },
            Self::Log1p => "log1p",
            Self::Linear => "linear",
        }
    }
}

/// A boost in the terms of the fields of a collection.
pub(crate) struct Scorer<'a> {
    boost: &'a Boost,
    curve: Curve,
}

#[derive(Clone, Copy)]
enum Curve {
    Decay {
        shape: DecayShape,
        origin: f64,
        scale: f64,
        offset: f64,
        decay: f64,
    },
    Log1p,
    Linear,
}

impl<'a> Scorer<'a> {
    /// Resolves boosts against the fields of a collection. All of them mean the same moment by `"now"`.
    ///
    /// # Errors
    /// [`FilterError`], placed from the list of boosts on.
    pub fn resolve(boosts: &'a [Boost], schema: &Schema) -> Result<Vec<Self>, FilterError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0.0, |now| now.as_secs() as f64);
        let boosts = boosts.iter().enumerate();
        boosts
            .map(|(position, boost)| {
                let curve = Curve::resolve(boost, schema, now);
                let curve = curve.map_err(|(entry, fault)| FilterError {
                    pointer: format!("/{position}/{entry}"),
                    fault,
                })?;
                Ok(Self { boost, curve })
            })
            .collect()
    }

    pub fn stage(&self) -> BoostStage {
        self.boost.stage
    }

    /// Adds the boosts of a stage to the scores of passages and puts these in order: by score, ties as they were.
    pub fn apply(
        scorers: &[Self],
        stage: BoostStage,
        passages: &mut [Candidate],
        view: &View,
    ) -> Result<(), SearchError> {
        let ordinals: Vec<u32> = passages.iter().map(|passage| passage.ordinal).collect();
        let mut sums = vec![0.0; passages.len()];
        for scorer in scorers.iter().filter(|scorer| scorer.boost.stage == stage) {
            let values = view.values(&scorer.boost.field, &ordinals);
            let values = values.map_err(|error| match error {
                SelectError::Filter(error) => SearchError::Boosts(error),
                SelectError::Store(error) => SearchError::Store(error),
            })?;
            for ((passage, sum), values) in passages.iter_mut().zip(&mut sums).zip(values) {
                let numbers = values.iter().filter_map(store::FieldValue::as_number);
                let boosted = scorer.boosted(numbers);
                *sum += boosted.contribution;
                passage.boosts.push(boosted);
            }
        }
        for (passage, sum) in passages.iter_mut().zip(sums) {
            // Rounded once, and never so large that JSON has no number for it.
            let score = f64::from(passage.score) + sum;
            passage.score = (score as f32).clamp(f32::MIN, f32::MAX);
        }
        passages.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(())
    }

    fn boosted(&self, numbers: impl Iterator<Item = f64>) -> Boosted {
        let valued = numbers.map(|x| (x, self.curve.at(x)));
        let best = valued.max_by(|a, b| a.1.total_cmp(&b.1));
        let value = best.map_or(0.0, |(_, value)| value);
        let contribution = self.boost.weight * value;
        Boosted {
            field: self.boost.field.clone(),
            function: self.boost.function.name(),
            stage: self.boost.stage,
            input: best.map(|(x, _)| x),
            value,
            contribution: contribution.clamp(f64::from(f32::MIN), f64::from(f32::MAX)),
        }
    }
}

impl Curve {
    /// Resolves one boost; a fault comes with the entry of the boost that it is in.
    fn resolve(
        boost: &Boost,
        schema: &Schema,
        now: f64,
    ) -> Result<Self, (&'static str, FieldFault)> {
        let (field, name) = (boost.field.as_str(), boost.function.name());
        let kinds = match boost.function {
            BoostFunction::Decay { .. } => MOMENTS,
            BoostFunction::Log1p | BoostFunction::Linear => NUMBERS,
        };
        let kind = field_kind(field, schema, name, kinds).map_err(|fault| ("field", fault))?;
        let wrong = |entry, expected, found: &Value| {
            (entry, FieldFault::value(field, kind, expected, found))
        };
        if !boost.weight.is_finite() {
            let expected = "a finite number";
            return Err(wrong("weight", expected, &Value::from(boost.weight)));
        }
        let BoostFunction::Decay {
            shape,
            origin,
            scale,
            offset,
            decay,
        } = &boost.function
        else {
            return Ok(match boost.function {
                BoostFunction::Log1p => Self::Log1p,
                _ => Self::Linear,
            });
        };
        let is_date = kind == FieldKind::Date;
        let distance = |value: &Value| match is_date {
            true => value.as_str().and_then(seconds),
            false => value.as_f64(),
        };
        let moment = match (is_date, origin.as_str()) {
            (true, Some("now")) => Some(now),
            (true, date) => date.and_then(corpus::parse_date).map(|date| {
                let nanoseconds = date.unix_timestamp_nanos();
                nanoseconds.div_euclid(1000) as f64 / 1e6
            }),
            (false, _) => origin.as_f64(),
        };
        let Some(moment) = moment else {
            let expected = match is_date {
                true => "a date (2026-11-20 or RFC 3339) or `now`",
                false => "a number",
            };
            return Err(wrong("origin", expected, origin));
        };
        let Some(width) = distance(scale).filter(|scale| *scale > 0.0) else {
            let expected = match is_date {
                true => "a duration above 0, such as `30d` (s, m, h, d, w)",
                false => "a number above 0",
            };
            return Err(wrong("scale", expected, scale));
        };
        let margin = offset.as_ref().map_or(Some(0.0), distance);
        let Some(margin) = margin.filter(|offset| *offset >= 0.0) else {
            let expected = match is_date {
                true => "a duration, such as `1d` (s, m, h, d, w)",
                false => "a number from 0 on",
            };
            return Err(wrong(
                "offset",
                expected,
                offset.as_ref().unwrap_or(&Value::Null),
            ));
        };
        if !(*decay > 0.0 && *decay < 1.0) {
            let expected = "a number between 0 and 1, both excluded";
            return Err(wrong("decay", expected, &Value::from(*decay)));
        }
        Ok(Self::Decay {
            shape: *shape,
            origin: moment,
            scale: width,
            offset: margin,
            decay: *decay,
        })
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Self::Decay {
                shape,
                origin,
                scale,
                offset,
                decay,
            } => {
                let distance = ((x - origin).abs() - offset).max(0.0) / scale;
                match shape {
                    DecayShape::Exponential => (decay.ln() * distance).exp(),
                    DecayShape::Gauss => (decay.ln() * distance * distance).exp(),
                    DecayShape::Linear => (1.0 - distance * (1.0 - decay)).max(0.0),
                }
            }
            Self::Log1p => x.max(0.0).ln_1p(),
            Self::Linear => x,
        }
    }
}

/// Reads `90s`, `30d` and the like.
fn seconds(text: &str) -> Option<f64> {
    let unit = text.chars().last()?;
    let of_unit = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        'd' => 86_400.0,
        'w' => 604_800.0,
        _ => return None,
    };
    let number: f64 = text[..text.len() - 1].trim_end().parse().ok()?;
    Some(number * of_unit).filter(|seconds| seconds.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decay_is_one_at_the_origin_and_as_asked_at_its_scale() {
        for (shape, half, twice) in [
            (DecayShape::Exponential, 0.25_f64.sqrt(), 0.0625),
            (DecayShape::Gauss, 0.25_f64.powf(0.25), 0.25_f64.powi(4)),
            (DecayShape::Linear, 0.625, 0.0),
        ] {
            let curve = Curve::Decay {
                shape,
                origin: 100.0,
                scale: 10.0,
                offset: 5.0,
                decay: 0.25,
            };
            for (x, expected) in [
                (100.0, 1.0),
                (95.0, 1.0),
                (110.0, half),
                (115.0, 0.25),
                (85.0, 0.25),
                (
                    125.0,
                    if shape == DecayShape::Linear {
                        0.0
                    } else {
                        twice
                    },
                ),
                (
                    75.0,
                    if shape == DecayShape::Linear {
                        0.0
                    } else {
                        twice
                    },
                ),
            ] {
                assert!((curve.at(x) - expected).abs() < 1e-12, "{shape:?} {x}");
            }
        }
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, expected) in [
            ("90s", Some(90.0)),
            ("1.5m", Some(90.0)),
            ("2h", Some(7200.0)),
            ("30d", Some(2_592_000.0)),
            ("1w", Some(604_800.0)),
            ("30", None),
            ("d", None),
            ("", None),
            ("3é", None),
            ("infd", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
