//! `--device`: where vectors are searched.

use std::fmt;
use std::str::FromStr;

use compute::accelerator::cuda::{self, KernelCache};
use compute::accelerator::{AcceleratorError, SharedAccelerator};
use serde::{Deserialize, Serialize};

use crate::model;
use crate::output::Output;

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
                for (i, number) in numbers.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(formatter, "{comma}cuda:{number}")?;
                }
                Ok(())
            }
        }
    }
}

impl DeviceChoice {
    /// Opens the devices, none for the processors, and says which they are.
    ///
    /// # Errors
    /// [`AcceleratorError`] of a device that was named. `auto` falls back to the processors where CUDA is not available, and says so.
    pub fn open(&self, output: &Output) -> Result<Vec<SharedAccelerator>, AcceleratorError> {
        let opened = match self {
            Self::Cpu => return Ok(Vec::new()),
            Self::Cuda(numbers) => open(numbers.iter().copied())?,
            Self::Auto => match cuda::info().and_then(|cuda| open(0..cuda.devices.len())) {
                Ok(opened) => opened,
                Err(error @ AcceleratorError::NotAvailable { .. }) => {
                    output.remark(format!("{error}; the CPU searches"));
                    return Ok(Vec::new());
                }
                Err(error) => return Err(error),
            },
        };
        for device in &opened {
            let info = device.info();
            let gib = info.total_bytes as f64 / (1_u64 << 30) as f64;
            output.remark(format!("{}: {}, {gib:.0} GiB", info.name, info.model));
        }
        Ok(opened)
    }
}

/// Opens devices by number, a device that is named twice once.
fn open(numbers: impl Iterator<Item = usize>) -> Result<Vec<SharedAccelerator>, AcceleratorError> {
    let cache = KernelCache {
        folder: model::kernel_cache(),
    };
    let mut opened: Vec<(usize, SharedAccelerator)> = Vec::new();
    let mut devices = Vec::new();
    for number in numbers {
        let known = opened.iter().find(|(known, _)| *known == number);
        let device = match known {
            Some((_, device)) => device.clone(),
            None => cuda::open(number, &cache)?,
        };
        opened.push((number, device.clone()));
        devices.push(device);
    }
    Ok(devices)
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
