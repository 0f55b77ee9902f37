//! What one of several devices computes, each with the queries and passages of a part of the batch.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{LossError, Result};

/// By what a device multiplies its loss. W is the number of devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradScale {
    /// 1: the mean of the devices' gradients is 1/W of the whole batch's (RetroMAE, FlagEmbedding).
    None,
    /// W: the mean is the gradient of the whole batch on one device (OpenMatch, Tevatron, SimLM).
    #[default]
    World,
}

/// Computes the loss of all devices' vectors as device `rank` does: the vectors of the others have come without their
/// graphs, so the gradient is that of its own part.
///
/// `queries` and `passages` hold the vectors of each device, (Bᵣ, H) and (Bᵣ·N, H). The result is the loss of the whole
/// batch times the factor of `scale`; devices train on the mean of their gradients. [`super::normalize`] and heads come
/// before.
///
/// trawl itself adds up the gradients of its ranks, which needs no factor; this states what other toolkits compute, so that
/// their figures can be compared.
///
/// # Errors
/// Those of `loss`; [`LossError::Setting`] for a rank that there is not.
pub fn device_loss(
    queries: &[Tensor],
    passages: &[Tensor],
    rank: usize,
    scale: GradScale,
    loss: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if rank >= queries.len() {
        return Err(LossError::Setting {
            name: "rank",
            value: rank as f64,
            rule: "it is below the number of devices",
        });
    }
    let loss = loss(&gather(queries, rank)?, &gather(passages, rank)?)?;
    Ok(match scale {
        GradScale::None => loss,
        GradScale::World => (loss * queries.len() as f64)?,
    })
}

/// All devices' rows, those of `rank` alone with their graph.
fn gather(parts: &[Tensor], rank: usize) -> Result<Tensor> {
    let part = |(device, part): (usize, &Tensor)| match device == rank {
        true => part.clone(),
        false => part.detach(),
    };
    let parts: Vec<Tensor> = parts.iter().enumerate().map(part).collect();
    Ok(Tensor::cat(&parts, 0)?)
}
