use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::accelerated::{Resident, failed, squared_norms};
use super::engine::Engine;
use super::error::TrainingError;
use super::function::{self, AdamWStep, IdleSteps};
use super::parameter::{Gradient, Inner, Parameter, Parameters, Stored, save};

/// Settings of [`AdamW`], with the names of the paper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// β₁: share of the first moment that a step keeps.
    pub beta1: f64,
    /// β₂: share of the second moment that a step keeps.
    pub beta2: f64,
    /// ε: added to the root of the second moment.
    pub epsilon: f64,
    /// λ: share of a weight that a step takes away, times the learning rate; biases and normalizations have none.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// Those of PyTorch.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

/// Adam with decoupled weight decay: Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2, as PyTorch has it.
///
/// With gradient g, learning rate η and step t:
/// `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
/// `θ ← θ (1 − η λ) − η · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)`.
///
/// A parameter that no backward pass has reached is left alone, as PyTorch leaves one without gradient.
///
/// **Lazy tables.** A row that a batch has not seen has gradient 0, and yet the rule above decays and moves it. Those
/// steps are put off until the row is read, or a whole table is, and then taken at once: over idle steps i = s+1…t the
/// moments shrink by β₁ⁿ and β₂ⁿ, so all updates are multiples of one, `m / (√v + ε′)`, and their factors add up row by
/// row in f64. Deviation from the dense rule: ε′ = ε √((1 − β₂ˢ⁺¹) / β₂) is that of the first idle step for all of them,
/// which matters only where √v is near ε; factors below 1e-12 of the first are left out. With β₁ above β₂, or β₂ = 0, √v
/// comes near ε before m is small, so each of the steps is taken then.
pub struct AdamW {
    config: AdamWConfig,
    parameters: Parameters,
    engine: Arc<Engine>,
}

/// Values that one thread updates at a time.
const CHUNK: usize = 1 << 16;

impl AdamW {
    /// Makes an optimizer for these parameters.
    ///
    /// # Errors
    /// [`TrainingError::Setting`].
    pub fn new(
        parameters: &Parameters,
        config: AdamWConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = config;
        let below_1 = "it is at least 0 and below 1";
        for (name, value, is_fine, rule) in [
            ("beta1", beta1, (0.0..1.0).contains(&beta1), below_1),
            ("beta2", beta2, (0.0..1.0).contains(&beta2), below_1),
            ("epsilon", epsilon, epsilon as f32 > 0.0, "it is above 0"),
            (
                "weight decay",
                weight_decay,
                weight_decay >= 0.0,
                "it is at least 0",
            ),
        ] {
            if !is_fine {
                return Err(TrainingError::Setting { name, value, rule });
            }
        }
        Ok(Self {
            config,
            parameters: parameters.clone(),
            engine: engine.clone(),
        })
    }

    /// Takes one step with what the backward passes have added up, forgets the gradients, and returns their global
    /// norm; where that is above `max_norm`, gradients are scaled down to it first.
    ///
    /// # Errors
    /// [`TrainingError::NotFinite`] before anything is changed, [`TrainingError::Setting`].
    pub fn step(
        &mut self,
        learning_rate: f64,
        max_norm: Option<f64>,
    ) -> Result<f64, TrainingError> {
        if !(learning_rate.is_finite() && learning_rate >= 0.0) {
            return Err(TrainingError::Setting {
                name: "learning rate",
                value: learning_rate,
                rule: "it is finite and at least 0",
            });
        }
        let norm = self.norm()?;
        let gradient_scale = match max_norm {
            Some(max_norm) if norm > max_norm => max_norm / (norm + 1e-6), // as PyTorch clips
            _ => 1.0,
        };
        let mut guards: Vec<_> = self
            .parameters
            .iter()
            .map(|parameter| (parameter, parameter.write()))
            .collect();
        let residents = guards
            .iter_mut()
            .filter_map(|(_, inner)| inner.resident.as_mut());
        for resident in residents.filter(|resident| resident.has_gradient()) {
            resident.prepare().map_err(failed)?;
        }
        let mut work = Vec::new();
        for (parameter, guard) in &mut guards {
            let inner = &mut **guard;
            let weight_decay = if parameter.decays() {
                self.config.weight_decay
            } else {
                0.0
            };
            if let Some(resident) = inner.resident.as_mut().filter(|one| one.has_gradient()) {
                let numbers = (weight_decay, learning_rate, gradient_scale);
                let step = AdamWStep::new(&self.config, resident.next_step(), numbers);
                resident.step(&step).map_err(failed)?;
                inner.is_stale = true;
                parameter.changed();
            }
            if inner.gradient.is_empty() {
                continue;
            }
            let moments = inner
                .moments
                .get_or_insert_with(|| Moments::new(parameter, inner.values.len()));
            let step = moments.advance(&self.config, weight_decay, learning_rate, gradient_scale);
            moments.mark(&inner.gradient);
            parameter.changed();
            if inner.gradient.is_dense {
                let steps = inner
                    .values
                    .chunks_mut(CHUNK)
                    .zip(inner.gradient.values.chunks(CHUNK))
                    .zip(
                        moments
                            .first
                            .chunks_mut(CHUNK)
                            .zip(moments.second.chunks_mut(CHUNK)),
                    );
                work.extend(steps.map(|((values, gradient), (first, second))| {
                    (step, values, gradient, first, second)
                }));
                continue;
            }
            // The rows seen, in ascending order, each cut out of what lies behind the one before.
            let width = parameter.width();
            let mut order: Vec<usize> = (0..inner.gradient.rows.len()).collect();
            order.sort_unstable_by_key(|&slot| inner.gradient.rows[slot]);
            let mut rest = (
                &mut inner.values[..],
                &mut moments.first[..],
                &mut moments.second[..],
            );
            let mut start = 0;
            for slot in order {
                let row = inner.gradient.rows[slot] as usize;
                let skip = row * width - start;
                let cut = |slice| split_row(slice, skip, width);
                let ((values, rest_values), (first, rest_first), (second, rest_second)) =
                    (cut(rest.0), cut(rest.1), cut(rest.2));
                rest = (rest_values, rest_first, rest_second);
                start = (row + 1) * width;
                let gradient = &inner.gradient.row_values[slot * width..][..width];
                work.push((step, values, gradient, first, second));
            }
        }
        let simd = self.engine.kernel.simd;
        let mut batches: Vec<_> = batches(work);
        self.engine.run(&mut batches, |batch| {
            for (step, values, gradient, first, second) in batch {
                function::adamw(simd, values, gradient, first, second, *step);
            }
        });
        drop(batches);
        for (_, inner) in &mut guards {
            inner.gradient.clear();
        }
        Ok(norm)
    }

    /// The norm of all gradients together; rows to be updated are brought up to date on the way.
    fn norm(&self) -> Result<f64, TrainingError> {
        let simd = self.engine.kernel.simd;
        let mut squares: Vec<(&Arc<Parameter>, f64)> = self
            .parameters
            .iter()
            .map(|parameter| (parameter, 0.0))
            .collect();
        self.engine.run(&mut squares, |(parameter, square)| {
            let Inner {
                values,
                gradient,
                moments,
                ..
            } = &mut *parameter.write();
            gradient.merge(parameter.width());
            if gradient.is_empty() {
                return;
            }
            *square = function::squared_norm(simd, gradient.present());
            if let Some(moments) = moments {
                if gradient.is_dense {
                    moments.catch_up_all(values);
                } else {
                    moments.catch_up(&gradient.rows, values, parameter.width());
                }
            }
        });
        self.add_device_norms(&mut squares)?;
        if let Some((parameter, _)) = squares.iter().find(|(_, square)| !square.is_finite()) {
            return Err(TrainingError::NotFinite {
                parameter: parameter.name().to_owned(),
            });
        }
        Ok(squares.iter().map(|(_, square)| square).sum::<f64>().sqrt())
    }

    /// The same of gradients on a device.
    fn add_device_norms(
        &self,
        squares: &mut [(&Arc<Parameter>, f64)],
    ) -> Result<(), TrainingError> {
        let guards: Vec<_> = self
            .parameters
            .iter()
            .map(|parameter| parameter.write())
            .collect();
        let (residents, squares): (Vec<&Resident>, Vec<&mut f64>) = guards
            .iter()
            .zip(squares)
            .filter_map(|(inner, (_, square))| Some((inner.resident.as_ref()?, square)))
            .filter(|(resident, _)| resident.has_gradient())
            .unzip();
        for (square, on_device) in squares
            .into_iter()
            .zip(squared_norms(&residents).map_err(failed)?)
        {
            *square = on_device;
        }
        Ok(())
    }

    /// Writes moments, step counts and what rows of tables have put off to a safetensors file.
    ///
    /// A run that goes on and a run that starts again from [`Parameters::save`] and then this file take equal steps, and
    /// so does one that was never saved: nothing is brought up to date here.
    ///
    /// # Errors
    /// [`TrainingError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), TrainingError> {
        let mut tensors = Vec::new();
        for parameter in self.parameters.iter() {
            let (inner, name) = (parameter.write(), parameter.name());
            let shape = parameter.shape().to_vec();
            let mut put = |end: &str, shape: Vec<usize>, values: Stored| {
                tensors.push((format!("{name}.{end}"), shape, values));
            };
            let on_device = inner.resident.as_ref().map(Resident::moments);
            if let Some((n_steps, [first, second])) =
                on_device.transpose().map_err(failed)?.flatten()
            {
                put("steps", vec![1], Stored::U64(vec![n_steps]));
                put("first", shape.clone(), Stored::F32(first));
                put("second", shape, Stored::F32(second));
                continue;
            }
            let Some(moments) = &inner.moments else {
                continue;
            };
            put("steps", vec![1], Stored::U64(vec![moments.n_steps]));
            put("first", shape.clone(), Stored::F32(moments.first.clone()));
            put("second", shape.clone(), Stored::F32(moments.second.clone()));
            if parameter.is_table() {
                let history: Vec<f64> = moments
                    .history
                    .iter()
                    .flat_map(|&(rate, sum)| [rate, sum])
                    .collect();
                put("values", shape, Stored::F32(inner.values.clone()));
                put(
                    "row_steps",
                    vec![moments.row_steps.len()],
                    Stored::U64(moments.row_steps.clone()),
                );
                put(
                    "history",
                    vec![moments.history.len(), 2],
                    Stored::F64(history),
                );
            }
        }
        save(path, tensors)
    }

    /// Reads what [`Self::save`] wrote. Parameters that the file does not name start from zero moments.
    ///
    /// # Errors
    /// [`TrainingError::State`].
    pub fn load(&mut self, path: &Path) -> Result<(), TrainingError> {
        let refuse = |reason: String| TrainingError::State {
            path: path.to_path_buf(),
            reason,
        };
        let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes)
            .map_err(|error| refuse(error.to_string()))?;
        let read = |name: &str, dtype: safetensors::Dtype, n: Option<usize>| {
            let tensor = tensors
                .tensor(name)
                .map_err(|error| refuse(format!("{name}: {error}")))?;
            let found = tensor.shape().iter().product::<usize>();
            if tensor.dtype() != dtype || n.is_some_and(|n| found != n) {
                let expected = n.unwrap_or(found);
                return Err(refuse(format!(
                    "{name} is {:?} {:?}, not {expected} {dtype:?}",
                    tensor.dtype(),
                    tensor.shape()
                )));
            }
            Ok(tensor.data().to_vec())
        };
        let floats = |name: &str, n: usize| {
            let bytes = read(name, safetensors::Dtype::F32, Some(n))?;
            let (floats, _) = bytes.as_chunks::<4>();
            Ok::<_, TrainingError>(
                floats
                    .iter()
                    .map(|&bytes| f32::from_le_bytes(bytes))
                    .collect::<Vec<f32>>(),
            )
        };
        let numbers = |name: &str, n: usize| {
            let bytes = read(name, safetensors::Dtype::U64, Some(n))?;
            let (numbers, _) = bytes.as_chunks::<8>();
            Ok::<_, TrainingError>(
                numbers
                    .iter()
                    .map(|&bytes| u64::from_le_bytes(bytes))
                    .collect::<Vec<u64>>(),
            )
        };
        for parameter in self.parameters.iter() {
            let name = |end: &str| format!("{}.{end}", parameter.name());
            let n = parameter.shape().iter().product();
            drop(parameter.read()?);
            if tensors.tensor(&name("steps")).is_err() {
                let inner = &mut *parameter.write();
                inner.moments = None;
                if let Some(resident) = &mut inner.resident {
                    resident.set_moments(None).map_err(failed)?;
                }
                continue;
            }
            let n_steps = numbers(&name("steps"), 1)?[0];
            let (first, second) = (floats(&name("first"), n)?, floats(&name("second"), n)?);
            let mut moments = Moments::restore(parameter, n_steps, first, second);
            let mut values = None;
            if parameter.is_table() && tensors.tensor(&name("row_steps")).is_ok() {
                moments.config = self.config;
                moments.row_steps = numbers(&name("row_steps"), moments.row_steps.len())?;
                let bytes = read(&name("history"), safetensors::Dtype::F64, None)?;
                let history = tensors.tensor(&name("history"));
                if !matches!(history.as_ref().map(|tensor| tensor.shape()), Ok([_, 2])) {
                    return Err(refuse(name("history holds no pairs")));
                }
                let (pairs, _) = bytes.as_chunks::<16>();
                let half =
                    |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("8 of 16 bytes"));
                moments.history = pairs
                    .iter()
                    .map(|pair| (half(&pair[..8]), half(&pair[8..])))
                    .collect();
                let n_history = moments.history.len() as u64;
                let start = n_steps.checked_sub(n_history);
                moments.history_start =
                    start.ok_or_else(|| refuse(name("history is longer than the run")))?;
                let steps = moments.history_start..=n_steps;
                if !moments.row_steps.iter().all(|step| steps.contains(step)) {
                    return Err(refuse(name("row_steps are outside of the history")));
                }
                values = Some(floats(&name("values"), n)?);
            }
            let inner = &mut *parameter.write();
            if let Some(values) = values {
                inner.values = values;
                parameter.changed();
            }
            match &mut inner.resident {
                Some(resident) => {
                    moments.catch_up_all(&mut inner.values);
                    resident.set_values(&inner.values).map_err(failed)?;
                    resident
                        .set_moments(Some(moments.parts()))
                        .map_err(failed)?;
                }
                None => inner.moments = Some(moments),
            }
        }
        Ok(())
    }
}

/// Skips `skip` values and cuts off the `width` behind them.
fn split_row(slice: &mut [f32], skip: usize, width: usize) -> (&mut [f32], &mut [f32]) {
    slice[skip..].split_at_mut(width)
}

/// Groups pieces of work so that none is too small to be worth a turn.
fn batches<'a>(work: Vec<Piece<'a>>) -> Vec<Vec<Piece<'a>>> {
    let (mut batches, mut n_values) = (vec![Vec::new()], 0);
    for piece in work {
        if n_values > CHUNK {
            batches.push(Vec::new());
            n_values = 0;
        }
        n_values += piece.1.len();
        batches
            .last_mut()
            .expect("there is one from the start")
            .push(piece);
    }
    batches
}

impl AdamWStep {
    /// The numbers of step `t`, counted from 1, with a weight decay, a learning rate and what gradients are multiplied by.
    fn new(
        config: &AdamWConfig,
        t: u64,
        (weight_decay, rate, gradient_scale): (f64, f64, f64),
    ) -> Self {
        let t = t as f64;
        Self {
            gradient_scale: gradient_scale as f32,
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            second_scale: (1.0 / (1.0 - config.beta2.powf(t)).sqrt()) as f32,
            epsilon: config.epsilon as f32,
            rate: (rate / (1.0 - config.beta1.powf(t))) as f32,
            keep: (1.0 - rate * weight_decay) as f32,
        }
    }
}

/// Step, values, gradient, first and second moment.
type Piece<'a> = (
    AdamWStep,
    &'a mut [f32],
    &'a [f32],
    &'a mut [f32],
    &'a mut [f32],
);

/// What the optimizer remembers of one parameter.
#[derive(Clone)]
pub(super) struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
    n_steps: u64,
    /// Of a table: the last step that each row has taken.
    row_steps: Vec<u64>,
    config: AdamWConfig,
    /// Of the steps after `history_start`: learning rates and the sum of ln(1 − η λ) so far.
    history: Vec<(f64, f64)>,
    history_start: u64,
}

impl Moments {
    fn new(parameter: &Parameter, n: usize) -> Self {
        Self::restore(parameter, 0, vec![0.0; n], vec![0.0; n])
    }

    fn restore(parameter: &Parameter, n_steps: u64, first: Vec<f32>, second: Vec<f32>) -> Self {
        let n_rows = if parameter.is_table() {
            first.len() / parameter.width().max(1)
        } else {
            0
        };
        Self {
            first,
            second,
            n_steps,
            row_steps: vec![n_steps; n_rows],
            config: AdamWConfig::default(),
            history: Vec::new(),
            history_start: n_steps,
        }
    }

    /// Steps taken, first and second moments.
    pub(super) fn parts(&self) -> (u64, [&[f32]; 2]) {
        (self.n_steps, [&self.first, &self.second])
    }

    /// Counts a step and returns its numbers. Rows with a gradient are up to date; they are once more afterwards.
    fn advance(
        &mut self,
        config: &AdamWConfig,
        weight_decay: f64,
        rate: f64,
        gradient_scale: f64,
    ) -> AdamWStep {
        self.config = AdamWConfig {
            weight_decay,
            ..*config
        };
        self.n_steps += 1;
        if !self.row_steps.is_empty() {
            let log_keep = self.history.last().map_or(0.0, |&(_, sum)| sum);
            self.history
                .push((rate, log_keep + (1.0 - rate * weight_decay).ln()));
        }
        AdamWStep::new(config, self.n_steps, (weight_decay, rate, gradient_scale))
    }

    /// Notes that the rows of a gradient take the present step.
    fn mark(&mut self, gradient: &Gradient) {
        if gradient.is_dense {
            self.row_steps.fill(self.n_steps);
        } else {
            for &row in &gradient.rows {
                self.row_steps[row as usize] = self.n_steps;
            }
        }
    }

    /// Whether rows of a table have put off steps.
    pub(super) fn is_behind(&self) -> bool {
        self.row_steps.iter().any(|&step| step != self.n_steps)
    }

    /// Takes the steps that rows of a table have put off.
    pub(super) fn catch_up(&mut self, rows: &[u32], values: &mut [f32], width: usize) {
        let mut known = HashMap::new();
        for &row in rows {
            self.catch_up_row(row as usize, values, width, &mut known);
        }
    }

    /// Takes the steps that all rows of a table have put off.
    pub(super) fn catch_up_all(&mut self, values: &mut [f32]) {
        let n_rows = self.row_steps.len();
        let mut known = HashMap::new();
        for row in 0..n_rows {
            self.catch_up_row(row, values, values.len() / n_rows, &mut known);
        }
    }

    fn catch_up_row(
        &mut self,
        row: usize,
        values: &mut [f32],
        width: usize,
        known: &mut HashMap<u64, IdleSteps>,
    ) {
        let since = self.row_steps[row];
        if since == self.n_steps {
            return;
        }
        let range = row * width..(row + 1) * width;
        let simd = compute::Simd::detect();
        let AdamWConfig { beta1, beta2, .. } = self.config;
        if beta1 > beta2 || beta2 == 0.0 {
            let zeros = vec![0.0; width];
            for step in since + 1..=self.n_steps {
                let (rate, _) = self.history[(step - self.history_start) as usize - 1];
                let numbers = (self.config.weight_decay, rate, 1.0);
                function::adamw(
                    simd,
                    &mut values[range.clone()],
                    &zeros,
                    &mut self.first[range.clone()],
                    &mut self.second[range.clone()],
                    AdamWStep::new(&self.config, step, numbers),
                );
            }
            self.row_steps[row] = self.n_steps;
            return;
        }
        let idle = *known.entry(since).or_insert_with(|| self.idle(since));
        function::adamw_idle(
            simd,
            &mut values[range.clone()],
            &mut self.first[range.clone()],
            &mut self.second[range],
            idle,
        );
        self.row_steps[row] = self.n_steps;
    }

    /// Adds up the steps after step `since` up to the present one: see [`AdamW`].
    fn idle(&self, since: u64) -> IdleSteps {
        const NEGLIGIBLE: f64 = 1e-12;
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            ..
        } = self.config;
        let log_keep = |step: u64| match step - self.history_start {
            0 => 0.0,
            place => self.history[place as usize - 1].1,
        };
        let end = log_keep(self.n_steps);
        let (mut rate, mut power) = (0.0, 1.0);
        for step in since + 1..=self.n_steps {
            power *= beta1 / beta2.sqrt();
            if power < NEGLIGIBLE {
                break;
            }
            let t = step as f64;
            let learning_rate = self.history[(step - self.history_start) as usize - 1].0;
            let factor =
                learning_rate * power * (1.0 - beta2.powf(t)).sqrt() / (1.0 - beta1.powf(t));
            rate += factor * (end - log_keep(step)).exp();
        }
        let n = (self.n_steps - since) as f64;
        IdleSteps {
            rate: rate as f32,
            epsilon: (epsilon * ((1.0 - beta2.powf(since as f64 + 1.0)) / beta2).sqrt()) as f32,
            keep: (end - log_keep(since)).exp() as f32,
            first: beta1.powf(n) as f32,
            second: beta2.powf(n) as f32,
        }
    }
}
