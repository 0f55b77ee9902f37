//! The configuration of a run: TOML with `[model]`, `[data]`, `[objective]` and so on, and `--set` above it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use corpus::Template;
use encoder::training::Precision;
use evaluation::{Measure, MeasureKind};
use serde::{Deserialize, Serialize};
use server::nearest;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};
use trainer::data::{DataSource, LineFormat, SamplingRule};
use trainer::run::{LoraConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig};
use trainer::{Mixing, Shard};

use super::objective::ObjectiveSection;
use crate::device::DeviceChoice;
use crate::failure::Failure;

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct TrainFile {
    pub sections: Sections,
    pub objective: ObjectiveSection,
}

/// The keys of `[data]` and `[dev]` that pre-training reads; all others are of fine-tuning, and so is `[lora]`.
const OF_PRETRAINING: [(&str, &[&str]); 2] = [
    (
        "data",
        &["corpus", "cache", "shard", "batch_size", "drop_last"],
    ),
    ("dev", &["texts"]),
];

/// Every section but `[objective]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sections {
    pub model: ModelSection,
    pub data: DataSection,
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    #[serde(default)]
    pub schedule: ScheduleConfig,
    #[serde(default)]
    pub run: RunConfig,
    #[serde(default)]
    pub engine: EngineSection,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<DevSection>,
}

/// `[model]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Where training begins: directory, or name in the model folder.
    pub path: PathBuf,
    /// Name of the trained model, for its card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its licence, for its card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

/// `[data]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// What fine-tuning reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub train: Vec<SourceSection>,
    /// What pre-training reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<CorpusSection>,
    /// Folder of the tokens of `corpus`; the run's own without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// The part of `corpus` that this one of several processes reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Queries of a batch, or texts in pre-training.
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    /// Passages of a query: a positive and negatives.
    #[serde(default = "group_size")]
    pub group_size: usize,
    #[serde(default)]
    pub sampling: SamplingRule,
    #[serde(default)]
    pub first_positive: bool,
    #[serde(default)]
    pub first_negatives: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_pool: Option<usize>,
    #[serde(default)]
    pub drop_last: bool,
    #[serde(default)]
    pub no_duplicates: bool,
    #[serde(default)]
    pub mixing: Mixing,
    /// Reads the files again in each epoch instead of keeping their texts.
    #[serde(default)]
    pub stream: bool,
    /// Lines out of which the next one is drawn, with `stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle_buffer: Option<usize>,
}

/// Where examples come from: `files`, a `dataset`, or whatever else in full under `source`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSection {
    /// Lines that hold their texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LineFormat>,
    /// Folder in BEIR's layout, the split of its judgments, and a run or lists of candidates for negatives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negatives: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Files of teacher scores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<PathBuf>,
    /// What is read of a passage; `pair` reads title and text as two segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passage_template: Option<Template>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_template: Option<Template>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pair: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<DataSource>,
    /// A word on where the data are from and their licence, for the model card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `[data] corpus`: the texts of pre-training.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusSection {
    pub files: Vec<PathBuf>,
    /// What the files hold; the objective's own where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TextFormat>,
    /// Names of the columns of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// What is read of a passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage_template: Option<Template>,
    /// Counts bad lines in place of ending at the first.
    #[serde(default)]
    pub skip_bad_lines: bool,
    /// A word on where the texts are from and their licence, for the model card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What the files of a corpus hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextFormat {
    /// Passages, as `trawl index build` reads them.
    Texts,
    /// MASTER's lines of token ids.
    Master,
    /// Documents, as `trawl data span-pairs` writes them.
    Spans,
}

/// `[engine]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSection {
    pub precision: PrecisionName,
    /// Where, not what, as `device`: a run may go on with other threads and elsewhere.
    #[serde(skip_serializing)]
    pub threads: Option<usize>,
    #[serde(skip_serializing)]
    pub device: DeviceChoice,
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            precision: PrecisionName::Auto,
            threads: None,
            device: DeviceChoice::Cpu,
        }
    }
}

/// Operands of matrix products: `auto` is bf16 on a device, and where the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionName {
    Auto,
    F32,
    Bf16,
}

impl PrecisionName {
    /// What `auto` is on a device, or on this machine.
    pub fn resolve(self, on_device: bool) -> Self {
        match self {
            Self::Auto if on_device || compute::Simd::detect().has_bf16() => Self::Bf16,
            Self::Auto => Self::F32,
            known => known,
        }
    }

    pub fn precision(self) -> Precision {
        match self {
            Self::Bf16 => Precision::Bf16,
            Self::Auto | Self::F32 => Precision::F32,
        }
    }
}

/// `[dev]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DevSection {
    /// Folder in BEIR's layout, searched for the queries of a split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<PathBuf>,
    pub split: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queries: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distractors: Option<usize>,
    pub measures: Vec<Measure>,
    pub depth: usize,
    /// For cross-encoders: the run whose first `depth` passages are reordered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<PathBuf>,
    /// What is read of a passage; `pair` reads title and text as two segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passage_template: Option<Template>,
    pub pair: bool,
    pub query_template: Template,
    /// Held-out examples, of which the loss is taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<SourceSection>,
    /// For pre-training: texts that are left out of it, of which the loss is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<usize>,
}

impl Default for DevSection {
    fn default() -> Self {
        Self {
            dataset: None,
            split: "dev".to_owned(),
            max_queries: None,
            distractors: None,
            measures: vec![
                Measure::at(MeasureKind::Ndcg, 10),
                Measure::at(MeasureKind::ReciprocalRank, 10),
                Measure::at(MeasureKind::Recall, 100),
            ],
            depth: 100,
            run: None,
            passage_template: None,
            pair: false,
            query_template: Template::query_default(),
            examples: Vec::new(),
            texts: None,
        }
    }
}

fn batch_size() -> usize {
    8
}

fn group_size() -> usize {
    8
}

impl TrainFile {
    /// Reads a file and puts `--set SECTION.KEY=VALUE` above it.
    pub fn read(path: &Path, sets: &[String]) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        Self::parse(&text, &path.display().to_string(), sets)
    }

    pub fn parse(text: &str, place: &str, sets: &[String]) -> anyhow::Result<Self> {
        let place = Place {
            text,
            file: place,
            sets,
        };
        let mut root = DeTable::parse(text).map_err(|error| place.refuse(&error))?;
        let mut values = Vec::new();
        for set in sets {
            let (key, value) = set
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("`--set {set}` is not KEY=VALUE")))?;
            // A value that is no TOML is a text.
            let document = format!("value = {value}");
            let text = || format!("value = {}", Value::String(value.to_owned()));
            let document = if document.parse::<Table>().is_ok() {
                document
            } else {
                text()
            };
            values.push((key.trim(), document));
        }
        for (number, (key, document)) in values.iter().enumerate() {
            let end = text.len() + number; // beyond the file: how `Place` tells them
            let parsed = DeTable::parse(document).map_err(|error| place.refuse(&error))?;
            let value = parsed
                .into_inner()
                .remove("value")
                .expect("the document has this key");
            let value = Spanned::new(end..end + 1, value.into_inner());
            insert(root.get_mut(), key, value, end).map_err(Failure::usage)?;
        }
        let objective = root
            .get_mut()
            .remove("objective")
            .ok_or_else(|| Failure::usage(format!("{}: there is no `[objective]`", place.file)))?;
        let objective = ObjectiveSection::parse(objective).map_err(|error| place.refuse(&error))?;
        let strange = match objective {
            ObjectiveSection::Pretraining(_) => of_fine_tuning(root.get_ref()),
            _ => None,
        };
        let strange = strange.map(|(key, span)| (key, place.name(Some(span))));
        let sections = Sections::deserialize(toml::Deserializer::from(root));
        let sections = sections.map_err(|error| place.refuse(&error))?;
        if let Some((key, place)) = strange {
            let text =
                format!("{place}: `{key}` is for fine-tuning; pre-training does not read it");
            return Err(Failure::usage(text).into());
        }
        Ok(Self {
            sections,
            objective,
        })
    }

    /// The whole configuration with all defaults, as it is kept beside the run.
    pub fn resolved(&self) -> anyhow::Result<String> {
        let mut table = Table::try_from(&self.sections)?;
        if let ObjectiveSection::Pretraining(_) = self.objective {
            for (section, keys) in OF_PRETRAINING {
                if let Some(Value::Table(section)) = table.get_mut(section) {
                    section.retain(|key, _| keys.contains(&key));
                }
            }
        }
        let objective = self.objective.resolved()?;
        table.insert("objective".to_owned(), Value::Table(objective));
        Ok(toml::to_string(&table)?)
    }

    /// What the loop needs.
    pub fn train_config(&self) -> TrainConfig {
        TrainConfig {
            optimizer: self.sections.optimizer.clone(),
            schedule: self.sections.schedule.clone(),
            run: self.sections.run.clone(),
            lora: self.sections.lora.clone(),
        }
    }
}

/// The first key that pre-training does not read, and its place.
fn of_fine_tuning(root: &DeTable<'_>) -> Option<(String, Range<usize>)> {
    // Adapters alone would leave decoders and heads as they were drawn.
    if let Some(name) = root.keys().find(|name| *name.get_ref() == "lora") {
        return Some(("lora".to_owned(), name.span()));
    }
    OF_PRETRAINING.iter().find_map(|(section, keys)| {
        let DeValue::Table(table) = root.get(*section)?.get_ref() else {
            return None;
        };
        let mut names = table.keys();
        let strange = names.find(|name| !keys.contains(&name.get_ref().as_ref()))?;
        Some((format!("{section}.{}", strange.get_ref()), strange.span()))
    })
}

/// Sets `section.key`, making the sections that are not there.
fn insert<'i>(
    table: &mut DeTable<'i>,
    key: &'i str,
    value: Spanned<DeValue<'i>>,
    end: usize,
) -> Result<(), String> {
    let spanned = |key: &'i str| Spanned::new(end..end + 1, key.into());
    let Some((section, rest)) = key.split_once('.') else {
        table.remove(key); // the old key has its own place
        table.insert(spanned(key), value);
        return Ok(());
    };
    let empty = || Spanned::new(end..end + 1, DeValue::Table(DeTable::new()));
    let inner = table.entry(spanned(section)).or_insert_with(empty);
    match inner.get_mut() {
        DeValue::Table(inner) => insert(inner, rest, value, end),
        _ => Err(format!("`--set {key}`: `{section}` is no section")),
    }
}

/// Where a value of the configuration stands.
struct Place<'a> {
    text: &'a str,
    file: &'a str,
    sets: &'a [String],
}

impl Place<'_> {
    fn name(&self, span: Option<Range<usize>>) -> String {
        match span {
            Some(span)
                if span.start >= self.text.len()
                    && span.start - self.text.len() < self.sets.len() =>
            {
                format!("--set {}", self.sets[span.start - self.text.len()])
            }
            Some(span) => {
                let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
                let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
                format!("{}:{line}", self.file)
            }
            None => self.file.to_owned(),
        }
    }

    fn refuse(&self, error: &toml::de::Error) -> Failure {
        let place = self.name(error.span());
        let failure = Failure::usage(format!("{place}: {}", error.message()));
        match nearest(error.message()) {
            Some(known) => failure.hint(format!("did you mean `{known}`?")),
            None => failure,
        }
    }
}
