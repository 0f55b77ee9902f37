//! Boosts, order and pins between the API and the retriever.

use std::collections::HashSet;

use openapi::FieldError;
use retriever::{Boost, BoostFunction, BoostStage, Boosted, DecayShape, Explanation, Pin};
use retriever::{Sort, SortOrder};
use serde_json::Value;

use crate::Limits;
use crate::faults::Faults;

/// The decay at the distance `scale` where nobody names one.
const DEFAULT_DECAY: f64 = 0.5;

/// Reads a boost as it came over the network. Whether its field is there and of the right kind is for the collection to say.
///
/// # Errors
/// Every entry that is missing or has no effect, with its place below `pointer`.
pub fn read_boost(boost: openapi::Boost, pointer: &str) -> Result<Boost, Vec<FieldError>> {
    let mut faults = Faults::default();
    let boost = read(boost, pointer, &mut faults);
    match boost {
        Some(boost) if faults.0.is_empty() => Ok(boost),
        _ => Err(faults.0),
    }
}

fn read(boost: openapi::Boost, pointer: &str, faults: &mut Faults) -> Option<Boost> {
    let openapi::Boost {
        field,
        function,
        weight,
        stage,
        origin,
        scale,
        offset,
        decay,
    } = boost;
    let shape = match function {
        openapi::BoostFunction::ExpDecay => Some(DecayShape::Exponential),
        openapi::BoostFunction::GaussDecay => Some(DecayShape::Gauss),
        openapi::BoostFunction::LinearDecay => Some(DecayShape::Linear),
        openapi::BoostFunction::Log1p | openapi::BoostFunction::Linear => None,
    };
    let function = if let Some(shape) = shape {
        let mut required = |entry: &str, value: Option<Value>| {
            if value.is_none() {
                faults.add(&format!("{pointer}/{entry}"), "missing", "is missing");
            }
            value
        };
        let (origin, scale) = (required("origin", origin), required("scale", scale));
        BoostFunction::Decay {
            shape,
            origin: origin?,
            scale: scale?,
            offset,
            decay: decay.unwrap_or(DEFAULT_DECAY),
        }
    } else {
        for (entry, is_given) in [
            ("origin", origin.is_some()),
            ("scale", scale.is_some()),
            ("offset", offset.is_some()),
            ("decay", decay.is_some()),
        ] {
            if is_given {
                let text = "has an effect with a decay only";
                faults.add(&format!("{pointer}/{entry}"), "conflict", text);
            }
        }
        match function {
            openapi::BoostFunction::Log1p => BoostFunction::Log1p,
            _ => BoostFunction::Linear,
        }
    };
    Some(Boost {
        field,
        function,
        weight,
        stage: match stage {
            openapi::BoostStage::Retrieval => BoostStage::Retrieval,
            openapi::BoostStage::Rerank => BoostStage::Rerank,
        },
    })
}

/// The boosts of a request.
pub(crate) fn resolve_boosts(
    boosts: Vec<openapi::Boost>,
    is_reranked: bool,
    limits: &Limits,
    faults: &mut Faults,
) -> Vec<Boost> {
    faults.range("/boosts", boosts.len(), 0, limits.boosts, "limits.boosts");
    let mut read = Vec::with_capacity(boosts.len().min(limits.boosts));
    for (position, boost) in boosts.into_iter().take(limits.boosts).enumerate() {
        let pointer = format!("/boosts/{position}");
        if boost.stage == openapi::BoostStage::Rerank && !is_reranked {
            let text = "has an effect with `rerank` only";
            faults.add(&format!("{pointer}/stage"), "conflict", text);
        }
        match read_boost(boost, &pointer) {
            Ok(boost) => read.push(boost),
            Err(of_boost) => faults.0.extend(of_boost),
        }
    }
    read
}

/// The order of a request.
pub(crate) fn resolve_sort(sort: openapi::Sort) -> Sort {
    Sort {
        field: sort.field,
        order: match sort.order {
            openapi::SortOrder::Asc => SortOrder::Asc,
            openapi::SortOrder::Desc => SortOrder::Desc,
        },
    }
}

/// The pins of a request.
pub(crate) fn resolve_pins(
    pins: Vec<openapi::Pin>,
    limits: &Limits,
    faults: &mut Faults,
) -> Vec<Pin> {
    faults.range("/pins", pins.len(), 0, limits.pins, "limits.pins");
    let (mut ids, mut ranks) = (HashSet::new(), HashSet::new());
    for (position, pin) in pins.iter().take(limits.pins).enumerate() {
        let rank = format!("/pins/{position}/rank");
        faults.range(&rank, pin.rank, 1, limits.window, "limits.window");
        if !ids.insert(&pin.id) {
            let id = format!("/pins/{position}/id");
            faults.add(&id, "duplicate", "is there twice");
        }
        if !ranks.insert(pin.rank) {
            faults.add(&rank, "duplicate", "is there twice");
        }
    }
    let read = |openapi::Pin { id, rank }| Pin { id, rank };
    pins.into_iter().map(read).collect()
}

/// An explanation as it goes over the network.
#[must_use]
pub fn write_explanation(explanation: Explanation) -> openapi::HitExplanation {
    let boost = |boosted: Boosted| openapi::HitBoost {
        field: boosted.field,
        function: boosted.function.to_owned(),
        stage: match boosted.stage {
            BoostStage::Retrieval => openapi::BoostStage::Retrieval,
            BoostStage::Rerank => openapi::BoostStage::Rerank,
        },
        input: boosted.input,
        value: boosted.value,
        contribution: boosted.contribution,
    };
    openapi::HitExplanation {
        first_stage: explanation.first_stage,
        rank_prior: explanation.rank_prior,
        boosts: explanation.boosts.into_iter().map(boost).collect(),
    }
}
