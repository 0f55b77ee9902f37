//! `[[data.train]]`: where examples come from, and how they are put into batches.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use corpus::Template;
use trainer::data::{
    DataError, DataSource, Dataset, Group, JudgedSource, LineSource, NegativeSource, PassageText,
    Sampling, SamplingRule,
};
use trainer::{Batches, GroupBatches, GroupsConfig, Mixing, StreamBatches, StreamConfig};

use super::file::{DataSection, SourceSection};
use crate::failure::Failure;
use crate::progress::Progress;

/// Lines out of which the next one is drawn.
const SHUFFLE_BUFFER: usize = 10_000;

/// What a run trains on: texts in memory, or files that are read again in each epoch.
pub struct Examples {
    batches: Box<dyn Batches<Batch = Vec<Group>>>,
    /// Examples of an epoch.
    pub n_examples: u64,
}

impl Examples {
    /// Reads what `[data]` names; with `scored` each passage needs a teacher's score.
    pub fn read(
        data: &DataSection,
        seed: u64,
        scored: bool,
        n_vocabulary: usize,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let groups = groups(data, seed, scored);
        if !data.stream {
            if data.shuffle_buffer.is_some() {
                let text = "`data.shuffle_buffer` is that of `data.stream`";
                return Err(Failure::usage(text).into());
            }
            let sources = read(&data.train, &groups.sampling, n_vocabulary, progress)?;
            return Ok(Self {
                n_examples: sources.iter().map(|dataset| dataset.len() as u64).sum(),
                batches: Box::new(GroupBatches::new(sources, groups)?),
            });
        }
        let [section] = &data.train[..] else {
            let text = "`data.stream` reads one source: put all files under one `[[data.train]]`";
            return Err(Failure::usage(text).into());
        };
        if section.dataset.is_some() {
            let text =
                "`data.stream` reads `files`: `trawl data convert` and `trawl mine` write them";
            return Err(Failure::usage(text).into());
        }
        let DataSource::Lines(source) = resolve(section)? else {
            let text =
                "`data.stream` reads lines that hold their texts, which this `source` does not";
            return Err(Failure::usage(text).into());
        };
        if let Some(path) = source.table() {
            let text = format!(
                "`data.stream` reads lines, not tables such as `{}`",
                path.display()
            );
            let hint = "`trawl data convert --from sentence-transformers` makes lines of it";
            return Err(Failure::usage(text).hint(hint).into());
        }
        if data.no_duplicates || data.mixing != Mixing::Together {
            let text = "`data.stream` goes with neither `data.no_duplicates` nor `data.mixing`";
            return Err(Failure::usage(text).into());
        }
        let buffer = data.shuffle_buffer.unwrap_or(SHUFFLE_BUFFER);
        if buffer == 0 {
            let text = "`data.shuffle_buffer` is 0; it is at least 1";
            return Err(Failure::usage(text).into());
        }
        let batches = StreamBatches::open(StreamConfig {
            source,
            sampling: groups.sampling,
            batch_size: groups.batch_size,
            seed,
            buffer,
            drop_last: groups.drop_last,
            scored,
            n_vocabulary: Some(n_vocabulary),
            share: (0, 1),
        });
        let batches = batches.with_context(|| format!("cannot train on {}", describe(section)))?;
        remark_on_ids(section, batches.ids_of_several_texts(), progress);
        Ok(Self {
            n_examples: batches.n_examples(),
            batches: Box::new(batches),
        })
    }
}

impl Batches for Examples {
    type Batch = Vec<Group>;

    fn len(&self, epoch: u64) -> usize {
        self.batches.len(epoch)
    }

    fn batch(&self, epoch: u64, index: usize) -> Result<Vec<Group>, DataError> {
        self.batches.batch(epoch, index)
    }

    fn digest(&self) -> u64 {
        self.batches.digest()
    }
}

/// Reads all sources, for groups drawn so and a model of so many tokens.
pub fn read(
    sources: &[SourceSection],
    sampling: &Sampling,
    n_vocabulary: usize,
    progress: &Progress,
) -> anyhow::Result<Vec<Arc<Dataset>>> {
    let mut datasets = Vec::new();
    for section in sources {
        let mut on_progress = |unit: &'static str, n: u64| progress.update("read", unit, n, 0);
        let source = resolve(section)?;
        let dataset = source.read(&mut on_progress)?;
        source
            .check_tokens(&dataset, n_vocabulary)
            .with_context(|| format!("cannot train on {}", describe(section)))?;
        for (reason, n) in &dataset.report().left_out {
            let first = dataset.report().first_left_out.get(reason);
            let first = first.map_or(String::new(), |first| format!(", the first is {first}"));
            progress.remark(&format!(
                "{}: {n} left out: {reason}{first}",
                describe(section)
            ));
        }
        if let Some(remark) = lack_of_negatives(&dataset, sampling) {
            progress.remark(&format!("{}: {remark}", describe(section)));
        }
        remark_on_ids(section, dataset.ids_of_several_texts(), progress);
        datasets.push(Arc::new(dataset));
    }
    Ok(datasets)
}

/// Tells the ids of passages and of queries that stand for several texts.
fn remark_on_ids(
    section: &SourceSection,
    repeated: [Option<(usize, String)>; 2],
    progress: &Progress,
) {
    for (what, repeated) in ["passages", "queries"].iter().zip(repeated) {
        if let Some((n, first)) = repeated {
            progress.remark(&format!(
                "{}: {n} ids of {what} stand for several texts, the first is `{first}`; texts of one id count as one \
                 where known positives are left out of a batch's negatives",
                describe(section)
            ));
        }
    }
}

/// What stands in groups for negatives that examples do not have.
fn lack_of_negatives(dataset: &Dataset, sampling: &Sampling) -> Option<String> {
    let (n, k) = (dataset.len(), sampling.n_negatives());
    let (n_without, n_few) = dataset.n_lacking(sampling);
    let without = (n_without > 0)
        .then(|| format!("{n_without} of {n} examples have no negative, random passages stand in"));
    let few = (n_few > 0).then(|| {
        let what = match sampling.rule {
            SamplingRule::Retromae => "random passages make up for the rest",
            _ => "some stand more than once in a group",
        };
        format!("{n_few} of {n} examples have fewer than {k} negatives, {what}")
    });
    let remarks: Vec<String> = without.into_iter().chain(few).collect();
    (!remarks.is_empty()).then(|| remarks.join("; "))
}

/// What the trainer reads.
fn resolve(section: &SourceSection) -> anyhow::Result<DataSource> {
    check_keys(section)?;
    let passage = passage_text(section.pair, section.passage_template.as_ref())?;
    if let Some(source) = &section.source {
        return Ok(source.clone());
    }
    let Some(folder) = &section.dataset else {
        return Ok(DataSource::Lines(LineSource {
            paths: section.files.clone(),
            format: section.format.unwrap_or_default(),
            passage,
            ..LineSource::default()
        }));
    };
    let split = section.split.as_deref().unwrap_or("train");
    let mut source = JudgedSource::beir(folder, split)?;
    source.passage = passage;
    source.scores.clone_from(&section.scores);
    if let Some(template) = &section.query_template {
        source.query = template.clone();
    }
    source.negatives = section.negatives.as_ref().map(|path| match is_lists(path) {
        true => NegativeSource::Lists(path.clone()),
        false => NegativeSource::Run {
            path: path.clone(),
            format: Default::default(),
            depth: section.depth,
        },
    });
    Ok(DataSource::Judged(Box::new(source)))
}

/// Refuses keys that say nothing of a kind of source.
fn check_keys(section: &SourceSection) -> Result<(), Failure> {
    let texts = ["passage_template", "pair"];
    let of_dataset = ["split", "negatives", "depth", "scores", "query_template"];
    let (kind, takes): (_, &[&[&str]]) =
        match (&section.source, section.files.as_slice(), &section.dataset) {
            (Some(_), [], None) => ("source", &[]),
            (None, [_, ..], None) => match section.format.unwrap_or_default().has_titles() {
                true => ("files", &[&["format"], &texts]),
                false => ("files of this format", &[&["format"]]),
            },
            (None, [], Some(_)) => ("dataset", &[&of_dataset, &texts]),
            _ => {
                let text = "a source of examples has one of `files`, `dataset` and `source`";
                return Err(Failure::usage(text));
            }
        };
    let given = [
        ("format", section.format.is_some()),
        ("passage_template", section.passage_template.is_some()),
        ("pair", section.pair),
        ("split", section.split.is_some()),
        ("negatives", section.negatives.is_some()),
        ("depth", section.depth.is_some()),
        ("scores", !section.scores.is_empty()),
        ("query_template", section.query_template.is_some()),
    ];
    let strange = given
        .iter()
        .find(|(name, is_given)| *is_given && !takes.iter().any(|names| names.contains(name)));
    if let Some((name, _)) = strange {
        let text = format!("`{name}` says nothing of a source of {kind}");
        return Err(Failure::usage(text));
    }
    if section.depth.is_some() && section.negatives.as_deref().is_none_or(is_lists) {
        let text = "`depth` is that of a run, which `negatives` does not name";
        return Err(Failure::usage(text));
    }
    Ok(())
}

/// What is read of a passage.
pub fn passage_text(pair: bool, template: Option<&Template>) -> Result<PassageText, Failure> {
    match (pair, template) {
        (true, Some(_)) => Err(Failure::usage(
            "`pair` and `passage_template` exclude each other",
        )),
        (true, None) => Ok(PassageText::Pair),
        (false, Some(template)) => Ok(PassageText::Template(template.clone())),
        (false, None) => Ok(PassageText::default()),
    }
}

/// Whether candidates are lists of ids (`.tsv`), not a run.
fn is_lists(path: &Path) -> bool {
    let name = path.to_string_lossy();
    let name = [".gz", ".zst"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(&name);
    name.ends_with(".tsv")
}

/// A line on a source for people.
pub fn describe(section: &SourceSection) -> String {
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    if let Some(note) = &section.note {
        return note.clone();
    }
    if let Some(folder) = &section.dataset {
        return format!(
            "{}, {}",
            name(folder),
            section.split.as_deref().unwrap_or("train")
        );
    }
    match section.files.as_slice() {
        [] => "examples".to_owned(),
        files => files
            .iter()
            .map(|path| name(path))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// How groups are drawn and put into batches; with `scored` each passage needs a teacher's score.
pub fn groups(data: &DataSection, seed: u64, scored: bool) -> GroupsConfig {
    GroupsConfig {
        sampling: Sampling {
            rule: data.sampling,
            seed,
            first_positive: data.first_positive,
            first_negatives: data.first_negatives,
            pool: data.negative_pool,
            ..Sampling::new(data.group_size)
        },
        batch_size: data.batch_size,
        seed,
        in_order: false,
        drop_last: data.drop_last,
        no_duplicates: data.no_duplicates,
        mixing: data.mixing,
        scored,
    }
}

/// The same for held-out examples: each once, in order, always the same group.
pub fn held_out(data: &DataSection, scored: bool) -> GroupsConfig {
    let groups = groups(data, 0, scored);
    GroupsConfig {
        sampling: Sampling {
            rule: SamplingRule::First,
            ..groups.sampling.clone()
        },
        in_order: true,
        drop_last: false,
        no_duplicates: false,
        mixing: Mixing::Together,
        ..groups
    }
}
