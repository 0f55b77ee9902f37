//! How a failure ends the process: one report, one exit code, one hint.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use collection::CollectionError;
use compute::accelerator::AcceleratorError;
use corpus::CorpusError;
use encoder::LoadError;
use encoder::training::TrainingError;
use indexer::{BuildError, GateError, LiveError, VectorsError};
use objects::{Location, ObjectsError};
use retriever::{FingerprintError, SearchError};
use server::{AttachError, ServeError};
use store::StoreError;
use trainer::data::DataError;
use trainer::ranks::CollectiveError;
use trainer::run::{EvaluatorError, TrainError};
use trainer::teacher::TeacherError;
use vectors::VectorFileError;

use crate::output::say;

/// Exit codes, as documented by `trawl --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    Gate = 3,
    Fingerprint = 4,
    Corrupt = 5,
    BadInput = 65,
    Interrupted = 130,
}

/// A failure that a command recognised itself: text, exit code, and what the user can do.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    text: String,
    exit: Exit,
    hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            exit,
            hint: None,
        }
    }

    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Prints the error once, with its causes and a hint, and says how the process ends.
pub fn report(error: &anyhow::Error) -> ExitCode {
    say(format_args!("error: {error}"));
    for cause in &texts(error)[1..] {
        say(format_args!("  cause: {cause}"));
    }
    let (exit, hint) = classify(error);
    if let Some(hint) = hint {
        say(format_args!("  hint: {hint}"));
    }
    ExitCode::from(exit as u8)
}

/// An error and its causes, but for those that the text before ends with: some libraries repeat the cause.
pub fn texts(error: &anyhow::Error) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut last = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if texts.is_empty() || !last.ends_with(&text) {
            texts.push(text.clone());
        }
        last = text;
    }
    texts
}

/// What a device said, which errors of indexes and models pass on as their own.
fn of_device<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a AcceleratorError> {
    if let Some(LoadError::Accelerator(error)) = cause.downcast_ref() {
        return Some(error);
    }
    if let Some(index::OpenError::Load(index::LoadError::Device(error))) = cause.downcast_ref() {
        return Some(error);
    }
    cause.downcast_ref()
}

/// The one place that knows which library error means what to a user.
fn classify(error_chain: &anyhow::Error) -> (Exit, Option<String>) {
    for cause in error_chain.chain() {
        // A writer that was stopped says so inside of its error, which is not behind it in the chain.
        let inside = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let failure = cause.downcast_ref::<Failure>();
        if let Some(failure) = failure.or_else(|| inside?.downcast_ref()) {
            return (failure.exit, failure.hint.clone());
        }
        if let Some(error) = cause.downcast_ref::<CorpusError>()
            && error.is_bad_input()
        {
            let building = error_in_chain::<BuildError>(error_chain);
            let hint = match error {
                CorpusError::BadLine(_) if building => {
                    Some("`--skip-bad-lines` leaves bad lines out and counts them".to_owned())
                }
                CorpusError::UnnamedColumns { .. } | CorpusError::MissingColumn { .. }
                    if building =>
                {
                    Some(
                        "`--columns id,title,text` names the columns of a table without a header"
                            .to_owned(),
                    )
                }
                _ => None,
            };
            return (Exit::BadInput, hint);
        }
        match cause.downcast_ref() {
            Some(
                DataError::Setting { .. }
                | DataError::Marker { .. }
                | DataError::NotWordPieces { .. },
            ) => {
                return (Exit::Usage, None);
            }
            Some(error) if error.is_bad_input() => return (Exit::BadInput, None),
            _ => {}
        }
        if let Some(error) = cause.downcast_ref::<VectorFileError>()
            && error.is_bad_input()
        {
            return (Exit::BadInput, None);
        }
        if let Some(
            VectorsError::Count { .. }
            | VectorsError::Duplicate { .. }
            | VectorsError::Missing { .. }
            | VectorsError::Unused { .. },
        ) = cause.downcast_ref()
        {
            return (Exit::BadInput, None);
        }
        match of_device(cause) {
            Some(AcceleratorError::NotAvailable { .. }) => {
                let hint = "`trawl doctor` shows what is there; `--device cpu` does without";
                return (Exit::Failed, Some(hint.to_owned()));
            }
            Some(AcceleratorError::OutOfMemory { .. }) => {
                let hint = "name more devices, as in `--device cuda:0,cuda:1`, or `--device cpu`";
                return (Exit::Failed, Some(hint.to_owned()));
            }
            _ => {}
        }
        if let Some(error) = cause.downcast_ref::<FingerprintError>() {
            let hint =
                "pass the `--model` that the index was built with; its `manifest.json` names it";
            let exit = match error {
                FingerprintError::Mismatch { .. } => Exit::Fingerprint,
                _ => Exit::Corrupt,
            };
            return (exit, Some(hint.to_owned()));
        }
        match cause.downcast_ref() {
            Some(GateError::Fingerprint { .. }) => {
                let hint = "`--new-model` when the model is meant to change";
                return (Exit::Fingerprint, Some(hint.to_owned()));
            }
            Some(GateError::Rows { .. }) => {
                let hint = "build the generation again with `index build --full`";
                return (Exit::Corrupt, Some(hint.to_owned()));
            }
            Some(GateError::NoQuestion { .. } | GateError::NoEncoder { .. }) => {
                return (Exit::Usage, None);
            }
            _ => {}
        }
        match cause.downcast_ref() {
            Some(
                LiveError::PassageId { .. } | LiveError::Width { .. } | LiveError::Change { .. },
            ) => return (Exit::BadInput, None),
            Some(LiveError::Fingerprint { .. }) => return (Exit::Fingerprint, None),
            Some(error) if error.is_corrupt() => return (Exit::Corrupt, None),
            _ => {}
        }
        if let Some(error) = cause.downcast_ref::<LoadError>() {
            match error {
                LoadError::NotSentenceTransformers { .. }
                | LoadError::Arithmetic { .. }
                | LoadError::MaxTokens { .. }
                | LoadError::Contradiction { .. } => return (Exit::Usage, None),
                LoadError::CrossEncoder { .. } => {
                    let hint = "`trawl rerank --model`, `search --rerank` and `serve --rerank` take a cross-encoder";
                    return (Exit::Usage, Some(hint.to_owned()));
                }
                LoadError::NotAccelerated { .. } => {
                    let hint =
                        "`--device cpu` computes it, and `--device auto` where no device can";
                    return (Exit::Usage, Some(hint.to_owned()));
                }
                _ => return (Exit::Failed, Some(MODEL.to_owned())),
            }
        }
        if let Some(
            SearchError::Filter(_)
            | SearchError::Facets(_)
            | SearchError::Boosts(_)
            | SearchError::Sort(_)
            | SearchError::GroupField { .. }
            | SearchError::Weights(_),
        ) = cause.downcast_ref()
        {
            return (Exit::Usage, None);
        }
        match cause.downcast_ref() {
            Some(AttachError::Arithmetic { .. }) => {
                let hint =
                    "give `--precision` the index's arithmetic, or leave out `--strict-arithmetic`";
                return (Exit::Fingerprint, Some(hint.to_owned()));
            }
            Some(AttachError::NoModel { kind, name, .. }) => {
                let hint =
                    format!("`[models.{name}]` with `role = \"{kind}\"` in `server.toml` loads it");
                return (Exit::Failed, Some(hint));
            }
            _ => {}
        }
        if let Some((exit, hint)) = of_training(cause) {
            return (exit, hint.map(str::to_owned));
        }
        if let Some(ServeError::Bind { .. }) = cause.downcast_ref() {
            let hint = "take another port: `serve --bind 127.0.0.1:N`, `quickstart --port N`";
            return (Exit::Failed, Some(hint.to_owned()));
        }
        if let Some(error) = cause.downcast_ref::<ObjectsError>()
            && let Some((exit, hint)) = of_storage(error)
        {
            return (exit, hint.map(str::to_owned));
        }
        if is_corrupt(cause) {
            return (Exit::Corrupt, Some(VERIFY.to_owned()));
        }
        match cause.downcast_ref() {
            Some(BuildError::Interrupted { .. }) => {
                let hint = "`--resume` continues where it stopped";
                return (Exit::Interrupted, Some(hint.to_owned()));
            }
            Some(BuildError::Chunk { .. } | BuildError::Record { .. }) => {
                let hint = "`index build --resume` or `index encode` of that part makes it again";
                return (Exit::Corrupt, Some(hint.to_owned()));
            }
            Some(
                BuildError::Template(_)
                | BuildError::Shards { .. }
                | BuildError::Graph(_)
                | BuildError::Stride { .. }
                | BuildError::NothingToSplit
                | BuildError::EmptyChunks
                | BuildError::LogPosition { .. },
            ) => {
                return (Exit::Usage, None);
            }
            _ => {}
        }
        if let Some(BuildError::Builds { n_builds, .. }) = cause.downcast_ref() {
            let hint = match *n_builds {
                0 => {
                    "`trawl index encode` makes parts; `--build DIGEST` names a build that is complete already"
                }
                _ => "`--build DIGEST` says which; `trawl index status` shows them",
            };
            return (Exit::Failed, Some(hint.to_owned()));
        }
        let hint = match cause.downcast_ref() {
            Some(CollectionError::InProgress { .. }) => {
                "`--resume` continues that build, `--restart` drops it"
            }
            Some(CollectionError::NotACollection { path }) if Location::is_url(path) => {
                "`trawl index pull` copies a collection from object storage, `trawl serve` follows it there"
            }
            Some(CollectionError::NotACollection { .. }) => {
                "a collection is the folder that `trawl index build --collection` names"
            }
            Some(CollectionError::Unknown { .. }) => {
                "`trawl index list COLLECTION` shows what there is"
            }
            _ => continue,
        };
        return (Exit::Failed, Some(hint.to_owned()));
    }
    (Exit::Failed, None)
}

/// What a failure of object storage means; none where its cause says more.
fn of_storage(error: &ObjectsError) -> Option<(Exit, Option<&'static str>)> {
    match error {
        ObjectsError::Interrupted { .. } => {
            Some((Exit::Interrupted, Some("the same command goes on")))
        }
        ObjectsError::Changed { .. } => {
            let hint = "`index list` shows what it names now; the same command replaces that";
            Some((Exit::Failed, Some(hint)))
        }
        ObjectsError::Collection(_) => None,
        error if error.is_corrupt() => Some((Exit::Corrupt, None)),
        error if error.is_usage() => Some((Exit::Usage, None)),
        error if error.is_refused() => {
            let hint =
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN say who asks";
            Some((Exit::Failed, Some(hint)))
        }
        _ => None,
    }
}

/// What a failure of training means.
fn of_training(cause: &(dyn std::error::Error + 'static)) -> Option<(Exit, Option<&'static str>)> {
    match cause.downcast_ref() {
        Some(TrainError::Occupied { .. }) => {
            let hint = "`--resume` goes on with that run, `--out` names another folder";
            return Some((Exit::Usage, Some(hint)));
        }
        Some(TrainError::NoRun { .. }) => {
            let hint = "without `--resume` it begins there, `--out` names another folder";
            return Some((Exit::Usage, Some(hint)));
        }
        Some(TrainError::RepeatedMeasure { .. }) => {
            let hint = "`dev.examples` have that one too; a cutoff gives one of `dev.measures` another name, such as `mrr@100`";
            return Some((Exit::Usage, Some(hint)));
        }
        Some(
            TrainError::Setting { .. }
            | TrainError::Nothing { .. }
            | TrainError::UnknownParameter { .. }
            | TrainError::UnknownTarget { .. }
            | TrainError::UnknownMeasure { .. }
            | TrainError::OtherConfig { .. }
            | TrainError::OtherData { .. }
            | TrainError::Unshareable { .. },
        ) => return Some((Exit::Usage, None)),
        _ => {}
    }
    let of_ranks = match cause.downcast_ref() {
        Some(TrainError::Ranks(error)) => Some(error),
        _ => cause.downcast_ref(),
    };
    match of_ranks {
        Some(
            CollectiveError::Different { .. }
            | CollectiveError::NoRank { .. }
            | CollectiveError::Repeated { .. }
            | CollectiveError::Address { .. },
        ) => return Some((Exit::Usage, None)),
        Some(CollectiveError::Absent { .. }) => {
            let hint = "`--rank-timeout` is how long ranks are waited for";
            return Some((Exit::Failed, Some(hint)));
        }
        Some(CollectiveError::Stuck { .. }) => {
            let hint = "`--rank-patience` is how long a rank may work between two exchanges; \
                all ranks started again with `--resume` go on from the last checkpoint";
            return Some((Exit::Failed, Some(hint)));
        }
        Some(_) => {
            let hint = "all ranks started again with `--resume` go on from the last checkpoint";
            return Some((Exit::Failed, Some(hint)));
        }
        None => {}
    }
    match cause.downcast_ref() {
        Some(EvaluatorError::Corpus(error)) if error.is_bad_input() => {
            return Some((Exit::BadInput, None));
        }
        Some(
            EvaluatorError::Missing { .. }
            | EvaluatorError::NoQuery { .. }
            | EvaluatorError::NoRanking { .. },
        ) => return Some((Exit::BadInput, None)),
        _ => {}
    }
    match cause.downcast_ref() {
        Some(TeacherError::Interrupted { .. }) => {
            return Some((Exit::Interrupted, Some("the same command goes on")));
        }
        Some(TeacherError::OtherSetting { .. } | TeacherError::OtherPassage { .. }) => {
            let hint = "without that file the work begins anew; with the same arguments it goes on";
            return Some((Exit::Usage, Some(hint)));
        }
        _ => {}
    }
    match cause.downcast_ref() {
        Some(TrainingError::Setting { .. } | TrainingError::Settings { .. }) => {
            Some((Exit::Usage, None))
        }
        _ => None,
    }
}

fn error_in_chain<E: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<E>())
}

/// Whether bytes on disk are not those that were written.
fn is_corrupt(cause: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<index::OpenError>() {
        return match error {
            index::OpenError::Read { source, .. } => source.kind() == ErrorKind::NotFound,
            _ => true,
        };
    }
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return match error {
            StoreError::Read { source, .. } => source.kind() == ErrorKind::NotFound,
            StoreError::Ordinal { .. } => false,
            _ => true,
        };
    }
    let error = cause.downcast_ref::<CollectionError>();
    error.is_some_and(|error| {
        error.is_corrupt() || matches!(error, CollectionError::Manifest { .. })
    })
}

const MODEL: &str =
    "`trawl doctor` says what is wrong with the default model, `trawl model info` with another";
const VERIFY: &str = "`trawl index verify COLLECTION` names every damaged file";
