use std::fmt;

use serde::de::Visitor;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use crate::object::object_or_null;

/// Whether the gate is asked, or what: `true` is `{}`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Gate {
    /// As it is, or not at all.
    Asked(bool),
    /// With other settings than the usual ones.
    With(Box<GateSettings>),
}

impl Default for Gate {
    fn default() -> Self {
        Self::Asked(true)
    }
}

impl<'de> Deserialize<'de> for Gate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GateVisitor)
    }
}

struct GateVisitor;

impl<'de> Visitor<'de> for GateVisitor {
    type Value = Gate;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a boolean or an object")
    }

    fn visit_bool<E: de::Error>(self, asked: bool) -> Result<Gate, E> {
        Ok(Gate::Asked(asked))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Gate, A::Error> {
        GateSettings::deserialize(MapAccessDeserializer::new(map))
            .map(|with| Gate::With(with.into()))
    }
}

/// What a generation has to reach; the names are those of `gate.toml`. What is left out is as usual.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"n_queries": 500, "require": {"overlap": {"min": 0.7}, "ndcg": {"max_drop": "2%"}}}))]
pub struct GateSettings {
    /// Questions at most: titles, or first words, of passages that both have. 200 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub n_queries: Option<usize>,
    /// Hits of each that are looked at. 10 unless given. Limit: `limits.top_k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub k: Option<usize>,
    /// Decides which are drawn. 1 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub seed: Option<i64>,
    /// Rows that are made anew and compared with the stored ones. 256 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rows: Option<usize>,
    /// Whether the model may be another. `same` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<GateFingerprint>,
    /// What measures have to be; one that is given takes the place of its usual limits.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub require: Option<GateRequirements>,
}

/// Which fingerprints a generation may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateFingerprint {
    /// That of the generation it replaces.
    Same,
    /// Any that the server has the model of.
    Any,
}

macro_rules! requirements {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What each measure has to be.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct GateRequirements {$(
            $(#[$doc])*
            #[serde(
                default,
                deserialize_with = "object_or_null",
                skip_serializing_if = "Option::is_none"
            )]
            pub $name: Option<GateLimit>,
        )*}
    };
}

requirements! {
    /// Part of the k nearest rows that its own search finds. 0.9 or more unless given.
    recall,
    /// nDCG@k. At most 5 % less than that of the generation it replaces unless given.
    ndcg,
    /// MRR@k, likewise.
    mrr,
    /// Part of the k hits of the other that are its own, too. 0.5 or more unless given.
    overlap,
    /// Mean difference of the scores of hits that both have.
    score_drift,
    /// 95th percentile of the time of one search, in milliseconds.
    latency_p95_ms,
    /// Its bytes.
    bytes,
    /// Its passages. At most 20 % less unless given.
    passages,
}

/// The limits of a measure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GateLimit {
    /// It must not be less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// It must not be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// It must not be less than that of the generation it replaces by more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<GateChange>,
    /// It must not be more than that by more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rise: Option<GateChange>,
}

/// How far a measure may move: by so much, or by a part of what it was, such as `5%`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a number, or a part of live's value such as \"5%\""
)]
pub enum GateChange {
    /// By so much.
    Absolute(f64),
    /// By so many hundredths, with `%`.
    Percent(String),
}
