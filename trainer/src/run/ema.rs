use std::path::Path;

use encoder::training::{Kind, Parameters, TrainingError};

/// A running average of weights: after each step, `a ← d a + (1 − d) θ`.
///
/// Deviation from Polyak & Juditsky's mean of all steps: the average forgets, as is usual for networks. It starts from
/// the first weights, so no correction of a start from 0 is needed.
pub(super) struct Ema {
    keep: f64,
    average: Parameters,
}

impl Ema {
    pub(super) fn new(parameters: &Parameters, keep: f64) -> Result<Self, TrainingError> {
        let mut average = Parameters::new();
        for parameter in parameters.iter() {
            average.insert(
                parameter.name(),
                parameter.shape(),
                parameter.values()?,
                Kind::Plain,
            )?;
        }
        Ok(Self { keep, average })
    }

    pub(super) fn update(&self, parameters: &Parameters) -> Result<(), TrainingError> {
        parameters.settle()?;
        for (parameter, average) in parameters.iter().zip(self.average.iter()) {
            let mut values = average.values()?;
            for (a, x) in values.iter_mut().zip(parameter.values()?) {
                *a = (self.keep * f64::from(*a) + (1.0 - self.keep) * f64::from(x)) as f32;
            }
            average.set_values(&values)?;
        }
        Ok(())
    }

    /// Calls `work` while the parameters have the values of the average.
    pub(super) fn during<R>(
        &self,
        parameters: &Parameters,
        work: impl FnOnce() -> R,
    ) -> Result<R, TrainingError> {
        let own: Vec<Vec<f32>> = parameters
            .iter()
            .map(|parameter| parameter.values())
            .collect::<Result<_, _>>()?;
        for (parameter, average) in parameters.iter().zip(self.average.iter()) {
            parameter.set_values(&average.values()?)?;
        }
        let result = work();
        for (parameter, own) in parameters.iter().zip(&own) {
            parameter.set_values(own)?;
        }
        Ok(result)
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), TrainingError> {
        self.average.save(path)
    }

    pub(super) fn load(&self, path: &Path) -> Result<(), TrainingError> {
        self.average.load(path)
    }
}
