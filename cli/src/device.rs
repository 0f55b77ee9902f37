//! `--device`: where models are computed and vectors searched.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, Once, PoisonError};

use compute::accelerator::cuda;
use compute::accelerator::{AcceleratorError, SharedAccelerator};
use serde::{Deserialize, Serialize};

use crate::model;

/// Where to compute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// All devices of CUDA, or the processors where there are none.
    Auto,
    Cpu,
    /// Devices of CUDA, by number.
    Cuda(Vec<usize>),
}

/// A text that names no devices.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is none of `auto`, `cpu`, `cuda:0`, `cuda:0,cuda:1` and so on")]
pub struct UnknownDevice(String);

impl Default for DeviceChoice {
    /// `auto` where trawl is built for CUDA.
    fn default() -> Self {
        if cfg!(feature = "cuda") {
            Self::Auto
        } else {
            Self::Cpu
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let number = |device: &str| device.strip_prefix("cuda:")?.parse().ok();
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => text
                .split(',')
                .map(number)
                .collect::<Option<_>>()
                .map(Self::Cuda)
                .ok_or_else(|| UnknownDevice(text.to_owned())),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = UnknownDevice;

    fn try_from(text: String) -> Result<Self, UnknownDevice> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(numbers) => {
                let names: Vec<_> = numbers.iter().map(|n| format!("cuda:{n}")).collect();
                formatter.write_str(&names.join(","))
            }
        }
    }
}

impl DeviceChoice {
    /// Opens the devices, none for the processors. A device is opened once by a process.
    ///
    /// # Errors
    /// [`AcceleratorError`] of a device that was named. `auto` takes those that can be opened, else the processors, and says so.
    pub fn open(&self) -> Result<Vec<SharedAccelerator>, AcceleratorError> {
        match self {
            Self::Cpu => Ok(Vec::new()),
            Self::Cuda(numbers) => numbers.iter().map(|&number| open(number)).collect(),
            Self::Auto => match all() {
                Ok(opened) => Ok(opened),
                Err(error) => {
                    static SAID: Once = Once::new();
                    SAID.call_once(|| tracing::warn!("{error}; the CPU computes"));
                    Ok(Vec::new())
                }
            },
        }
    }

    /// Opens one device, none for the processors: of several processes on a machine each takes one by its number.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_one(&self, process: usize) -> Result<Option<SharedAccelerator>, AcceleratorError> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(numbers) => open(numbers[process % numbers.len()]).map(Some),
            Self::Auto => {
                let n_devices = cuda::info().map_or(0, |info| info.devices.len());
                if n_devices > 0
                    && let Ok(device) = open(process % n_devices)
                {
                    return Ok(Some(device));
                }
                Ok(self.open()?.into_iter().next())
            }
        }
    }
}

fn all() -> Result<Vec<SharedAccelerator>, AcceleratorError> {
    let (mut opened, mut failed) = (Vec::new(), Vec::new());
    for number in 0..cuda::info()?.devices.len() {
        match open(number) {
            Ok(device) => opened.push(device),
            Err(error) => failed.push(error),
        }
    }
    match failed.pop() {
        Some(error) if opened.is_empty() => Err(error),
        Some(error) => {
            tracing::warn!("{error}; the other devices compute");
            Ok(opened)
        }
        None => Ok(opened),
    }
}

fn open(number: usize) -> Result<SharedAccelerator, AcceleratorError> {
    static OPENED: Mutex<BTreeMap<usize, SharedAccelerator>> = Mutex::new(BTreeMap::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&number) {
        return Ok(device.clone());
    }
    let device = cuda::open(number, model::kernel_cache().as_deref())?;
    let info = device.info();
    tracing::info!(device = info.name, model = info.model, "opened");
    opened.insert(number, device.clone());
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_one_by_one() {
        for (text, expected) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(vec![0])),
            ("cuda:1,cuda:0", DeviceChoice::Cuda(vec![1, 0])),
        ] {
            let choice: DeviceChoice = text.parse().unwrap();
            assert_eq!(choice, expected);
            assert_eq!(choice.to_string(), text);
        }
        for text in [
            "", "gpu", "cuda", "cuda:", "cuda:0,", "cuda:-1", "cuda:0,1", "CPU",
        ] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
