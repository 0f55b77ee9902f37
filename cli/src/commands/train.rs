mod file;
mod objective;
mod plot;
mod pretraining;
mod sources;
mod texts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use encoder::training::{Engine, EngineConfig};
use encoder::{AcceleratorConfig, Arithmetic, Directory, EncoderConfig, ModelOptions};
use evaluation::Measure;
use serde_json::json;
use trainer::data::Group;
use trainer::objective::{BiEncoderObjective, CrossEncoderObjective};
use trainer::ranks::Collective;
use trainer::run::{
    Describe, DevConfig, DevSet, End, Evaluator, Event, Job, LossEvaluator, ModelCard, Plan,
    RerankEvaluator, RunDirectory, SearchEvaluator, Summary, train,
};
use trainer::{Batches, GroupBatches, Objective};

use self::file::{DevSection, TrainFile};
use self::objective::ObjectiveSection;
use self::sources::Examples;
use crate::device::DeviceChoice;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::ranks::{self, Limits, Place};
use crate::{interrupt, model};

const EXAMPLE: &str = include_str!("train/example.toml");

/// In seconds: the longest that other processes may be waited for, of which a clock can tell the end.
const A_YEAR: u64 = 365 * 24 * 3600;

/// Arguments of `trawl train`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  trawl train --example > train.toml                a configuration with its keys explained
  trawl train train.toml --dry-run                  what it would do
  trawl train train.toml --out runs/first --set optimizer.learning_rate=1e-5
  trawl train train.toml --out runs/first --device cuda:0
  trawl train train.toml --out runs/first --resume  after Ctrl-C or a crash
  trawl train retromae.toml --out runs/general --keep-decoder
                                                    pre-training, whose decoders another run goes on with
  trawl train plot runs/first runs/second           their losses as curves
  torchrun --no-python --nproc-per-node 2 --max-restarts 3 \
    trawl train train.toml --out runs/first --resume  two processes, started again when one dies

Started by torchrun, srun, mpirun or Ray, each process is one rank and takes its share of every batch: the same run, to
rounding. MASTER_ADDR and MASTER_PORT say where rank 0 listens; docs/training.md has more.

The run directory holds the resolved configuration, metrics.jsonl, TensorBoard events, checkpoints, and the model
under `export`.")]
pub struct TrainArgs {
    #[command(subcommand)]
    command: Option<TrainCommand>,
    /// Configuration: TOML.
    #[arg(value_name = "CONFIG.toml", required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Set a key of the configuration; may be given more than once.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the run (default: `runs/` and the name of the configuration).
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What computes, in place of `engine.device`: cpu, cuda:0, auto; of several processes each takes one of cuda:0,cuda:1.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceChoice>,
    /// Go on where the run was stopped; of several processes: or begin it.
    #[arg(long)]
    resume: bool,
    /// How long other processes of the run are waited for, and how long one may be silent.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=A_YEAR))]
    rank_timeout: u64,
    /// How long rank 0 waits for a process that lives and hangs; the others wait for rank 0 and its dev figures twice as long.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=A_YEAR))]
    rank_patience: u64,
    /// Where rank 0 listens (default: MASTER_PORT; of torchrun, which listens there itself, the one after it).
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    rank_port: Option<u16>,
    /// Exchange over MPI: for a trawl that was built with the feature `mpi`, and is started by its mpirun.
    #[arg(long, conflicts_with_all = ["rank_timeout", "rank_patience", "rank_port"])]
    mpi: bool,
    /// Keep the decoders of pre-training beside the exported model: `objective.keep_decoders`.
    #[arg(long)]
    keep_decoder: bool,
    /// Read model and data, take one batch through the model, say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Print a configuration with comments.
    #[arg(long, conflicts_with_all = ["config", "set", "out", "resume", "keep_decoder", "dry_run"])]
    example: bool,
}

/// What is done with runs.
#[derive(Debug, clap::Subcommand)]
enum TrainCommand {
    /// Draw what runs logged: losses and dev figures, as a PNG.
    Plot(plot::PlotArgs),
}

pub fn run(args: TrainArgs, output: &Output) -> anyhow::Result<()> {
    if let Some(TrainCommand::Plot(args)) = &args.command {
        return plot::run(args, output);
    }
    let Some(path) = args.config.as_deref().filter(|_| !args.example) else {
        return output::print(EXAMPLE);
    };
    let mut file = TrainFile::read(path, &args.set)?;
    file.train_config().check()?;
    if args.keep_decoder {
        let ObjectiveSection::Pretraining(section) = &mut file.objective else {
            let text = "`--keep-decoder` is for objectives of pre-training";
            return Err(Failure::usage(text).into());
        };
        section.keep_decoders = true;
    }
    let folder = model::find(&file.sections.model.path)?;
    let place = match args.dry_run || args.mpi {
        true => None,
        false => Place::of_environment(args.rank_port)?,
    };
    let engine = &mut file.sections.engine;
    if let Some(device) = &args.device {
        engine.device = device.clone();
    }
    let is_alone = place.is_none() && !args.mpi && !args.dry_run;
    if is_alone
        && let DeviceChoice::Cuda(numbers) = &engine.device
        && numbers.len() > 1
    {
        let text = format!("a process trains on one device, not on `{}`", engine.device);
        return Err(Failure::usage(text)
            .hint("start a process for each, as torchrun does")
            .into());
    }
    let local_rank = match &place {
        Some(place) => place.local_rank,
        None if args.mpi => ranks::local_rank()?.unwrap_or(0),
        None => 0,
    };
    let device = engine.device.open_one(local_rank)?;
    engine.precision = engine.precision.resolve(device.is_some());
    compute::keep_freed_memory();
    let mut config = EngineConfig::default();
    let n_local = place.as_ref().map_or(1, |place| place.n_local);
    config.threads = match engine.threads {
        None => (compute::thread_budget(None) / n_local).max(1),
        threads => compute::thread_budget(threads),
    };
    config.precision = engine.precision.precision();
    let engine = match device {
        Some(device) => Engine::on_device(&config, device)?,
        None => Engine::new(&config)?,
    };
    // Ranks with other vector instructions, or of which one has a device, would drift apart.
    let common = format!(
        "{} {:?} {:?} {} {}",
        env!("CARGO_PKG_VERSION"),
        config.simd,
        config.precision,
        engine.accelerator().is_some(),
        file.resolved()?
    );
    let limits = Limits {
        timeout: Duration::from_secs(args.rank_timeout),
        patience: Duration::from_secs(args.rank_patience),
    };
    let ranks = match args.mpi && !args.dry_run {
        true => ranks::join_mpi(&common)?,
        false => ranks::connect(place.as_ref(), &common, limits)?,
    };
    let silent = output.silent();
    let output = if ranks.is_first() { output } else { &silent };
    let session = |file| Session {
        args: &args,
        path,
        file,
        engine: Arc::clone(&engine),
        output,
        ranks: &*ranks,
    };
    // The configuration that is kept says what the model decided.
    let outcome = match file.objective.clone() {
        ObjectiveSection::BiEncoder(mut config) => {
            let guide = config.guide.as_mut().map(|guide| &mut guide.model);
            for other in guide.into_iter().chain(&mut config.passage_model) {
                *other = model::find(other)?;
            }
            let objective = BiEncoderObjective::load(&folder, &config, &engine)?;
            for warning in objective.warnings() {
                tracing::warn!("{warning}");
            }
            file.objective = ObjectiveSection::BiEncoder(objective.config().clone());
            let n_vocabulary = objective.n_vocabulary();
            session(&file).fine_tune(objective, n_vocabulary)
        }
        ObjectiveSection::CrossEncoder(config) => {
            let folder = Directory::transformer_of(&folder)?;
            let objective = CrossEncoderObjective::load(&folder, &config, &engine)?;
            file.objective = ObjectiveSection::CrossEncoder(objective.config().clone());
            let n_vocabulary = objective.n_vocabulary();
            session(&file).fine_tune(objective, n_vocabulary)
        }
        ObjectiveSection::Pretraining(section) => {
            session(&file).pretrain(&section, &Directory::transformer_of(&folder)?)
        }
    };
    if outcome.is_ok() {
        ranks.finish();
    }
    outcome
}

/// One call of the command.
struct Session<'a> {
    args: &'a TrainArgs,
    /// The configuration.
    path: &'a Path,
    file: &'a TrainFile,
    engine: Arc<Engine>,
    output: &'a Output,
    /// The processes that train together.
    ranks: &'a dyn Collective,
}

/// What a session trains on, and what takes its dev figures.
struct Work<B, R, E> {
    batches: B,
    /// A line on the batches, of so many tokens each.
    remark: R,
    /// Makes the evaluators, which may write into the folder of the run.
    evaluators: E,
}

/// What takes the dev figures of an objective.
type Evaluators<'a, O> = Vec<Box<dyn Evaluator<O> + 'a>>;

impl Session<'_> {
    fn fine_tune<O: Objective<Batch = Vec<Group>>>(
        &self,
        objective: O,
        n_vocabulary: usize,
    ) -> anyhow::Result<()> {
        let sections = &self.file.sections;
        if sections.data.train.is_empty() {
            let text = "there is no `[[data.train]]`, which fine-tuning reads";
            return Err(Failure::usage(text).into());
        }
        let dev_texts = sections.dev.as_ref().and_then(|dev| dev.texts);
        let data = &sections.data;
        let strange = [
            ("data.corpus", data.corpus.is_some()),
            ("data.cache", data.cache.is_some()),
            ("data.shard", data.shard.is_some()),
            ("dev.texts", dev_texts.is_some()),
        ];
        if let Some((key, _)) = strange.iter().find(|(_, is_given)| *is_given) {
            return Err(Failure::usage(format!("`{key}` is for pre-training")).into());
        }
        let masks_own = match &self.file.objective {
            ObjectiveSection::BiEncoder(config) => {
                config.mask.own && config.contrastive_weight > 0.0 && data.group_size > 1
            }
            _ => false,
        };
        if masks_own && data.batch_size == 1 {
            let text = "`objective.mask.own` leaves out a query's own negatives: with `data.batch_size` 1 none is left, and \
                        the contrastive loss is always 0";
            return Err(Failure::usage(text).into());
        }
        let progress = Progress::new(self.output);
        let seed = self.file.sections.run.seed;
        let distils = self.file.objective.distils();
        let batches = Examples::read(data, seed, distils, n_vocabulary, &progress)?;
        progress.finish();
        let n_examples = batches.n_examples;
        let n_queries = data.batch_size;
        // What stands twice and waits, or several data sets that are kept apart, may leave other batches of one.
        if masks_own && ends_alone(n_examples as usize, n_queries) && !data.drop_last {
            let text = "the last batch of an epoch has one query, whose own negatives `objective.mask.own` leaves out: its \
                        contrastive loss is 0; `data.drop_last` leaves it out";
            self.output.remark(text);
        }
        let n_passages = n_queries.saturating_mul(data.group_size);
        self.train(
            objective,
            Work {
                batches,
                remark: |n_tokens| {
                    format!(
                        "{n_examples} examples; {n_queries} queries and {n_passages} passages a batch, about {n_tokens} \
                         tokens; accumulation does not enlarge this pool",
                    )
                },
                evaluators: |folder: &Path, progress: &Progress| {
                    self.evaluators(folder, n_vocabulary, progress)
                },
            },
        )
    }

    fn train<'a, O, B>(
        &'a self,
        mut objective: O,
        work: Work<
            B,
            impl FnOnce(u64) -> String,
            impl FnOnce(&Path, &Progress) -> anyhow::Result<Evaluators<'a, O>>,
        >,
    ) -> anyhow::Result<()>
    where
        O: Objective + 'a,
        O::Batch: Describe,
        B: Batches<Batch = O::Batch>,
    {
        let batches = work.batches;
        let config = self.file.train_config();
        let first = if batches.is_empty(0) {
            None
        } else {
            Some(objective.evaluate(&batches.batch(0, 0)?)?)
        };
        let n_tokens = first.as_ref().map_or(0, |report| report.n_tokens) as u64;
        self.output.remark((work.remark)(n_tokens));
        if self.args.dry_run {
            let n_steps = config.n_steps(&batches)?;
            let progress = Progress::new(self.output);
            let evaluators = (work.evaluators)(&self.folder(), &progress)?;
            progress.finish();
            trainer::run::check(&config, &mut objective, &evaluators)?;
            let report = json!({
                "steps": n_steps,
                "batches_an_epoch": batches.len(0),
                "tokens_a_batch": n_tokens,
                "tokens": n_tokens.saturating_mul(n_steps).saturating_mul(config.optimizer.accumulate as u64),
                "loss_of_the_first_batch": first.map(|report| report.loss),
                "config": self.file.resolved()?,
            });
            return self.output.result(&report, |report| {
                let rows = [
                    "steps",
                    "batches_an_epoch",
                    "tokens_a_batch",
                    "tokens",
                    "loss_of_the_first_batch",
                ];
                let rows = rows.map(|name| vec![name.replace('_', " "), report[name].to_string()]);
                output::table(&["what", "value"], &["value"], rows.to_vec())
            });
        }

        let folder = self.folder();
        let resolved = self.file.resolved()?;
        let progress = Progress::new(self.output);
        let evaluators = match self.ranks.is_first() {
            true => (work.evaluators)(&folder, &progress)?,
            false => Vec::new(),
        };
        let run = self.open(&folder, &resolved, config.run.seed)?;
        let stop = interrupt::flag()?;
        let start = Instant::now();
        let card = |summary: &Summary| self.card(&folder, &resolved, summary);
        let mut seen = Seen::default();
        let summary = train(
            &config,
            &run,
            Job {
                objective: &mut objective,
                batches: &batches,
                engine: &self.engine,
                evaluators,
                stop: &stop,
                watch: &mut |event| watch(&event, &progress, &mut seen, n_tokens),
                card: Some(&card),
                ranks: self.ranks,
            },
        );
        progress.finish();
        let summary = summary.context("training failed")?;
        if summary.end == End::Interrupted {
            let n_steps = seen.n_steps;
            let text = format!("stopped after {} of {n_steps} steps", summary.steps);
            return Err(Failure::new(Exit::Interrupted, text)
                .hint("`--resume` goes on from there")
                .into());
        }
        if !self.ranks.is_first() {
            return Ok(());
        }
        let report = json!({
            "run": folder, "export": run.export(), "seconds": start.elapsed().as_secs_f64(), "summary": summary,
        });
        self.output
            .result(&report, |_| table(&summary, &run.export(), start))
    }

    /// Says whether the run can be started, before hours are spent on its texts.
    fn check_folder(&self) -> anyhow::Result<()> {
        let folder = self.folder();
        let checked = match self.resumes(&folder) {
            true => RunDirectory::resume(&folder, &self.file.resolved()?).map(drop),
            false => RunDirectory::check_free(&folder),
        };
        checked.with_context(|| cannot_start(&folder))
    }

    /// Whether a run goes on that is there. Of several processes a launcher repeats the command that began it, also of a
    /// run that was refused before its log began. Only for rank 0: to look at the folder locks it for a moment.
    fn resumes(&self, folder: &Path) -> bool {
        let has_begun =
            || folder.join("config.toml").exists() && RunDirectory::check_free(folder).is_err();
        self.args.resume && (self.ranks.is_alone() || has_begun())
    }

    /// Starts the run or goes on with it, rank 0 before the others.
    fn open(&self, folder: &Path, resolved: &str, seed: u64) -> anyhow::Result<RunDirectory> {
        let run = match self.ranks.is_first() {
            false => Ok(RunDirectory::join(folder)),
            true if self.resumes(folder) => RunDirectory::resume(folder, resolved),
            true => RunDirectory::create(folder, resolved, seed),
        };
        let run = run.with_context(|| cannot_start(folder))?;
        self.ranks.barrier()?;
        Ok(run)
    }

    fn folder(&self) -> PathBuf {
        let stem = self.path.file_stem().unwrap_or_default();
        self.args
            .out
            .clone()
            .unwrap_or_else(|| Path::new("runs").join(stem))
    }

    /// What takes dev figures, as `[dev]` says.
    fn evaluators<'a, O: Objective<Batch = Vec<Group>> + 'a>(
        &self,
        scratch: &Path,
        n_vocabulary: usize,
        progress: &Progress,
    ) -> anyhow::Result<Evaluators<'a, O>> {
        let mut evaluators: Evaluators<'a, O> = Vec::new();
        let Some(dev) = &self.file.sections.dev else {
            return Ok(evaluators);
        };
        let measures = dev.measures.clone();
        if let (ObjectiveSection::BiEncoder(_), Some(_)) = (&self.file.objective, &dev.run) {
            let text = "`dev.run` is for cross-encoders; a bi-encoder searches the dev set itself";
            return Err(Failure::usage(text).into());
        }
        if let Some(set) = self.dev_set(dev)? {
            let encoder = EncoderConfig {
                threads: compute::thread_budget(self.file.sections.engine.threads),
                arithmetic: Arithmetic::Auto,
                accelerator: self.engine.accelerator().map(|device| AcceleratorConfig {
                    optional: true,
                    ..AcceleratorConfig::new(vec![device.clone()])
                }),
                ..EncoderConfig::default()
            };
            let (n_queries, n_passages) = (set.queries.len(), set.passages.len());
            self.output.remark(format!(
                "dev figures of {n_queries} queries in {n_passages} passages"
            ));
            let scratch = scratch.to_owned();
            match &self.file.objective {
                ObjectiveSection::BiEncoder(config) => {
                    let options = ModelOptions {
                        query_tokens: Some(config.query_tokens),
                        passage_tokens: Some(config.passage_tokens),
                        ..ModelOptions::default()
                    };
                    let (dev, depth) = (set, dev.depth);
                    evaluators.push(Box::new(SearchEvaluator {
                        dev,
                        measures,
                        depth,
                        encoder,
                        options,
                        scratch,
                    }));
                }
                ObjectiveSection::CrossEncoder(_) => {
                    let run = dev.run.as_deref().ok_or_else(|| {
                        Failure::usage(
                            "`dev.run` is missing: a cross-encoder reorders the head of a run",
                        )
                    })?;
                    evaluators.push(Box::new(RerankEvaluator::new(
                        set, run, dev.depth, measures, encoder, scratch,
                    )?));
                }
                ObjectiveSection::Pretraining(_) => unreachable!("its figures are the loss"),
            }
        }
        if !dev.examples.is_empty() {
            let distils = self.file.objective.distils();
            let groups = sources::held_out(&self.file.sections.data, distils);
            let sources = sources::read(&dev.examples, &groups.sampling, n_vocabulary, progress)?;
            let batches = GroupBatches::new(sources, groups)?;
            if batches.is_empty(0) {
                return Err(Failure::usage("`dev.examples` are too few for a batch").into());
            }
            evaluators.push(Box::new(LossEvaluator { batches }));
        }
        Ok(evaluators)
    }

    fn dev_set(&self, dev: &DevSection) -> anyhow::Result<Option<Arc<DevSet>>> {
        let Some(dataset) = &dev.dataset else {
            let own = DevSection::default();
            let of_dataset = [
                ("dev.run", dev.run.is_some()),
                ("dev.max_queries", dev.max_queries.is_some()),
                ("dev.distractors", dev.distractors.is_some()),
                ("dev.passage_template", dev.passage_template.is_some()),
                ("dev.pair", dev.pair),
                // Files of resolved configurations say the defaults of these.
                ("dev.split", dev.split != own.split),
                ("dev.depth", dev.depth != own.depth),
                ("dev.measures", dev.measures != own.measures),
                (
                    "dev.query_template",
                    dev.query_template != own.query_template,
                ),
            ];
            return match of_dataset.iter().find(|(_, is_given)| *is_given) {
                Some((key, _)) => {
                    let text = format!("`{key}` goes with `dev.dataset`");
                    Err(Failure::usage(text).into())
                }
                None if dev.examples.is_empty() => {
                    let text =
                        "`[dev]` has neither `dataset` nor `examples`, of which figures are taken";
                    Err(Failure::usage(text).into())
                }
                None => Ok(None),
            };
        };
        let cutoff = |measure: &Measure| measure.cutoff.is_some_and(|cutoff| cutoff > dev.depth);
        if let Some(measure) = dev.measures.iter().find(|measure| cutoff(measure)) {
            let text = format!("`dev.depth` is {}, which `{measure}` exceeds", dev.depth);
            return Err(Failure::usage(text).into());
        }
        let config = DevConfig {
            dataset: dataset.clone(),
            split: dev.split.clone(),
            max_queries: dev.max_queries,
            n_distractors: dev.distractors,
            seed: self.file.sections.run.seed,
            query_template: dev.query_template.clone(),
            passage: sources::passage_text(dev.pair, dev.passage_template.as_ref())?,
        };
        let set = DevSet::read(&config)
            .with_context(|| format!("cannot read dev set `{}`", dataset.display()));
        Ok(Some(Arc::new(set?)))
    }

    fn card(&self, folder: &Path, resolved: &str, summary: &Summary) -> String {
        let (model, data) = (&self.file.sections.model, &self.file.sections.data);
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let sources = data.train.iter().map(sources::describe);
        let data: Vec<String> = sources
            .chain(data.corpus.iter().map(texts::describe))
            .collect();
        let rounded = |tokens: u64| format!("{:.1} million", tokens as f64 / 1e6);
        let mut training = vec![
            ("steps".to_owned(), summary.steps.to_string()),
            ("examples seen".to_owned(), summary.examples.to_string()),
            ("tokens seen".to_owned(), rounded(summary.tokens)),
        ];
        training.extend(counted_first(summary));
        ModelCard {
            name: model.name.as_deref().unwrap_or(&name),
            kind: self.file.objective.kind(),
            base: &model.path.file_name().unwrap_or_default().to_string_lossy(),
            license: model.license.as_deref(),
            data: &data,
            training: &training,
            figures: &figures(summary),
            config: resolved,
        }
        .render()
    }
}

/// Whether the last of the batches that so many examples make has a single one.
fn ends_alone(n_examples: usize, batch_size: usize) -> bool {
    batch_size > 1 && n_examples % batch_size == 1
}

fn cannot_start(folder: &Path) -> String {
    format!("cannot start the run in `{}`", folder.display())
}

/// What is to be told of the texts of the first epoch.
fn counted_first(summary: &Summary) -> Vec<(String, String)> {
    let Some((epoch, counts)) = summary.epochs.first_key_value() else {
        return Vec::new();
    };
    counted(counts)
        .map(|(name, n)| (format!("{name}, epoch {epoch}"), n))
        .collect()
}

/// Dev figures: name, before the first step, of the weights that were exported.
fn figures(summary: &Summary) -> Vec<(String, Option<f64>, f64)> {
    let before = summary.dev.get(&0);
    let after = match summary.best {
        Some(best) => summary.dev.get(&best.step),
        None => summary.dev.values().next_back(),
    };
    let after: BTreeMap<String, f64> = after.cloned().unwrap_or_default();
    let row = |(name, value): (String, f64)| {
        let before = before.and_then(|figures| figures.get(&name)).copied();
        (name, before, value)
    };
    after.into_iter().map(row).collect()
}

/// What a run has told so far.
#[derive(Default)]
struct Seen {
    n_steps: u64,
    /// Of the epoch that was told last.
    counts: BTreeMap<String, u64>,
}

/// What is to be told of the texts of an epoch: names, and how many of how many.
fn counted(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (String, String)> {
    let told = counts
        .iter()
        .filter(|(name, n)| !["texts", "spans"].contains(&name.as_str()) && **n > 0);
    told.map(|(name, n)| {
        let whole = if name == "cut_spans" {
            "spans"
        } else {
            "texts"
        };
        let n_all = counts.get(whole).copied().unwrap_or(0);
        (name.replace('_', " "), format!("{n} of {n_all} {whole}"))
    })
}

fn watch(event: &Event<'_>, progress: &Progress, seen: &mut Seen, tokens_a_batch: u64) {
    match event {
        Event::Started(plan) => {
            seen.n_steps = plan.n_steps;
            let Plan {
                n_steps,
                n_batches,
                n_values,
                n_trained,
                step,
                ..
            } = plan;
            let millions = |n: usize| n as f64 / 1e6;
            progress.remark(&format!(
                "{n_steps} steps, {n_batches} batches an epoch, about {:.1} million tokens; {:.1} of {:.1} million weights \
                 are trained",
                plan.n_all_batches as f64 * tokens_a_batch as f64 / 1e6,
                millions(*n_trained),
                millions(*n_values),
            ));
            if *step > 0 {
                progress.remark(&format!("going on after step {step}"));
            }
        }
        Event::Step(log) => {
            let note = format!("loss {:.4}, {:.0} tokens/s", log.loss, log.tokens_per_s);
            progress.update_with("train", "steps", log.step, seen.n_steps, &note);
        }
        Event::Epoch(epoch, counts) if seen.counts != **counts => {
            let counted: Vec<String> = counted(counts)
                .map(|(name, n)| format!("{name} {n}"))
                .collect();
            if !counted.is_empty() {
                progress.remark(&format!("epoch {epoch}: {}", counted.join(", ")));
            }
            seen.counts.clone_from(counts);
        }
        Event::Epoch(..) => {}
        Event::Evaluated(step, figures) => {
            let figures: Vec<String> = figures
                .iter()
                .map(|(name, value)| format!("{name} {value:.4}"))
                .collect();
            progress.remark(&format!("step {step}: {}", figures.join(", ")));
        }
        Event::Saved(step) => tracing::info!(step, "checkpoint written"),
        Event::Exported(path) => tracing::info!(path = %path.display(), "model written"),
    }
}

fn table(summary: &Summary, export: &Path, start: Instant) -> String {
    let mut rows = vec![
        vec!["steps".to_owned(), summary.steps.to_string()],
        vec!["examples".to_owned(), summary.examples.to_string()],
        vec!["tokens".to_owned(), summary.tokens.to_string()],
        vec![
            "tokens/s".to_owned(),
            format!("{:.0}", summary.tokens_per_s),
        ],
        vec![
            "TFLOP of products".to_owned(),
            format!("{:.1}", summary.operations as f64 / 1e12),
        ],
        vec![
            "seconds".to_owned(),
            format!("{:.1}", start.elapsed().as_secs_f64()),
        ],
    ];
    let counts = counted_first(summary).into_iter();
    rows.extend(counts.map(|(name, n)| vec![name, n]));
    if summary.end == End::StoppedEarly {
        rows.push(vec!["stopped early".to_owned(), "yes".to_owned()]);
    }
    if let Some(best) = summary.best {
        rows.push(vec!["best step".to_owned(), best.step.to_string()]);
    }
    for (name, before, after) in figures(summary) {
        let before = before.map_or(String::new(), |value| format!(" (before: {value:.4})"));
        rows.push(vec![name, format!("{after:.4}{before}")]);
    }
    rows.push(vec!["model".to_owned(), export.display().to_string()]);
    output::table(&["what", "value"], &["value"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_told_beside_what_there_was() {
        let counts = [
            ("texts", 10),
            ("spans", 20),
            ("cut_spans", 15),
            ("cut_queries", 4),
            ("cut_texts", 0),
        ];
        let counts = counts.map(|(name, n)| (name.to_owned(), n)).into();
        let told: Vec<(String, String)> = counted(&counts).collect();
        let expected = [
            ("cut queries", "4 of 10 texts"),
            ("cut spans", "15 of 20 spans"),
        ];
        assert_eq!(told, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
