//! Hard negatives from the results of a search.

use std::collections::{BTreeMap, HashMap, HashSet};

use corpus::{Run, Scored, ranked};
use rand::seq::SliceRandom;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::data::random::{Purpose, random};
use crate::data::{DataError, Dataset, Link, Others, Scores};

/// Which results of a query become its negatives.
///
/// The filters work in the order of the fields, after the query's positives and texts that repeat have left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MiningConfig {
    /// Results down to this rank are considered.
    pub depth: usize,
    /// The first results, as likely as any to be relevant, are passed over.
    pub skip: usize,
    /// Drops results with a higher score.
    pub max_score: Option<f64>,
    /// Drops results with a lower score.
    pub min_score: Option<f64>,
    /// Drops results with a score over `s₊ − margin`, where s₊ is the lowest score of the query's positives.
    pub absolute_margin: Option<f64>,
    /// Drops results with a score over `s₊ − margin·|s₊|`: TopK-PercPos of NV-Retriever (Moreira et al. 2024,
    /// arXiv 2407.15831) with a margin of 0.05. The absolute value keeps the margin on its side of a negative score.
    pub relative_margin: Option<f64>,
    /// Drops results that a teacher scores over `t₊ − margin`, where t₊ is its lowest score of the positives.
    pub teacher_margin: Option<f64>,
    /// Negatives of a query at most.
    pub n_negatives: usize,
    /// How they are taken from what the filters leave.
    pub selection: Selection,
    /// Random passages of the corpus added to each query: neither positives nor results of it.
    pub n_random: usize,
    /// Queries with fewer negatives are left out.
    pub min_negatives: usize,
    /// Keeps queries of whose positives no score is known, and does not apply margins to them.
    pub keep_unanchored: bool,
    /// Leaves out queries none of whose positives is in the run: SimLM's filter of noisy positives.
    pub found_only: bool,
    /// Puts each query's negatives in a random order, for sampling rules that take them in the order of their list.
    pub shuffle: bool,
    /// Seed of the draws.
    pub seed: u64,
}

/// How negatives are taken from what the filters leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Uniformly, without replacement.
    #[default]
    Random,
    /// The first.
    Top,
}

impl Default for MiningConfig {
    /// OpenMatch's: 30 random ones of the first 200.
    fn default() -> Self {
        Self {
            depth: 200,
            skip: 0,
            max_score: None,
            min_score: None,
            absolute_margin: None,
            relative_margin: None,
            teacher_margin: None,
            n_negatives: 30,
            selection: Selection::Random,
            n_random: 0,
            min_negatives: 1,
            keep_unanchored: false,
            found_only: false,
            shuffle: false,
            seed: 0,
        }
    }
}

/// What mining did with every result: candidates = kept + all dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MiningCounts {
    /// Queries with judgments.
    pub n_queries: u64,
    /// Queries that have negatives now.
    pub n_mined: u64,
    /// Queries left out, by reason.
    pub queries_left_out: BTreeMap<&'static str, u64>,
    /// Results of all queries with judgments.
    pub n_candidates: u64,
    /// Results that became negatives.
    pub n_kept: u64,
    /// Results dropped, by filter.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Random passages added.
    pub n_random: u64,
}

impl MiningCounts {
    fn drop(&mut self, filter: &'static str, n: usize) {
        if n > 0 {
            *self.dropped.entry(filter).or_default() += n as u64;
        }
    }

    fn leave_out(&mut self, reason: &'static str) {
        *self.queries_left_out.entry(reason).or_default() += 1;
    }
}

/// Chooses negatives for the queries of a data set from a run.
///
/// The data set was read with the same run as the source of its negatives, without a depth: its lists hold the results
/// without the positives. `positive_scores` has scores of positives that the run lacks; where `teacher` is given, the
/// passages get its scores, and those without one are dropped. Negatives stay in the order of the run, random
/// passages follow, unless they are shuffled. A query's draw depends on its id and the seed alone, so any part of the
/// queries gives the same.
///
/// # Errors
/// [`DataError::Setting`] for settings that cannot be, [`DataError::TooFewOthers`] when the corpus has not enough
/// random passages, [`DataError::Empty`] when no query is left.
pub fn mine(
    dataset: &Dataset,
    run: &Run,
    positive_scores: Option<&Scores>,
    teacher: Option<&Scores>,
    config: &MiningConfig,
) -> Result<(Dataset, MiningCounts), DataError> {
    config.check(teacher.is_some())?;
    let mut counts = MiningCounts {
        n_queries: dataset.len() as u64,
        ..MiningCounts::default()
    };
    let mut lists = Vec::with_capacity(dataset.len());
    for index in 0..dataset.len() {
        let query = QueryResults::new(dataset, index, run, positive_scores, teacher);
        lists.push(query.mine(config, &mut counts)?);
    }
    Ok((dataset.with_lists(lists)?, counts))
}

/// Positives and negatives of a query.
pub(crate) type Lists = (Vec<Link>, Vec<Link>);

impl MiningConfig {
    fn check(&self, has_teacher: bool) -> Result<(), DataError> {
        let refuse = |name, value: String, expected| {
            Err(DataError::Setting {
                name,
                value,
                expected,
            })
        };
        let margins = [
            ("absolute_margin", self.absolute_margin),
            ("relative_margin", self.relative_margin),
        ];
        for (name, margin) in margins {
            if let Some(margin) = margin.filter(|margin| margin.is_nan() || *margin < 0.0) {
                return refuse(name, margin.to_string(), "it is at least 0");
            }
        }
        // A limit that is no number would drop nothing.
        let limits = [
            ("max_score", self.max_score),
            ("min_score", self.min_score),
            ("teacher_margin", self.teacher_margin),
        ];
        for (name, limit) in limits {
            if limit.is_some_and(f64::is_nan) {
                return refuse(name, "NaN".to_owned(), "it is a number");
            }
        }
        if self.n_negatives == 0 && self.n_random == 0 {
            return refuse("n_negatives", "0".to_owned(), "it is at least 1");
        }
        if self.skip >= self.depth {
            return refuse("skip", self.skip.to_string(), "it is below the depth");
        }
        if let (Some(margin), false) = (self.teacher_margin, has_teacher) {
            return refuse(
                "teacher_margin",
                margin.to_string(),
                "it needs a teacher's scores",
            );
        }
        if has_teacher && self.n_random > 0 {
            let expected = "it is 0 with a teacher, whose score a random passage lacks";
            return refuse("n_random", self.n_random.to_string(), expected);
        }
        Ok(())
    }
}

/// A query and what the run found for it.
struct QueryResults<'a> {
    dataset: &'a Dataset,
    index: usize,
    query_id: &'a str,
    positives: Vec<Link>,
    /// Best first, each with its score in the run; the positives are not among them.
    results: Vec<(Link, f64)>,
    /// Results that the data set's list lacks.
    n_positive: usize,
    n_unlisted: usize,
    /// Whether a positive is in the run.
    is_found: bool,
    /// Lowest score of a positive.
    anchor: Option<f64>,
    teacher: Option<&'a Scores>,
}

impl<'a> QueryResults<'a> {
    fn new(
        dataset: &'a Dataset,
        index: usize,
        run: &'a Run,
        positive_scores: Option<&Scores>,
        teacher: Option<&'a Scores>,
    ) -> Self {
        let (passages, entry) = (dataset.passages(), dataset.entry(index));
        let query_id = entry.query_id.as_str();
        let listed: HashMap<&str, Link> = entry
            .negatives
            .iter()
            .map(|&link| (passages.id(link.passage), link))
            .collect();
        let known: HashSet<&str> = entry
            .known_positives()
            .map(|passage| passages.id(passage))
            .collect();
        // Those of too low a grade are no negatives, and no positives to measure others by.
        let own: HashSet<&str> = entry
            .positives
            .iter()
            .map(|link| passages.id(link.passage))
            .collect();
        let (mut results, mut n_positive, mut n_unlisted) = (Vec::new(), 0, 0);
        let mut is_found = false;
        let mut anchor: Option<f64> = None;
        let mut lower =
            |score: f64| anchor = Some(anchor.map_or(score, |anchor| anchor.min(score)));
        let found = ranked(run.get(query_id).unwrap_or_default());
        for Scored { id, score } in &found {
            match listed.get(id.as_str()) {
                Some(&link) => {
                    let teacher = teacher.and_then(|teacher| teacher.get(query_id, id));
                    results.push((Link::new(link.passage, teacher), *score));
                }
                None if known.contains(id.as_str()) => {
                    n_positive += 1;
                    if own.contains(id.as_str()) {
                        is_found = true;
                        lower(*score);
                    }
                }
                None => n_unlisted += 1,
            }
        }
        if let Some(scores) = positive_scores {
            own.iter()
                .filter_map(|id| scores.get(query_id, id))
                .for_each(|score| lower(score.into()));
        }
        let mut positives = entry.positives.clone();
        if let Some(teacher) = teacher {
            positives.retain_mut(|link| {
                let score = teacher.get(query_id, passages.id(link.passage));
                *link = Link::new(link.passage, score);
                score.is_some()
            });
        }
        Self {
            dataset,
            index,
            query_id,
            positives,
            results,
            n_positive,
            n_unlisted,
            is_found,
            anchor,
            teacher,
        }
    }

    /// Filters the results; none when the query is left out.
    fn mine(
        self,
        config: &MiningConfig,
        counts: &mut MiningCounts,
    ) -> Result<Option<Lists>, DataError> {
        let n_results = self.results.len() + self.n_positive + self.n_unlisted;
        counts.n_candidates += n_results as u64;
        counts.drop("positive", self.n_positive);
        counts.drop("text of a positive, or not in the corpus", self.n_unlisted);
        let leave_out = |counts: &mut MiningCounts, reason, n_left| {
            counts.leave_out(reason);
            counts.drop("query left out", n_left);
            Ok(None)
        };
        if n_results == 0 && config.n_random == 0 {
            return leave_out(counts, "no result in the run", 0);
        }
        if self.positives.is_empty() {
            let n_left = self.results.len();
            return leave_out(counts, "no teacher score of a positive", n_left);
        }
        if config.found_only && !self.is_found {
            return leave_out(counts, "no positive in the run", self.results.len());
        }
        let has_margin = config.absolute_margin.is_some() || config.relative_margin.is_some();
        if has_margin && self.anchor.is_none() && !config.keep_unanchored {
            return leave_out(counts, "no score of a positive", self.results.len());
        }
        let mut kept = self.filter(config, counts);
        let key = xxh3_64(self.query_id.as_bytes());
        let n_over = kept.len().saturating_sub(config.n_negatives);
        if config.selection == Selection::Random && n_over > 0 {
            let mut numbers = random(config.seed, key, 0, Purpose::Mining);
            let mut drawn = sample(&mut numbers, kept.len(), config.n_negatives).into_vec();
            drawn.sort_unstable();
            kept = drawn.into_iter().map(|number| kept[number]).collect();
        }
        kept.truncate(config.n_negatives);
        counts.drop("not drawn", n_over);
        if kept.len().saturating_add(config.n_random) < config.min_negatives {
            return leave_out(counts, "too few negatives", kept.len());
        }
        counts.n_kept += kept.len() as u64;
        counts.n_mined += 1;
        counts.n_random += config.n_random as u64;
        self.add_random(&mut kept, key, config)?;
        if config.shuffle {
            kept.shuffle(&mut random(config.seed, key, 0, Purpose::Shuffle));
        }
        Ok(Some((self.positives, kept)))
    }

    fn filter(&self, config: &MiningConfig, counts: &mut MiningCounts) -> Vec<Link> {
        let passages = self.dataset.passages();
        let entry = self.dataset.entry(self.index);
        let lowest = |link: &Link| link.score().unwrap_or(f32::NAN);
        let teacher_anchor = self
            .positives
            .iter()
            .map(lowest)
            .fold(f32::INFINITY, f32::min);
        let limits = [
            ("max score", config.max_score),
            (
                "absolute margin",
                self.anchor.zip(config.absolute_margin).map(|(s, m)| s - m),
            ),
            (
                "relative margin",
                self.anchor
                    .zip(config.relative_margin)
                    .map(|(s, m)| s - m * s.abs()),
            ),
        ];
        let mut texts = HashSet::from([entry.query.digest()]);
        let (mut kept, mut rank) = (Vec::new(), 0);
        for &(link, score) in &self.results {
            if !texts.insert(passages.content(link.passage).digest()) {
                counts.drop("text repeats", 1);
                continue;
            }
            rank += 1;
            let over = limits
                .iter()
                .find(|(_, limit)| limit.is_some_and(|limit| score > limit));
            let filter = match (self.teacher, link.score()) {
                _ if rank > config.depth => Some("below the depth"),
                _ if rank <= config.skip => Some("skipped"),
                _ if over.is_some() => over.map(|(name, _)| *name),
                _ if config.min_score.is_some_and(|limit| score < limit) => Some("min score"),
                (Some(_), None) => Some("no teacher score"),
                (Some(_), Some(score))
                    if config.teacher_margin.is_some_and(|margin| {
                        f64::from(score) > f64::from(teacher_anchor) - margin
                    }) =>
                {
                    Some("teacher margin")
                }
                _ => None,
            };
            match filter {
                Some(filter) => counts.drop(filter, 1),
                None => kept.push(link),
            }
        }
        kept
    }

    fn add_random(
        &self,
        kept: &mut Vec<Link>,
        key: u64,
        config: &MiningConfig,
    ) -> Result<(), DataError> {
        if config.n_random == 0 {
            return Ok(());
        }
        let entry = self.dataset.entry(self.index);
        let results = entry.negatives.iter().map(|link| link.passage);
        let mut others = Others::new(self.dataset, self.index, results);
        let mut numbers = random(config.seed, key, 0, Purpose::Fill);
        for found in 0..config.n_random {
            let passage = others
                .draw(&mut numbers)
                .ok_or_else(|| DataError::TooFewOthers {
                    query: self.query_id.to_owned(),
                    needed: config.n_random,
                    found,
                })?;
            kept.push(Link::new(passage, None));
        }
        Ok(())
    }
}
