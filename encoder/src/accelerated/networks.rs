//! A transformer on several devices, which divide texts between them.

use std::sync::atomic::Ordering;
use std::thread;

use compute::accelerator::{AcceleratorError, DeviceInfo, MatrixType};

use super::groups::{Group, Groups};
use super::network::{Network, Wanted};
use crate::architecture::Architecture;
use crate::batch;
use crate::cross_encoder::HeadWeights;
use crate::error::EncodeError;
use crate::options::AcceleratorConfig;
use crate::tokenizer::Tokens;
use crate::weights::Weights;

/// Fewer tokens than this are not worth another device.
const LEAST_TOKENS: usize = 2048;

/// A transformer whose weights are on each of some devices.
pub(crate) struct Networks {
    /// At least one.
    networks: Vec<Network>,
    batch_tokens: usize,
}

/// What a device computed, and why it stopped before all was done, if it did.
type Outcome = (Vec<(Group, Vec<f32>)>, Result<(), AcceleratorError>);

impl Networks {
    /// Uploads weights to each device.
    ///
    /// # Errors
    /// [`AcceleratorError`], such as that there is no room.
    pub(crate) fn new(
        architecture: &Architecture,
        weights: &Weights,
        head: Option<&HeadWeights>,
        of: MatrixType,
        config: &AcceleratorConfig,
    ) -> Result<Self, AcceleratorError> {
        let networks = config
            .devices
            .iter()
            .map(|device| Network::new(architecture, weights, head, of, device));
        Ok(Self {
            networks: networks.collect::<Result<_, _>>()?,
            batch_tokens: config.batch_tokens,
        })
    }

    /// The devices.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &DeviceInfo> {
        self.networks.iter().map(Network::device)
    }

    /// Computes what is wanted of each text, in the order of the input.
    ///
    /// Each device takes one group of texts of about equal length after the other, the long ones first. A group that it has no room for is
    /// divided, and so are those that it takes after that; a text that one has no room for is left to the others.
    ///
    /// # Errors
    /// [`AcceleratorError`]; [`AcceleratorError::OutOfMemory`] when no device has room for one of the texts.
    pub(crate) fn encode(
        &self,
        texts: &[Tokens],
        wanted: Wanted<'_>,
    ) -> Result<Vec<f32>, EncodeError> {
        let groups = Groups::new(texts);
        let computed = self
            .compute(&groups, wanted)
            .map_err(|error| EncodeError::Accelerator(Box::new(error)))?;
        let n_values = |text: &Tokens| self.networks[0].n_values(text, wanted);
        let computed = computed
            .iter()
            .map(|(group, rows)| (groups.numbers(group), rows.as_slice()));
        Ok(batch::in_order_of_input(texts, n_values, computed))
    }

    fn compute(
        &self,
        groups: &Groups<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Vec<(Group, Vec<f32>)>, AcceleratorError> {
        let share = groups.n_tokens().div_ceil(self.networks.len());
        let most_tokens = self.batch_tokens.min(share.max(LEAST_TOKENS));
        // The idle ones first.
        let mut networks: Vec<&Network> = self.networks.iter().collect();
        networks.sort_by_cached_key(|network| network.n_running.load(Ordering::Relaxed));
        let mut computed = Vec::new();
        let mut no_room = None;
        loop {
            let firsts: Vec<(&Network, Group)> = networks
                .iter()
                .map_while(|&network| Some((network, groups.take(most_tokens)?)))
                .collect();
            if firsts.is_empty() {
                break;
            }
            for (network, (some, result)) in run_all(groups, wanted, most_tokens, firsts) {
                computed.extend(some);
                match result {
                    Ok(()) => {}
                    Err(error @ AcceleratorError::OutOfMemory { .. }) => {
                        networks.retain(|other| !std::ptr::eq(*other, network));
                        no_room.get_or_insert(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            // Texts that are left now are those that a device had no room for, when the others were done.
            if networks.is_empty()
                && !groups.is_empty()
                && let Some(error) = no_room
            {
                return Err(error);
            }
        }
        Ok(computed)
    }
}

/// Lets each network take groups until none is left, the first one on this thread.
fn run_all<'a>(
    groups: &Groups<'_>,
    wanted: Wanted<'_>,
    most_tokens: usize,
    firsts: Vec<(&'a Network, Group)>,
) -> Vec<(&'a Network, Outcome)> {
    let run = |network: &Network, first: Group| -> Outcome {
        let mut computed = Vec::new();
        let result = network.compute(groups, (first, most_tokens), wanted, &mut computed);
        (computed, result)
    };
    thread::scope(|scope| {
        let mut firsts = firsts.into_iter();
        let here = firsts.next();
        let others: Vec<_> = firsts
            .map(|(network, first)| (network, scope.spawn(move || run(network, first))))
            .collect();
        let here = here.map(|(network, first)| (network, run(network, first)));
        let others = others.into_iter().map(|(network, thread)| {
            let outcome = thread.join();
            let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (network, outcome)
        });
        here.into_iter().chain(others).collect()
    })
}
