//! The loop with a small objective: what it writes, how it goes on, when it stops.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use emulated_gpu::EmulatedGpu;
use encoder::Tokens;
use encoder::training::{
    Dropout, Encoder, Engine, EngineConfig, Kind, Parameter, Parameters, TrainingError, mean,
};
use serde_json::Value;
use tempfile::TempDir;
use trainer::data::DataError;
use trainer::ranks::{Alone, Collective};
use trainer::run::{
    Describe, End, Evaluator, EvaluatorError, Event, Every, Job, LoraConfig, RunDirectory, Summary,
    TrainConfig, TrainError, check, train,
};
use trainer::{Batches, Objective, Preparation, Step, StepReport};

/// Fits a number to each text: a tiny encoder, the mean of its vectors, one linear layer.
struct Regression {
    encoder: Encoder,
    weight: Arc<Parameter>,
    parameters: Parameters,
}

/// Texts, their numbers, and whether their loss is to be NaN.
struct Texts {
    texts: Vec<Tokens>,
    targets: Vec<f32>,
    id: usize,
    is_bad: bool,
}

impl Describe for Texts {
    fn describe(&self) -> Value {
        Value::from(self.id)
    }
}

impl Regression {
    fn new(engine: &Arc<Engine>) -> Self {
        let folder = testkit::fixture("models/tiny-bert");
        let encoder = Encoder::load(&folder, engine).unwrap();
        let width = encoder.architecture().width;
        let mut parameters = encoder.parameters().clone();
        let start = (0..width).map(|i| (i as f32).sin() / 8.0).collect();
        let weight = parameters
            .insert("head.weight", &[width, 1], start, Kind::Matrix)
            .unwrap();
        Self {
            encoder,
            weight,
            parameters,
        }
    }

    fn loss(&self, batch: &Texts, dropout: &Dropout) -> Result<Tensor, TrainingError> {
        let hidden = self.encoder.forward(&batch.texts, dropout)?;
        let lengths: Vec<usize> = batch.texts.iter().map(Tokens::len).collect();
        let found = mean(&hidden, &lengths)?.matmul(&self.weight.tensor()?)?; // (B, 1)
        let targets =
            Tensor::new(batch.targets.as_slice(), found.device())?.reshape(found.shape())?;
        Ok((found - targets)?.sqr()?.mean_all()?)
    }
}

impl Objective for Regression {
    type Batch = Texts;
    type Input = ();

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn is_drawn(&self, name: &str) -> bool {
        name == "head.weight"
    }

    fn preparation(&self) -> Preparation<Texts, ()> {
        Box::new(|_| Ok(()))
    }

    fn step_prepared(
        &mut self,
        batch: &Texts,
        (): (),
        step: &Step,
        _: &dyn Collective,
    ) -> Result<StepReport, TrainingError> {
        let dropout = Dropout {
            hidden: 0.1,
            attention: 0.1,
            seed: step.seed,
            step: step.index,
            ..Dropout::NONE
        };
        let mut loss = self.loss(batch, &dropout)?;
        if batch.is_bad {
            loss = (loss * f64::NAN)?;
        }
        (&loss * step.weight)?.backward()?;
        Ok(StepReport {
            loss: f64::from(loss.to_scalar::<f32>()?),
            n_tokens: batch.texts.iter().map(Tokens::len).sum(),
            n_examples: batch.texts.len(),
            measures: BTreeMap::from([("target", f64::from(batch.targets[0]))]),
        })
    }

    fn evaluate(&mut self, batch: &Texts) -> Result<StepReport, TrainingError> {
        let loss = self.loss(batch, &Dropout::NONE)?.to_scalar::<f32>()?;
        Ok(StepReport {
            loss: f64::from(loss),
            n_examples: batch.texts.len(),
            ..StepReport::default()
        })
    }

    fn export(&self, folder: &Path) -> Result<(), TrainingError> {
        self.parameters.save(&folder.join("model.safetensors"))
    }
}

/// `n` batches an epoch; the order differs between epochs.
#[derive(Clone)]
struct Numbers {
    n: usize,
    /// The one whose loss is NaN.
    bad: Option<usize>,
    /// The one that cannot be read.
    unreadable: Option<usize>,
    /// From this epoch on targets are a hundred times as large.
    far_from: u64,
}

impl Numbers {
    fn new(n: usize) -> Self {
        Self {
            n,
            bad: None,
            unreadable: None,
            far_from: u64::MAX,
        }
    }
}

impl Batches for Numbers {
    type Batch = Texts;

    fn len(&self, _: u64) -> usize {
        self.n
    }

    fn batch(&self, epoch: u64, index: usize) -> Result<Texts, DataError> {
        let id = (index * 7 + epoch as usize * 3) % self.n;
        if self.unreadable == Some(id) {
            return Err(DataError::TooManyPassages);
        }
        let text = |row: usize| {
            let ids: Vec<u32> = (0..5 + row as u32)
                .map(|i| 5 + (i * 13 + id as u32 * 29 + row as u32) % 90)
                .collect();
            Tokens {
                type_ids: vec![0; ids.len()],
                ids,
                ..Tokens::default()
            }
        };
        let scale = if epoch >= self.far_from { 20.0 } else { 0.2 };
        Ok(Texts {
            texts: (0..3).map(text).collect(),
            targets: (0..3).map(|row| ((id + row) % 5) as f32 * scale).collect(),
            id,
            is_bad: self.bad == Some(id),
        })
    }

    fn digest(&self) -> u64 {
        self.n as u64
    }
}

/// Dev figures: the loss, and one that gets worse after the step given.
struct Figures {
    batches: Numbers,
    n_seen: u64,
    best_at: u64,
}

impl Evaluator<Regression> for Figures {
    fn names(&self, _: &mut Regression) -> Result<Vec<String>, EvaluatorError> {
        Ok(vec!["loss".to_owned(), "hill".to_owned()])
    }

    fn evaluate(
        &mut self,
        objective: &mut Regression,
    ) -> Result<BTreeMap<String, f64>, EvaluatorError> {
        let loss = objective.evaluate(&self.batches.batch(0, 0)?)?.loss;
        self.n_seen += 1;
        let hill = -(self.n_seen as f64 - self.best_at as f64).abs();
        Ok(BTreeMap::from([
            ("loss".to_owned(), loss),
            ("hill".to_owned(), hill),
        ]))
    }
}

/// A run of ten steps of two batches, three epochs and a bit, with everything that has a state.
fn config() -> TrainConfig {
    let mut config = TrainConfig::default();
    config.optimizer.learning_rate = 2e-3;
    config.optimizer.weight_decay = 0.01;
    config.optimizer.accumulate = 2;
    config.schedule.max_steps = Some(10);
    config.run.evaluate_every = Every::Steps(2);
    config.run.save_every = Every::Never;
    config.run.log_every = 3;
    config
}

struct Setup<'a> {
    config: &'a TrainConfig,
    batches: Numbers,
    /// Ctrl-C after this step.
    stop_after: Option<u64>,
    /// Which taking of dev figures is best.
    best_at: u64,
    n_seen: u64,
    is_on_device: bool,
}

impl<'a> Setup<'a> {
    fn new(config: &'a TrainConfig) -> Self {
        Self {
            config,
            batches: Numbers::new(5),
            stop_after: None,
            best_at: u64::MAX >> 32,
            n_seen: 0,
            is_on_device: false,
        }
    }

    fn run(&self, run: &RunDirectory) -> Result<Summary, TrainError> {
        let config = EngineConfig::default();
        let engine = match self.is_on_device {
            true => Engine::on_device(&config, EmulatedGpu::new("gpu:0", 1 << 28)).unwrap(),
            false => Engine::new(&config).unwrap(),
        };
        let mut objective = Regression::new(&engine);
        let stop = AtomicBool::new(false);
        let mut watch = |event: Event<'_>| {
            let step = match event {
                Event::Step(log) => log.step,
                Event::Evaluated(step, _) => step,
                _ => return,
            };
            if self.stop_after == Some(step) {
                stop.store(true, Ordering::SeqCst);
            }
        };
        let figures = Figures {
            batches: self.batches.clone(),
            n_seen: self.n_seen,
            best_at: self.best_at,
        };
        train(
            self.config,
            run,
            Job {
                objective: &mut objective,
                batches: &self.batches,
                engine: &engine,
                evaluators: vec![Box::new(figures)],
                stop: &stop,
                watch: &mut watch,
                card: Some(&|summary| format!("{} steps\n", summary.steps)),
                ranks: &Alone,
            },
        )
    }
}

/// The lines of the log without what a clock says.
fn metrics(run: &RunDirectory) -> Vec<Value> {
    let text = fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("tokens_per_s");
        line
    };
    text.lines().map(line).collect()
}

fn last_checkpoint(run: &RunDirectory) -> BTreeMap<String, Vec<u8>> {
    let (_, folder) = run.checkpoints().unwrap().pop().expect("a checkpoint");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files: BTreeMap<String, Vec<u8>> = files
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .collect();
    let mut state: Value = serde_json::from_slice(&files["state.json"]).unwrap();
    state["interval"]["seconds"] = Value::Null; // what a clock says
    files.insert("state.json".to_owned(), state.to_string().into_bytes());
    files
}

/// Stops a run after `stop_after` steps, resumes it, and compares with one that nobody stopped.
fn check_resumption(config: &TrainConfig, is_on_device: bool, stop_after: u64) {
    let folder = tempfile::tempdir().unwrap();
    let create =
        |name: &str| RunDirectory::create(&folder.path().join(name), "a = 1\n", 42).unwrap();
    let whole = create("whole");
    let setup = || Setup {
        is_on_device,
        ..Setup::new(config)
    };
    let expected = setup().run(&whole).unwrap();

    let parts = create("parts");
    let stopped = Setup {
        stop_after: Some(stop_after),
        ..setup()
    };
    let stopped = stopped.run(&parts).unwrap();
    assert_eq!(stopped.end, End::Interrupted);
    assert!(!parts.export().exists());
    let resumed = RunDirectory::resume(parts.path(), "a = 1\n").unwrap();
    let n_seen = metrics(&parts)
        .iter()
        .filter(|line| line["kind"] == "dev")
        .count() as u64;
    let found = Setup { n_seen, ..setup() }.run(&resumed).unwrap();

    assert_eq!(
        (found.end, found.steps, found.best),
        (expected.end, expected.steps, expected.best)
    );
    assert_eq!(
        (found.batches, found.tokens, found.examples),
        (expected.batches, expected.tokens, expected.examples)
    );
    assert_eq!(metrics(&parts), metrics(&whole));
    let (found, expected) = (last_checkpoint(&parts), last_checkpoint(&whole));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (name, bytes) in &expected {
        assert_eq!(&found[name], bytes, "{name} differs");
    }
    let exported = |run: &RunDirectory| fs::read(run.export().join("model.safetensors")).unwrap();
    assert_eq!(exported(&parts), exported(&whole));
    assert_eq!(
        fs::read_to_string(parts.export().join("README.md")).unwrap(),
        "10 steps\n"
    );
}

#[test]
fn a_resumed_run_equals_one_that_was_never_stopped() {
    check_resumption(&config(), false, 3); // at the end of an epoch, with a line of the log
    check_resumption(&config(), false, 4); // within an epoch, between two lines
    let mut config = config();
    config.run.log_every = 1; // so that the request to stop comes at any step
    (1..10).for_each(|step| check_resumption(&config, false, step));
}

#[test]
fn so_it_does_with_an_average_and_an_early_stop_pending() {
    let mut config = config();
    config.optimizer.ema = Some(0.9);
    config.run.measure = Some("loss".to_owned());
    config.run.patience = Some(50);
    check_resumption(&config, false, 6);
}

#[test]
fn so_it_does_with_adapters() {
    let mut config = config();
    config.lora = Some(LoraConfig {
        rank: 4,
        train: vec!["head".to_owned()],
        ..LoraConfig::default()
    });
    check_resumption(&config, false, 6);
}

#[test]
fn so_it_does_on_a_device() {
    let mut config = config();
    check_resumption(&config, true, 3);
    config.optimizer.ema = Some(0.9);
    check_resumption(&config, true, 4);
}

#[test]
fn a_run_on_a_device_is_that_of_the_cpu() {
    let config = config();
    let [cpu, device] = [false, true].map(|is_on_device| {
        let run = new_run();
        let setup = Setup {
            is_on_device,
            ..Setup::new(&config)
        };
        setup.run(&run).unwrap();
        metrics(&run)
    });
    assert_eq!(cpu.len(), device.len());
    let mut n_compared = 0;
    for (cpu, device) in cpu.iter().zip(&device) {
        for figure in ["loss", "gradient_norm"] {
            let [Some(expected), Some(found)] = [cpu, device].map(|line| line[figure].as_f64())
            else {
                continue;
            };
            assert!((found / expected - 1.0).abs() < 1e-2, "{cpu} {device}");
            n_compared += 1;
        }
    }
    assert!(n_compared > 10, "{n_compared} figures");
}

#[test]
fn dev_figures_leave_a_run_as_it_is() {
    let exported = |evaluate_every: Every, ema: Option<f64>| {
        let mut config = config();
        config.optimizer.epsilon = 1.0; // much above √v, where steps that were put off depend on when they are taken
        config.optimizer.learning_rate = 0.1;
        config.optimizer.ema = ema;
        config.run.evaluate_every = evaluate_every;
        let run = new_run();
        Setup::new(&config).run(&run).unwrap();
        fs::read(run.export().join("model.safetensors")).unwrap()
    };
    for ema in [None, Some(0.9)] {
        let expected = exported(Every::Never, ema);
        assert!(exported(Every::Steps(1), ema) == expected, "{ema:?}");
    }
}

/// A run directory that ends with the test.
struct NewRun {
    run: RunDirectory,
    _folder: TempDir,
}

impl Deref for NewRun {
    type Target = RunDirectory;

    fn deref(&self) -> &RunDirectory {
        &self.run
    }
}

fn new_run() -> NewRun {
    let folder = tempfile::tempdir().unwrap();
    NewRun {
        run: RunDirectory::create(&folder.path().join("run"), "", 42).unwrap(),
        _folder: folder,
    }
}

/// The steps after which there are checkpoints.
fn saved_steps(run: &RunDirectory) -> Vec<u64> {
    let checkpoints = run.checkpoints().unwrap().into_iter();
    checkpoints.map(|(step, _)| step).collect()
}

/// Trains on five batches of which one is bad, with a checkpoint after every step.
fn fail(batches: Numbers) -> (NewRun, TrainError) {
    let run = new_run();
    let mut config = config();
    config.run.save_every = Every::Steps(1);
    let setup = Setup {
        batches,
        ..Setup::new(&config)
    };
    let error = setup.run(&run).unwrap_err();
    assert_eq!(
        saved_steps(&run),
        [1],
        "the second step takes batches 2 and 3"
    );
    (run, error)
}

#[test]
fn a_run_learns_logs_and_keeps_the_last_checkpoints() {
    let run = new_run();
    let mut config = config();
    config.schedule.max_steps = None;
    config.schedule.epochs = 30;
    config.run.log_every = 1;
    config.run.save_every = Every::Steps(20);
    let summary = Setup::new(&config).run(&run).unwrap();
    assert_eq!(
        (summary.end, summary.steps, summary.batches),
        (End::Finished, 90, 150)
    );
    assert_eq!(saved_steps(&run), [80, 90]);
    let dev = |step: u64| summary.dev[&step]["loss"];
    assert!(dev(90) < 0.5 * dev(0), "{} {}", dev(0), dev(90));
    let lines = metrics(&run);
    let train: Vec<&Value> = lines
        .iter()
        .filter(|line| line["kind"] == "train")
        .collect();
    assert_eq!(train.len(), 90);
    assert_eq!(train[0]["learning_rate"], 0.0);
    assert!(
        train
            .iter()
            .all(|line| line["gradient_norm"].as_f64().unwrap() > 0.0)
    );
    assert!(train[0]["target"].is_number());
    let entries: Vec<String> = fs::read_dir(run.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        entries
            .iter()
            .any(|name| name.starts_with("events.out.tfevents."))
    );
    assert!(
        !entries
            .iter()
            .any(|name| name.starts_with('.') || name.ends_with("part")),
        "{entries:?}"
    );
}

#[test]
fn it_stops_when_the_figure_gets_no_better_and_exports_the_best() {
    let run = new_run();
    let mut config = config();
    config.run.measure = Some("hill".to_owned());
    config.run.patience = Some(2);
    config.run.keep = 1;
    // Dev figures after 0, 2, 4, 6 and 8 steps; the second is best, the fourth is the second worse one.
    let setup = Setup {
        best_at: 2,
        ..Setup::new(&config)
    };
    let summary = setup.run(&run).unwrap();
    assert_eq!((summary.end, summary.steps), (End::StoppedEarly, 6));
    assert_eq!(
        summary.best.map(|best| (best.step, best.value)),
        Some((2, 0.0))
    );
    assert_eq!(saved_steps(&run), [2, 6]);
    let weights = |folder: &Path, file: &str| {
        let objective = Regression::new(&Engine::new(&EngineConfig::default()).unwrap());
        objective.parameters().load(&folder.join(file)).unwrap();
        objective
            .parameters()
            .iter()
            .map(|parameter| parameter.values().unwrap())
            .collect::<Vec<_>>()
    };
    let best = weights(&run.checkpoints().unwrap()[0].1, "weights.safetensors");
    assert_eq!(weights(&run.export(), "model.safetensors"), best);

    // A run that has stopped early has nothing to go on with.
    let resumed = RunDirectory::resume(run.path(), "").unwrap();
    let again = Setup {
        best_at: 2,
        ..Setup::new(&config)
    }
    .run(&resumed)
    .unwrap();
    assert_eq!((again.end, again.steps), (End::StoppedEarly, 6));
}

#[test]
fn a_log_ahead_of_its_checkpoint_is_cut_back() {
    let run = new_run();
    let mut config = config();
    config.run.save_every = Every::Steps(4);
    config.run.log_every = 1;
    config.run.keep = 5;
    Setup::new(&config).run(&run).unwrap();
    let whole = metrics(&run);
    assert_eq!(saved_steps(&run), [4, 8, 10]);

    // As if the machine had stopped in step 7, in the middle of a line.
    fs::remove_dir_all(run.export()).unwrap();
    for (step, folder) in run.checkpoints().unwrap() {
        if step > 4 {
            fs::remove_dir_all(folder).unwrap();
        }
    }
    let path = run.path().join("metrics.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let end = text.find("\"step\":7").unwrap();
    fs::write(&path, &text[..end]).unwrap();
    let resumed = RunDirectory::resume(run.path(), "").unwrap();
    let n_seen = 3; // dev figures of steps 0, 2 and 4
    let setup = Setup {
        n_seen,
        ..Setup::new(&config)
    };
    setup.run(&resumed).unwrap();
    assert_eq!(metrics(&run), whole);
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_with_its_batch() {
    let (run, error) = fail(Numbers {
        bad: Some(1), // the fourth batch of the first epoch: 3 · 7 mod 5
        ..Numbers::new(5)
    });
    assert!(
        matches!(error, TrainError::Loss { step: 2, loss, .. } if loss.is_nan()),
        "{error}"
    );
    let report = fs::read(run.path().join("failed-batch.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(
        (&report["step"], &report["batches"]),
        (&Value::from(2), &Value::from(vec![4, 1]))
    );
    assert!(!run.export().exists());
}

#[test]
fn a_batch_that_cannot_be_read_ends_the_run_where_its_turn_is() {
    let (_run, error) = fail(Numbers {
        unreadable: Some(1),
        ..Numbers::new(5)
    });
    assert!(
        matches!(
            error,
            TrainError::Data {
                epoch: 0,
                index: 3,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_loss_that_grows_out_of_proportion_ends_the_run() {
    let run = new_run();
    let mut config = config();
    config.schedule.max_steps = Some(400);
    config.run.evaluate_every = Every::Never;
    // Five batches are three steps, so the targets jump after step 180.
    let batches = Numbers {
        far_from: 60,
        ..Numbers::new(5)
    };
    let setup = Setup {
        batches,
        ..Setup::new(&config)
    };
    let error = setup.run(&run).unwrap_err();
    assert!(
        matches!(error, TrainError::Diverged { step: 181, loss, first, .. } if loss > 10.0 * first),
        "{error}"
    );
    assert!(run.path().join("failed-batch.json").exists());
}

/// The names of parameters whose values a run has changed.
fn changed(config: &TrainConfig) -> Vec<String> {
    let run = new_run();
    Setup::new(config).run(&run).unwrap();
    let engine = Engine::new(&EngineConfig::default()).unwrap();
    let (before, after) = (Regression::new(&engine), Regression::new(&engine));
    after
        .parameters()
        .load(&run.export().join("model.safetensors"))
        .unwrap();
    let pairs = before.parameters().iter().zip(after.parameters().iter());
    pairs
        .filter(|(a, b)| a.values().unwrap() != b.values().unwrap())
        .map(|(a, _)| a.name().to_owned())
        .collect()
}

#[test]
fn frozen_parameters_stay_and_adapters_change_their_matrices_alone() {
    let mut config = config();
    config.run.evaluate_first = false;
    config.optimizer.freeze = vec!["embeddings.".to_owned(), "encoder.layer.0.".to_owned()];
    let names = changed(&config);
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("encoder.layer.1.") || name == "head.weight"),
        "{names:?}"
    );
    assert_eq!(names.len(), 16 + 1, "{names:?}"); // all of a layer, and the head

    config.optimizer.freeze.clear();
    let targets = vec!["query".to_owned(), "value".to_owned()];
    config.lora = Some(LoraConfig {
        targets,
        train: vec!["embeddings.LayerNorm".to_owned()],
        ..LoraConfig::default()
    });
    let names = changed(&config);
    assert_eq!(names.len(), 2 * 2 + 2 + 1, "{names:?}"); // adapters, what is named, the head that is drawn
    assert!(names.contains(&"head.weight".to_owned()), "{names:?}");
}

#[test]
fn what_is_trained_whole_has_no_adapter() {
    let run = new_run();
    let mut config = config();
    config.schedule.max_steps = Some(1);
    config.lora = Some(LoraConfig {
        targets: vec!["query".to_owned()],
        train: vec!["encoder.layer.1.".to_owned()],
        ..LoraConfig::default()
    });
    Setup::new(&config).run(&run).unwrap();
    let files = last_checkpoint(&run);
    let adapters = String::from_utf8_lossy(&files["adapters.safetensors"]);
    assert!(adapters.contains("encoder.layer.0."));
    assert!(!adapters.contains("encoder.layer.1."));
}

#[test]
fn a_run_with_adapters_learns() {
    let mut config = config();
    config.optimizer.accumulate = 1;
    config.schedule.max_steps = Some(60);
    config.run.evaluate_every = Every::Never;
    config.lora = Some(LoraConfig {
        rank: 8,
        alpha: 16.0,
        ..LoraConfig::default()
    });
    let summary = Setup::new(&config).run(&new_run()).unwrap();
    let dev = |step: u64| summary.dev[&step]["loss"];
    assert!(dev(60) < 0.7 * dev(0), "{} {}", dev(0), dev(60));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_trained() {
    let check = |change: &dyn Fn(&mut TrainConfig), expected: &str| {
        let mut config = config();
        change(&mut config);
        let error = Setup::new(&config).run(&new_run()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        &|config| config.optimizer.accumulate = 0,
        "optimizer.accumulate",
    );
    check(&|config| config.optimizer.beta2 = 1.0, "optimizer.beta2");
    check(
        &|config| config.optimizer.epsilon = 0.0,
        "optimizer.epsilon",
    );
    for infinite in [f64::INFINITY, 1e39] {
        // 1e39 has no f32.
        check(
            &|config| config.optimizer.epsilon = infinite,
            "optimizer.epsilon",
        );
    }
    check(
        &|config| config.optimizer.weight_decay = f64::INFINITY,
        "`optimizer.weight_decay` is not finite",
    );
    check(
        &|config| {
            config.optimizer.learning_rate = 0.5;
            config.optimizer.weight_decay = 2.0;
        },
        "`optimizer.weight_decay` is not below 1 when multiplied with optimizer.learning_rate",
    );
    check(&|config| config.run.patience = Some(3), "run.measure");
    check(
        &|config| config.optimizer.freeze = vec!["bert".to_owned()],
        "`bert`",
    );
    check(
        &|config| config.optimizer.freeze = vec![String::new()],
        "nothing to train",
    );
    check(
        &|config| config.run.measure = Some("mrr".to_owned()),
        "loss, hill",
    );
    let lora = |targets: &[&str]| LoraConfig {
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
        ..LoraConfig::default()
    };
    check(
        &|config| config.lora = Some(lora(&["q_lin"])),
        "`lora.targets` names `q_lin`",
    );
    check(
        &|config| config.lora = Some(lora(&["query", "valeu"])),
        "`lora.targets` names `valeu`",
    );

    let folder = tempfile::tempdir().unwrap();
    let run = RunDirectory::create(folder.path(), "a = 1\nb = 2\n", 1).unwrap();
    let error = RunDirectory::resume(run.path(), "a = 1\nb = 3\n").unwrap_err();
    assert!(
        error.to_string().contains("it has `b = 2`, not `b = 3`"),
        "{error}"
    );
    let error = RunDirectory::resume(&folder.path().join("nothing"), "").unwrap_err();
    assert!(matches!(error, TrainError::NoRun { .. }), "{error}");
    let none = Numbers::new(0);
    let config = config();
    let error = Setup {
        batches: none,
        ..Setup::new(&config)
    }
    .run(&run)
    .unwrap_err();
    assert!(
        error.to_string().contains("no epoch has a batch"),
        "{error}"
    );
}

#[test]
fn figures_of_one_name_are_refused() {
    let engine = Engine::new(&EngineConfig::default()).unwrap();
    let mut objective = Regression::new(&engine);
    let figures = || -> Box<dyn Evaluator<Regression>> {
        Box::new(Figures {
            batches: Numbers::new(5),
            n_seen: 0,
            best_at: 1,
        })
    };
    let mut config = config();
    for measure in [None, Some("hill".to_owned())] {
        config.run.measure = measure;
        check(&config, &mut objective, &[figures()]).unwrap();
        let error = check(&config, &mut objective, &[figures(), figures()]).unwrap_err();
        assert!(
            matches!(&error, TrainError::RepeatedMeasure { name } if name == "loss"),
            "{error}"
        );
    }
}

#[test]
fn a_folder_is_free_until_the_log_of_a_run_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let create = |text: &str| RunDirectory::create(&path, text, 1);
    let mut config = config();
    config.optimizer.freeze = vec!["bert".to_owned()];
    let run = create("a = 1\n").unwrap();
    assert!(matches!(create("a = 2\n"), Err(TrainError::InUse { .. })));
    let error = Setup::new(&config).run(&run).unwrap_err();
    assert!(error.to_string().contains("`bert`"), "{error}");

    config.optimizer.freeze.clear();
    config.schedule.max_steps = Some(1);
    let again = create("a = 3\n").unwrap();
    let kept = fs::read_to_string(path.join("config.toml")).unwrap();
    assert_eq!(kept, "a = 3\n");
    Setup::new(&config).run(&again).unwrap();
    assert!(matches!(
        create("a = 3\n"),
        Err(TrainError::Occupied { .. })
    ));

    // Somebody's own file is not overwritten.
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("config.toml"), "mine").unwrap();
    assert!(matches!(
        RunDirectory::create(&other, "", 1),
        Err(TrainError::Occupied { .. })
    ));
}
