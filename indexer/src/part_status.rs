//! How far builds in parts are.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use collection::{Collection, GenerationId};
use serde::Serialize;

use crate::BuildError;
use crate::encode::Plan;
use crate::parts::{PartNumber, has_parts, number_of_parts, outline_of, records};

/// How far a build in parts is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildStatus {
    /// sha256 of all that decides the content.
    pub build: String,
    /// The generation, when the build is complete.
    pub generation: Option<GenerationId>,
    /// Into how many parts it is divided; none while no part is done.
    pub parts: Option<usize>,
    /// The parts that are not done.
    pub missing: Vec<usize>,
    /// Passages of the parts that are done.
    pub passages: u64,
    /// Passages of all parts.
    pub total_passages: u64,
    /// From the first sign of the build to the last one.
    pub elapsed: Duration,
}

impl BuildStatus {
    /// Passages a second; none before there is anything to count.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (self.passages > 0 && seconds > 0.0).then(|| self.passages as f64 / seconds)
    }
}

/// What is found of a build, wherever it is kept.
pub(crate) struct Seen {
    pub plan: Plan,
    /// As which it was completed.
    pub generation: Option<GenerationId>,
    /// The parts that are done, and when.
    pub parts: Vec<(PartNumber, SystemTime)>,
    pub began: Option<SystemTime>,
}

impl Seen {
    pub fn status(self, build: String) -> Result<BuildStatus, BuildError> {
        let Self {
            plan,
            generation,
            parts,
            began,
        } = self;
        let last = parts.iter().map(|(_, at)| *at).max();
        let numbers: Vec<_> = parts.iter().map(|(part, _)| *part).collect();
        let of = match number_of_parts(&numbers) {
            Ok(of) => Some(of),
            Err(BuildError::MissingParts { of, .. }) => Some(of),
            Err(error) => return Err(error),
        };
        let of = of.filter(|_| !numbers.is_empty() && generation.is_none());
        let is_done = |number: &usize| {
            of.is_some_and(|of| {
                numbers.contains(&PartNumber::new(*number, of).expect("it is less"))
            })
        };
        let (done, missing): (Vec<_>, Vec<_>) = (0..of.unwrap_or(0)).partition(is_done);
        let rows = |number: usize| u64::from(plan.place(number).n_rows);
        let of_part = |number: usize| -> u64 {
            let part = PartNumber::new(number, of.unwrap_or(1)).expect("it is less");
            part.chunks(plan).map(rows).sum()
        };
        let total_passages = u64::from(plan.n_passages);
        Ok(BuildStatus {
            build,
            passages: match &generation {
                Some(_) => total_passages,
                None => done.into_iter().map(of_part).sum(),
            },
            generation,
            parts: of,
            missing,
            total_passages,
            elapsed: match (began, last) {
                (Some(began), Some(last)) => last.duration_since(began).unwrap_or_default(),
                _ => Duration::ZERO,
            },
        })
    }
}

/// How far the builds in parts are that a folder holds. Those that are complete are generations, and not among them.
///
/// # Errors
/// When files cannot be read, or what the parts share is damaged.
pub fn build_status_here(collection: &Collection) -> Result<Vec<BuildStatus>, BuildError> {
    let builds = collection
        .unfinished()?
        .into_iter()
        .filter(|path| has_parts(path));
    builds.map(|path| of_folder(&path)).collect()
}

fn of_folder(path: &Path) -> Result<BuildStatus, BuildError> {
    let work = path.join("work");
    let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified());
    let folder = records(&work);
    let failed = |source: io::Error| BuildError::Io {
        path: folder.clone(),
        source,
    };
    let mut parts = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(part) = name.and_then(PartNumber::of_file) {
            parts.push((part, modified(&path).map_err(failed)?));
        }
    }
    let seen = Seen {
        plan: outline_of(&work)?.plan,
        generation: None,
        parts,
        began: modified(&path.join("spec.json")).ok(),
    };
    let digest = path.file_name().and_then(|name| name.to_str());
    seen.status(digest.unwrap_or_default().to_owned())
}
