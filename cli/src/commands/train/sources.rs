//! `[[data.train]]`: where examples come from, and how they are put into batches.

use std::path::Path;
use std::sync::Arc;

use corpus::Template;
use trainer::GroupsConfig;
use trainer::data::{
    DataSource, Dataset, JudgedSource, LineSource, NegativeSource, PassageText, Sampling,
    SamplingRule,
};

use super::file::{DataSection, SourceSection};
use crate::failure::Failure;
use crate::progress::Progress;

/// Reads all sources.
pub fn read(sources: &[SourceSection], progress: &Progress) -> anyhow::Result<Vec<Arc<Dataset>>> {
    let mut datasets = Vec::new();
    for section in sources {
        let mut on_progress = |unit: &'static str, n: u64| progress.update("read", unit, n, 0);
        let dataset = resolve(section)?.read(&mut on_progress)?;
        for (reason, n) in &dataset.report().left_out {
            let first = dataset.report().first_left_out.get(reason);
            let first = first.map_or(String::new(), |first| format!(", the first is {first}"));
            progress.remark(&format!(
                "{}: {n} left out: {reason}{first}",
                describe(section)
            ));
        }
        datasets.push(Arc::new(dataset));
    }
    Ok(datasets)
}

/// What the trainer reads.
fn resolve(section: &SourceSection) -> anyhow::Result<DataSource> {
    let passage = passage_text(section.pair, section.passage_template.as_ref())?;
    match (&section.source, section.files.as_slice(), &section.dataset) {
        (Some(source), [], None) => Ok(source.clone()),
        (None, [_, ..], None) => Ok(DataSource::Lines(LineSource {
            paths: section.files.clone(),
            format: section.format,
            passage,
            ..LineSource::default()
        })),
        (None, [], Some(folder)) => {
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
        _ => Err(
            Failure::usage("a source of examples has one of `files`, `dataset` and `source`")
                .into(),
        ),
    }
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

/// How groups are drawn and put into batches.
pub fn groups(data: &DataSection, seed: u64) -> GroupsConfig {
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
        scored: false,
    }
}

/// The same for held-out examples: each once, in order, always the same group.
pub fn held_out(data: &DataSection) -> GroupsConfig {
    let groups = groups(data, 0);
    GroupsConfig {
        sampling: Sampling {
            rule: SamplingRule::First,
            ..groups.sampling.clone()
        },
        in_order: true,
        drop_last: false,
        ..groups
    }
}
