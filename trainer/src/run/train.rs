use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use encoder::training::{AdamW, AdamWConfig, Engine, Parameters, TrainingError};
use serde_json::{Value, json};

use super::ahead::{Ahead, Ready};
use super::checkpoint::{Best, State, Weights};
use super::config::TrainConfig;
use super::directory::{RunDirectory, write};
use super::ema::Ema;
use super::error::TrainError;
use super::evaluator::Evaluator;
use super::lora::Adapters;
use super::metrics::{Interval, MetricsLog, StepLog};
use super::schedule::Schedule;
use crate::batches::Batches;
use crate::data::Group;
use crate::objective::{Objective, Step};
use crate::ranks::{Collective, agree, gather_numbers, reduce_gradients};

/// Steps of a mean loss that tells a run that diverges.
const DIVERGENCE_STEPS: usize = 100;

/// A batch that can say what is in it, for the report of a step that failed.
pub trait Describe {
    /// The ids of its examples.
    fn describe(&self) -> Value;
}

impl Describe for Vec<Group> {
    fn describe(&self) -> Value {
        let passages = |group: &Group| {
            group
                .passages
                .iter()
                .map(|passage| passage.id.clone())
                .collect::<Vec<_>>()
        };
        self.iter()
            .map(|group| json!({ "query_id": group.query_id, "passages": passages(group) }))
            .collect()
    }
}

/// What a run works with.
pub struct Job<'a, O: Objective, B> {
    /// The model and its loss.
    pub objective: &'a mut O,
    /// What it is trained on.
    pub batches: &'a B,
    /// Threads of the optimizer.
    pub engine: &'a Arc<Engine>,
    /// What takes dev figures, each under names of its own.
    pub evaluators: Vec<Box<dyn Evaluator<O> + 'a>>,
    /// Once set, the run saves a checkpoint and ends after the present step.
    pub stop: &'a AtomicBool,
    /// Called at everything worth telling.
    pub watch: &'a mut dyn FnMut(Event<'_>),
    /// Makes the model card, `README.md` of the export.
    pub card: Option<&'a dyn Fn(&Summary) -> String>,
    /// The processes that train together, [`crate::ranks::Alone`] for one. Rank 0 alone evaluates, watches and writes.
    pub ranks: &'a dyn Collective,
}

/// What happens in a run.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Everything is ready.
    Started(&'a Plan),
    /// A line of the log.
    Step(&'a StepLog),
    /// An epoch, or the last of the planned steps, ended; what was read of the epoch, by names.
    Epoch(u64, &'a BTreeMap<String, u64>),
    /// Dev figures were taken after so many steps.
    Evaluated(u64, &'a BTreeMap<String, f64>),
    /// A checkpoint was written after so many steps.
    Saved(u64),
    /// The model was written.
    Exported(PathBuf),
}

/// What a run is going to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Steps of the optimizer, those before a resumption included.
    pub n_steps: u64,
    /// Batches of the first epoch.
    pub n_batches: usize,
    /// Batches of the whole run, about.
    pub n_all_batches: u64,
    /// Values of the model.
    pub n_values: usize,
    /// Those that are trained.
    pub n_trained: usize,
    /// Steps already taken.
    pub step: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All steps were taken.
    Finished,
    /// The dev figure did not improve any more.
    StoppedEarly,
    /// Somebody asked for it; a checkpoint was written, no model was.
    Interrupted,
}

/// What a run has come to.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// How it ended.
    pub end: End,
    /// Steps taken.
    pub steps: u64,
    /// Batches trained on.
    pub batches: u64,
    /// Examples trained on.
    pub examples: u64,
    /// Tokens that went through an encoder.
    pub tokens: u64,
    /// What was read of each epoch, by names: texts, and those of them that lack something or are cut.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub epochs: BTreeMap<u64, BTreeMap<String, u64>>,
    /// Tokens a second of the steps taken since the start or the resumption.
    pub tokens_per_s: f64,
    /// Floating-point operations of the steps' matrix products.
    pub operations: u64,
    /// The best dev figure, where one decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Dev figures by step.
    pub dev: BTreeMap<u64, BTreeMap<String, f64>>,
}

/// Trains: the one loop of all objectives.
///
/// A run that is stopped at any step and resumed goes on as if nothing had happened: equal weights, losses, order of
/// data and early stopping, bit for bit on one machine.
///
/// # Errors
/// [`TrainError`]. The run directory then holds the last complete checkpoint, and the examples of the step that failed.
pub fn train<O, B>(
    config: &TrainConfig,
    run: &RunDirectory,
    job: Job<'_, O, B>,
) -> Result<Summary, TrainError>
where
    O: Objective,
    O::Batch: Describe,
    B: Batches<Batch = O::Batch>,
{
    config.check()?;
    std::thread::scope(|scope| {
        let training = Training::start(config, run, job)?;
        let place = (training.state.epoch, training.state.index);
        let prepare = training.job.objective.preparation();
        let ahead = Ahead::start(scope, training.job.batches, prepare, place);
        training.take_steps(&ahead)
    })
}

/// Refuses settings that name a dev figure that nobody takes, or parameters that the model does not have, and figures of
/// one name.
///
/// [`train`] does so too, when the folder of the run is there.
///
/// # Errors
/// [`TrainError::UnknownMeasure`], [`TrainError::RepeatedMeasure`], [`TrainError::UnknownParameter`],
/// [`TrainError::Evaluation`].
pub fn check<O: Objective>(
    config: &TrainConfig,
    objective: &mut O,
    evaluators: &[Box<dyn Evaluator<O> + '_>],
) -> Result<(), TrainError> {
    check_measure(config, objective, evaluators)?;
    check_names(objective.parameters(), config)
}

/// A run between two steps.
struct Training<'a, 'j, O: Objective, B> {
    config: &'a TrainConfig,
    run: &'a RunDirectory,
    job: Job<'j, O, B>,
    /// Those of the model that change, by the optimizer or through adapters.
    changing: Parameters,
    /// Those that the optimizer changes.
    trained: Parameters,
    optimizer: AdamW,
    adapters: Option<Adapters>,
    ema: Option<Ema>,
    schedule: Schedule,
    n_steps: u64,
    /// Of rank 0.
    log: Option<MetricsLog>,
    state: State,
    /// Of the steps since the start or the resumption.
    n_tokens: u64,
    seconds: f64,
    /// Keeps other processes out of the folder; of rank 0.
    _lock: Option<File>,
}

impl<'a, 'j, O, B> Training<'a, 'j, O, B>
where
    O: Objective,
    O::Batch: Describe,
    B: Batches<Batch = O::Batch>,
{
    /// Prepares a run, and reads its last checkpoint where it has one.
    fn start(
        config: &'a TrainConfig,
        run: &'a RunDirectory,
        job: Job<'j, O, B>,
    ) -> Result<Self, TrainError> {
        let ranks = job.ranks;
        if let (false, Some(reason)) = (ranks.is_alone(), job.objective.unshareable()) {
            return Err(TrainError::Unshareable {
                world_size: ranks.world_size(),
                reason,
            });
        }
        let lock = ranks.is_first().then(|| run.occupy()).transpose()?;
        let n_steps = config.n_steps(job.batches)?;
        if ranks.is_first() {
            check_measure(config, job.objective, &job.evaluators)?;
        }
        let model = job.objective.parameters();
        check_names(model, config)?;
        let starts_with = |names: &[String], name: &str| {
            names.iter().any(|start| name.starts_with(start.as_str()))
        };
        let free =
            model.filter(|parameter| !starts_with(&config.optimizer.freeze, parameter.name()));
        let (adapters, mut trained) = match &config.lora {
            Some(lora) => {
                let is_whole =
                    |name: &str| starts_with(&lora.train, name) || job.objective.is_drawn(name);
                let others = free.filter(|parameter| !is_whole(parameter.name()));
                (
                    Some(Adapters::new(&others, lora, config.run.seed)?),
                    free.filter(|parameter| is_whole(parameter.name())),
                )
            }
            None => (None, free),
        };
        let mut changing = trained.clone();
        if let Some(adapters) = &adapters {
            trained.extend(adapters.parameters());
            changing.extend(&model.filter(|parameter| adapters.cover(parameter)));
        }
        let o = &config.optimizer;
        let settings = AdamWConfig {
            beta1: o.beta1,
            beta2: o.beta2,
            epsilon: o.epsilon,
            weight_decay: o.weight_decay,
        };
        let n_trained = n_values(&trained);
        if n_trained == 0 {
            return Err(TrainError::Nothing {
                hint: ": `optimizer.freeze` names every parameter",
            });
        }
        let mut optimizer = AdamW::new(&trained, settings, job.engine)?;
        let ema = o.ema.map(|keep| Ema::new(&changing, keep)).transpose()?;
        let mut state = State {
            data: job.batches.digest(),
            ..State::default()
        };
        if let Some((_, folder)) = run.checkpoints()?.last() {
            let weights = Weights {
                model,
                ema: ema.as_ref(),
                adapters: adapters.as_ref(),
            };
            let data = std::mem::replace(&mut state, weights.load(folder, &mut optimizer)?).data;
            if state.data != data {
                let path = folder.clone();
                return Err(TrainError::OtherData { path });
            }
        }
        let plan = Plan {
            n_steps,
            n_batches: job.batches.len(0),
            n_all_batches: config.n_batches(job.batches),
            n_values: n_values(model),
            n_trained,
            step: state.step,
        };
        agree(state.step, state.data, model, ranks)?;
        if ranks.is_first() {
            (job.watch)(Event::Started(&plan));
        }
        let log = || MetricsLog::open(run, state.step, state.is_evaluated);
        Ok(Self {
            schedule: Schedule::new(&config.schedule, o.learning_rate, n_steps),
            log: ranks.is_first().then(log).transpose()?,
            config,
            run,
            job,
            changing,
            trained,
            optimizer,
            adapters,
            ema,
            n_steps,
            state,
            n_tokens: 0,
            seconds: 0.0,
            _lock: lock,
        })
    }

    /// Takes all steps that are left.
    fn take_steps(mut self, ahead: &Ahead<B::Batch, O::Input>) -> Result<Summary, TrainError> {
        let rules = &self.config.run;
        if self.state.step == 0 && rules.evaluate_first && !self.state.is_evaluated {
            self.evaluate()?;
        }
        let end = loop {
            if self.is_exhausted() {
                break End::StoppedEarly;
            }
            if self.state.step >= self.n_steps {
                break End::Finished;
            }
            let ends_epoch = self.step(ahead)?;
            self.state.is_evaluated = false;
            let step = self.state.step;
            let is_last = step == self.n_steps;
            if is_last || rules.evaluate_every.is_due(step, ends_epoch) {
                self.evaluate()?;
            }
            let is_stopped = self.is_stopped()?;
            let is_due = rules.save_every.is_due(step, ends_epoch);
            if is_last || is_due || is_stopped || self.is_exhausted() {
                self.save()?;
            }
            if is_stopped && !is_last {
                break End::Interrupted;
            }
        };
        self.finish(end)
    }

    /// Takes one step of the optimizer, and says whether it was the last of its epoch.
    fn step(&mut self, ahead: &Ahead<B::Batch, O::Input>) -> Result<bool, TrainError> {
        let (start, step) = (Instant::now(), self.state.step + 1);
        let n_operations = self.job.engine.operations();
        let first = ahead.next()?;
        let (epoch, n_left) = (first.epoch, first.n_left);
        self.state.epoch = epoch;
        let n_batches = self.config.optimizer.accumulate.min(n_left);
        let others = std::iter::repeat_with(|| ahead.next());
        let (mut seen, mut loss, mut n_tokens) = (Vec::new(), 0.0, 0);
        for ready in std::iter::once(Ok(first)).chain(others).take(n_batches) {
            let Ready {
                batch,
                input,
                counts,
                ..
            } = ready?;
            let place = Step {
                seed: self.config.run.seed,
                index: self.state.n_batches,
                optimizer_step: self.state.step,
                weight: 1.0 / n_batches as f64,
            };
            let objective = &mut self.job.objective;
            let ranks = self.job.ranks;
            let report =
                input.and_then(|input| objective.step_prepared(&batch, input, &place, ranks));
            seen.push(batch);
            let report = report.map_err(|source| self.failed(step, &seen, source))?;
            if !report.loss.is_finite() {
                let batch = self.report(step, &seen, &format!("loss is {}", report.loss))?;
                return Err(TrainError::Loss {
                    step,
                    loss: report.loss,
                    batch,
                });
            }
            self.state.n_batches += 1;
            self.state.index += 1;
            self.state.n_examples += report.n_examples as u64;
            if !counts.is_empty() {
                let of_epoch = self.state.epochs.entry(epoch).or_default();
                for (name, n) in counts {
                    *of_epoch.entry(name.to_owned()).or_default() += n;
                }
            }
            n_tokens += report.n_tokens as u64;
            loss += report.loss * place.weight;
            for (&name, &value) in &report.measures {
                self.state
                    .interval
                    .measures
                    .entry(name.to_owned())
                    .or_default()
                    .add(value);
            }
        }
        let learning_rate = self.schedule.learning_rate(self.state.step);
        let norm = self
            .update(learning_rate)
            .map_err(|source| self.failed(step, &seen, source))?;
        self.state.step = step;
        let ends_epoch = n_batches == n_left;
        if ends_epoch {
            (self.state.epoch, self.state.index) = (epoch + 1, 0);
        }

        let seconds = start.elapsed().as_secs_f64();
        self.n_tokens += n_tokens;
        self.seconds += seconds;
        self.state.n_tokens += n_tokens;
        let n_operations = self.job.engine.operations() - n_operations;
        let of_ranks = gather_numbers(&[n_operations], self.job.ranks)?;
        self.state.n_operations += of_ranks.iter().map(|of_rank| of_rank[0]).sum::<u64>();
        let interval = &mut self.state.interval;
        interval.loss.add(loss);
        interval.gradient_norm.add(norm);
        interval.n_tokens += n_tokens;
        interval.seconds += seconds;
        if step.is_multiple_of(self.config.run.log_every) || step == self.n_steps {
            let interval: Interval = std::mem::take(interval);
            let means = interval
                .measures
                .into_iter()
                .map(|(name, mean)| (name, mean.value()));
            let log = StepLog {
                step,
                epoch,
                loss: interval.loss.value(),
                learning_rate,
                gradient_norm: interval.gradient_norm.value(),
                tokens_per_s: interval.n_tokens as f64 / interval.seconds.max(1e-9),
                n_tokens: self.state.n_tokens,
                n_operations: self.state.n_operations,
                measures: means.collect(),
            };
            if let Some(file) = &mut self.log {
                file.step(&log)?;
                (self.job.watch)(Event::Step(&log));
            }
        }
        let is_last = ends_epoch || step == self.n_steps;
        if let (true, Some(counts), Some(file)) =
            (is_last, self.state.epochs.get(&epoch), &mut self.log)
        {
            file.epoch(step, epoch, counts)?;
            (self.job.watch)(Event::Epoch(epoch, counts));
        }
        self.check_divergence(loss, &seen)?;
        Ok(ends_epoch)
    }

    /// Whether any rank was asked to stop.
    fn is_stopped(&self) -> Result<bool, TrainError> {
        let is_asked = self.job.stop.load(Ordering::SeqCst);
        let all = gather_numbers(&[is_asked.into()], self.job.ranks)?;
        Ok(all.iter().any(|is_asked| is_asked[0] > 0))
    }

    /// Lets the weights follow the gradients that have added up, and returns their norm.
    fn update(&mut self, learning_rate: f64) -> Result<f64, TrainingError> {
        let max_norm = self.config.optimizer.max_norm;
        if let Some(adapters) = &self.adapters {
            adapters.take_gradients()?;
        }
        reduce_gradients(&self.trained, self.job.ranks)?;
        let norm = self
            .optimizer
            .step(learning_rate, (max_norm > 0.0).then_some(max_norm))?;
        self.job.objective.parameters().clear_gradients(); // those of frozen parameters add up too
        if let Some(adapters) = &self.adapters {
            adapters.merge()?;
        }
        if let Some(ema) = &self.ema {
            ema.update(&self.changing)?;
        }
        Ok(norm)
    }

    fn check_divergence(&mut self, loss: f64, seen: &[B::Batch]) -> Result<(), TrainError> {
        let factor = self.config.run.divergence;
        let losses = &mut self.state.losses;
        if losses.len() == DIVERGENCE_STEPS {
            losses.remove(0);
        }
        losses.push(loss);
        if losses.len() < DIVERGENCE_STEPS {
            return Ok(());
        }
        let mean = losses.iter().sum::<f64>() / DIVERGENCE_STEPS as f64;
        let first = *self.state.first_loss.get_or_insert(mean);
        if factor == 0.0 || first <= 0.0 || mean <= factor * first {
            return Ok(());
        }
        let step = self.state.step;
        let batch = self.report(step, seen, &format!("mean loss is {mean}, was {first}"))?;
        Err(TrainError::Diverged {
            step,
            n_steps: DIVERGENCE_STEPS,
            loss: mean,
            first,
            batch,
        })
    }

    /// Takes dev figures, and saves a checkpoint where they are the best so far.
    fn evaluate(&mut self) -> Result<(), TrainError> {
        self.state.is_evaluated = true;
        let ranks = self.job.ranks;
        if ranks.is_first() {
            self.take_figures()?;
        }
        self.state.n_worse = gather_numbers(&[self.state.n_worse], ranks)?[0][0];
        Ok(())
    }

    /// Takes dev figures on rank 0.
    fn take_figures(&mut self) -> Result<(), TrainError> {
        if self.job.evaluators.is_empty() {
            return Ok(());
        }
        let (evaluators, objective) = (&mut self.job.evaluators, &mut *self.job.objective);
        // Those of rank 0 have to go on as those of the others do.
        let parameters = objective.parameters().clone();
        let mut take = || -> Result<_, TrainError> {
            let mut figures = BTreeMap::new();
            for evaluator in evaluators.iter_mut() {
                let found = evaluator.evaluate(objective);
                figures.extend(found.map_err(|error| TrainError::Evaluation(Box::new(error)))?);
            }
            Ok(figures)
        };
        let figures = parameters.look(|| match &self.ema {
            Some(ema) => ema.during(&self.changing, take)?,
            None => take(),
        })?;
        let step = self.state.step;
        if let Some(log) = &mut self.log {
            log.dev(step, &figures)?;
        }
        (self.job.watch)(Event::Evaluated(step, &figures));
        self.state.dev.insert(step, figures.clone());
        if let Some(measure) = &self.config.run.measure {
            let value = *figures
                .get(measure)
                .ok_or_else(|| TrainError::UnknownMeasure {
                    measure: measure.clone(),
                    found: figures.keys().cloned().collect(),
                })?;
            let gain = |best: Best| match measure.contains("loss") {
                true => best.value - value,
                false => value - best.value,
            };
            if self
                .state
                .best
                .is_none_or(|best| gain(best) > self.config.run.min_gain)
            {
                self.state.best = Some(Best { step, value });
                self.state.n_worse = 0;
                self.write()?;
            } else {
                self.state.n_worse += 1;
            }
        }
        Ok(())
    }

    /// Whether the dev figure has not improved for as long as the run has patience.
    fn is_exhausted(&self) -> bool {
        self.config
            .run
            .patience
            .is_some_and(|patience| self.state.n_worse >= patience)
    }

    fn weights(&self) -> Weights<'_> {
        Weights {
            model: self.job.objective.parameters(),
            ema: self.ema.as_ref(),
            adapters: self.adapters.as_ref(),
        }
    }

    /// Writes a checkpoint on rank 0, after all ranks have found that they stand at the same place with equal weights.
    fn save(&mut self) -> Result<(), TrainError> {
        let (state, model) = (&self.state, self.job.objective.parameters());
        agree(state.step, state.data, model, self.job.ranks)?;
        match self.job.ranks.is_first() {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn write(&mut self) -> Result<(), TrainError> {
        self.weights()
            .save(self.run, &self.state, &self.optimizer, self.config.run.keep)?;
        (self.job.watch)(Event::Saved(self.state.step));
        Ok(())
    }

    /// Exports the best weights, the last ones where no figure decides.
    fn finish(self, end: End) -> Result<Summary, TrainError> {
        let summary = Summary {
            end,
            steps: self.state.step,
            batches: self.state.n_batches,
            examples: self.state.n_examples,
            tokens: self.state.n_tokens,
            epochs: self.state.epochs.clone(),
            tokens_per_s: self.n_tokens as f64 / self.seconds.max(1e-9),
            operations: self.state.n_operations,
            best: self.state.best,
            dev: self.state.dev.clone(),
        };
        if end == End::Interrupted || !self.job.ranks.is_first() {
            return Ok(summary);
        }
        if let Some(best) = self.state.best.filter(|best| best.step != self.state.step) {
            self.weights().load_model(&self.run.checkpoint(best.step))?;
        }
        let target = self.run.export();
        let export = || {
            RunDirectory::publish(&target, |folder| {
                self.job.objective.export(folder)?;
                match self.job.card {
                    Some(card) => write(&folder.join("README.md"), card(&summary).as_bytes()),
                    None => Ok(()),
                }
            })
        };
        match &self.ema {
            Some(ema) => ema.during(&self.changing, export)?,
            None => export(),
        }?;
        (self.job.watch)(Event::Exported(target));
        Ok(summary)
    }

    fn failed(&self, step: u64, seen: &[B::Batch], source: TrainingError) -> TrainError {
        let source = match source {
            source @ TrainingError::Peers(_) => return TrainError::of_model(source),
            source => Box::new(source),
        };
        match self.report(step, seen, &source.to_string()) {
            Ok(batch) => TrainError::Step {
                step,
                batch,
                source,
            },
            Err(error) => error,
        }
    }

    /// Writes down what the batches of a step are.
    fn report(&self, step: u64, seen: &[B::Batch], reason: &str) -> Result<Box<Path>, TrainError> {
        let batches: Vec<Value> = seen.iter().map(Describe::describe).collect();
        let report = json!({ "step": step, "reason": reason, "batches": batches });
        let rank = self.job.ranks.rank();
        Ok(self.run.write_failed_batch(rank, &report)?.into())
    }
}

/// Refuses a measure that nobody takes, and one that two evaluators take.
fn check_measure<O: Objective>(
    config: &TrainConfig,
    objective: &mut O,
    evaluators: &[Box<dyn Evaluator<O> + '_>],
) -> Result<(), TrainError> {
    let measure = config.run.measure.as_ref();
    if measure.is_none() && evaluators.len() < 2 {
        return Ok(()); // names may cost a batch
    }
    let mut found: Vec<String> = Vec::new();
    for evaluator in evaluators {
        let names = evaluator.names(objective);
        let names = names.map_err(|error| TrainError::Evaluation(Box::new(error)))?;
        if let Some(name) = names.iter().find(|name| found.contains(*name)) {
            return Err(TrainError::RepeatedMeasure { name: name.clone() });
        }
        found.extend(names);
    }
    match measure.filter(|measure| !found.contains(*measure)) {
        None => Ok(()),
        Some(measure) => Err(TrainError::UnknownMeasure {
            measure: measure.clone(),
            found,
        }),
    }
}

/// Refuses names that repeat, and settings that name no parameter.
fn check_names(model: &Parameters, config: &TrainConfig) -> Result<(), TrainError> {
    let mut names = HashSet::new();
    for parameter in model.iter() {
        if !names.insert(parameter.name()) {
            return Err(TrainError::RepeatedParameter {
                name: parameter.name().to_owned(),
            });
        }
    }
    let whole = config.lora.iter().flat_map(|lora| &lora.train);
    let asked = config
        .optimizer
        .freeze
        .iter()
        .map(|start| ("optimizer.freeze", start));
    for (key, start) in asked.chain(whole.map(|start| ("lora.train", start))) {
        if !names.iter().any(|name| name.starts_with(start.as_str())) {
            return Err(TrainError::UnknownParameter {
                key,
                name: start.clone(),
            });
        }
    }
    Ok(())
}

fn n_values(parameters: &Parameters) -> usize {
    parameters
        .iter()
        .map(|parameter| parameter.shape().iter().product::<usize>())
        .sum()
}
