use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::judged::place_of;
use super::passages::{Link, PassageTable};
use super::random::{Purpose, random};
use super::{Candidate, Content, DataError, Example, Group, Passages, Sampling, SeveralTexts};
use crate::mining::Lists;

/// Training examples whose passages are held once.
#[derive(Debug)]
pub struct Dataset {
    passages: Arc<Passages>,
    examples: Vec<Entry>,
    report: DataReport,
    /// Made when random passages are first drawn.
    relevant: OnceLock<RelevantByQuery>,
}

/// For queries that stand in several examples, by id and by content: hashes of ids and of contents of what is relevant to them.
type RelevantByQuery = HashMap<u64, HashSet<u64>>;

/// An example whose passages are ordinals.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) query_id: String,
    pub(crate) query: Content,
    pub(crate) positives: Vec<Link>,
    pub(crate) negatives: Vec<Link>,
    /// Passages known to be relevant that this example is not about.
    pub(crate) also_positive: Vec<u32>,
}

impl Entry {
    /// All passages known to be relevant.
    pub(crate) fn known_positives(&self) -> impl Iterator<Item = u32> {
        let positives = self.positives.iter().map(|link| link.passage);
        positives.chain(self.also_positive.iter().copied())
    }

    /// Hashes of the query's id and content: examples that share one are of one query.
    fn keys(&self) -> [u64; 2] {
        [xxh3_64(self.query_id.as_bytes()), self.query.digest()]
    }
}

/// What reading a data set found, and what it left out and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DataReport {
    /// Examples.
    pub n_examples: u64,
    /// Passages that they may draw.
    pub n_passages: u64,
    /// Positives, over all examples.
    pub n_positives: u64,
    /// Negatives, over all examples.
    pub n_negatives: u64,
    /// Examples without a negative.
    pub n_without_negatives: u64,
    /// What was left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// The first of each reason, with its place.
    pub first_left_out: BTreeMap<&'static str, String>,
}

impl DataReport {
    /// Counts something left out, and keeps the first of its reason.
    pub(super) fn leave_out(&mut self, reason: &'static str, what: impl FnOnce() -> String) {
        *self.left_out.entry(reason).or_default() += 1;
        self.first_left_out.entry(reason).or_insert_with(what);
    }

    fn count(&mut self, entry: &Entry) {
        self.n_examples += 1;
        self.n_positives += entry.positives.len() as u64;
        self.n_negatives += entry.negatives.len() as u64;
        self.n_without_negatives += u64::from(entry.negatives.is_empty());
    }
}

impl Dataset {
    /// Makes a data set of examples in memory.
    ///
    /// # Errors
    /// [`DataError::NoPositive`] for an example without a positive, [`DataError::Empty`] when there is none.
    pub fn from_examples(examples: impl IntoIterator<Item = Example>) -> Result<Self, DataError> {
        let mut builder = DatasetBuilder::default();
        for example in examples {
            builder.push(example)?;
        }
        builder.finish(Path::new("examples"))
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are none; a data set that was read has some.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The passages of all examples.
    pub fn passages(&self) -> &Arc<Passages> {
        &self.passages
    }

    /// What was read and what was left out.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// An example with all its passages.
    pub fn example(&self, index: usize) -> Example {
        let entry = &self.examples[index];
        let candidates = |links: &[Link]| -> Vec<Candidate> {
            links
                .iter()
                .map(|&link| self.passages.candidate(link))
                .collect()
        };
        Example {
            query_id: entry.query_id.clone(),
            query: entry.query.clone(),
            positives: candidates(&entry.positives),
            negatives: candidates(&entry.negatives),
        }
    }

    /// All examples, in order.
    pub fn examples(&self) -> impl ExactSizeIterator<Item = Example> {
        (0..self.len()).map(|index| self.example(index))
    }

    /// A number that other passages or examples would not give.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        let number = |hash: &mut Xxh3, number: u64| hash.update(&number.to_le_bytes());
        for ordinal in 0..self.passages.len() as u32 {
            hash.update(self.passages.id(ordinal).as_bytes());
            number(&mut hash, self.passages.content(ordinal).digest());
        }
        for entry in &self.examples {
            hash.update(entry.query_id.as_bytes());
            number(&mut hash, entry.query.digest());
            for links in [&entry.positives, &entry.negatives] {
                number(&mut hash, links.len() as u64);
                for link in links {
                    number(&mut hash, link.passage.into());
                    let score = link.score().unwrap_or(f32::NAN);
                    number(&mut hash, score.to_bits().into());
                }
            }
            entry
                .also_positive
                .iter()
                .for_each(|&passage| number(&mut hash, passage.into()));
        }
        hash.digest()
    }

    pub(crate) fn entry(&self, index: usize) -> &Entry {
        &self.examples[index]
    }

    /// The data set with other positives and negatives, without the examples that get none.
    pub(crate) fn with_lists(&self, lists: Vec<Option<Lists>>) -> Result<Self, DataError> {
        let mut report = DataReport {
            n_passages: self.report.n_passages,
            ..DataReport::default()
        };
        let mut examples = Vec::with_capacity(lists.len());
        for (entry, lists) in self.examples.iter().zip(lists) {
            let Some((positives, negatives)) = lists else {
                continue;
            };
            // What is no longer a positive to train with is not a negative of anybody's either.
            let is_left = |passage: &u32| positives.iter().all(|link| link.passage != *passage);
            let entry = Entry {
                query_id: entry.query_id.clone(),
                query: entry.query.clone(),
                also_positive: entry.known_positives().filter(is_left).collect(),
                positives,
                negatives,
            };
            report.count(&entry);
            examples.push(entry);
        }
        if examples.is_empty() {
            return Err(DataError::Empty {
                path: PathBuf::from("mined examples"),
            });
        }
        Ok(Self {
            passages: Arc::clone(&self.passages),
            examples,
            report,
            relevant: OnceLock::new(),
        })
    }

    /// Draws the group of an example in an epoch.
    ///
    /// # Errors
    /// [`DataError::TooFewNegatives`].
    pub fn group(&self, index: usize, epoch: u64, sampling: &Sampling) -> Result<Group, DataError> {
        let entry = &self.examples[index];
        let links = self.links(index, epoch, sampling)?;
        let candidate = |link| self.passages.candidate(link);
        Ok(Group {
            query_id: entry.query_id.clone(),
            query: entry.query.clone(),
            passages: links.into_iter().map(candidate).collect(),
            positives: entry
                .known_positives()
                .map(|passage| self.passages.id(passage).to_owned())
                .collect(),
        })
    }

    /// Digests of the query and of each passage of an example's group.
    pub(crate) fn group_digests(
        &self,
        index: usize,
        epoch: u64,
        sampling: &Sampling,
    ) -> Result<Vec<u64>, DataError> {
        let links = self.links(index, epoch, sampling)?;
        let passages = links
            .into_iter()
            .map(|link| self.passages.content(link.passage).digest());
        let query = self.examples[index].query.digest();
        Ok(std::iter::once(query).chain(passages).collect())
    }

    /// Checks that every group can be drawn, in every epoch.
    ///
    /// With `scored`, every passage that can be drawn must have a teacher's score, so none may be drawn at random.
    ///
    /// # Errors
    /// [`DataError::TooFewNegatives`], [`DataError::Unscored`], and what is wrong with the settings.
    pub fn check(&self, sampling: &Sampling, scored: bool) -> Result<(), DataError> {
        sampling.check()?;
        for (index, entry) in self.examples.iter().enumerate() {
            let links = self.links(index, 0, sampling)?;
            if !scored {
                continue;
            }
            let pool = sampling.pool.unwrap_or(usize::MAX);
            let listed = entry
                .positives
                .iter()
                .chain(entry.negatives.iter().take(pool));
            if let Some(link) = listed.chain(&links).find(|link| link.score().is_none()) {
                return Err(DataError::Unscored {
                    query: entry.query_id.clone(),
                    passage: self.passages.id(link.passage).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Counts the examples without any negative where groups have some, and those with fewer than a group has.
    pub fn n_lacking(&self, sampling: &Sampling) -> (usize, usize) {
        let (mut n_without, mut n_few) = (0, 0);
        for entry in &self.examples {
            let n = entry.negatives.len();
            let n = n.min(sampling.pool.unwrap_or(usize::MAX));
            n_without += usize::from(n == 0 && sampling.n_negatives() > 0);
            n_few += usize::from(n > 0 && n < sampling.n_negatives());
        }
        (n_without, n_few)
    }

    /// Counts the ids of passages, and those of queries, that stand for several texts, each with the first.
    ///
    /// What is known to be relevant is told by ids: of one batch all texts of an id count as one.
    pub fn ids_of_several_texts(&self) -> [Option<(usize, String)>; 2] {
        let [mut passages, mut queries] = [(); 2].map(|()| SeveralTexts::new(usize::MAX));
        for passage in 0..self.passages.len() as u32 {
            passages.add(self.passages.id(passage), self.passages.content(passage));
        }
        for entry in &self.examples {
            queries.add(&entry.query_id, &entry.query);
        }
        [passages.found(), queries.found()]
    }

    /// Checks that a model of so many tokens knows all that stand here.
    ///
    /// # Errors
    /// [`DataError::Token`].
    pub fn check_tokens(&self, n_vocabulary: usize) -> Result<(), DataError> {
        let refuse = |kind: &str, id: &str, token| {
            let text = format!("{kind} `{id}`");
            Err(DataError::Token {
                text,
                token,
                n_vocabulary,
            })
        };
        for entry in &self.examples {
            if let Some(token) = entry.query.unknown_token(n_vocabulary) {
                return refuse("query", &entry.query_id, token);
            }
        }
        for ordinal in 0..self.passages.len() as u32 {
            let content = self.passages.content(ordinal);
            if let Some(token) = content.unknown_token(n_vocabulary) {
                return refuse("passage", self.passages.id(ordinal), token);
            }
        }
        Ok(())
    }

    fn links(&self, index: usize, epoch: u64, sampling: &Sampling) -> Result<Vec<Link>, DataError> {
        let entry = &self.examples[index];
        let (n_positives, n_negatives) = (entry.positives.len(), entry.negatives.len());
        let draw = sampling.draw(n_positives, n_negatives, epoch, index as u64);
        let mut links = Vec::with_capacity(sampling.n_passages);
        links.push(entry.positives[draw.positive]);
        links.extend(draw.negatives.iter().map(|&number| entry.negatives[number]));
        if links.len() < sampling.n_passages {
            self.fill(&mut links, epoch, index, sampling)?;
        }
        Ok(links)
    }

    /// Adds random passages that are neither positives of the query nor in the group.
    fn fill(
        &self,
        links: &mut Vec<Link>,
        epoch: u64,
        index: usize,
        sampling: &Sampling,
    ) -> Result<(), DataError> {
        let in_group = links.iter().map(|link| link.passage);
        let mut others = Others::new(self, index, in_group);
        let mut numbers = random(sampling.seed, epoch, index as u64, Purpose::Fill);
        while links.len() < sampling.n_passages {
            let passage = others.draw(&mut numbers).ok_or_else(|| {
                let query = self.examples[index].query_id.clone();
                let needed = sampling.n_negatives();
                DataError::TooFewNegatives {
                    query,
                    needed,
                    found: links.len() - 1,
                }
            })?;
            links.push(Link::new(passage, None));
        }
        Ok(())
    }

    fn relevant(&self) -> &RelevantByQuery {
        self.relevant.get_or_init(|| {
            let (mut seen, mut relevant) = (HashSet::new(), RelevantByQuery::new());
            for key in self.examples.iter().flat_map(Entry::keys) {
                if !seen.insert(key) {
                    relevant.entry(key).or_default();
                }
            }
            for entry in &self.examples {
                for key in entry.keys() {
                    let Some(of_query) = relevant.get_mut(&key) else {
                        continue;
                    };
                    for passage in entry.known_positives() {
                        of_query.insert(xxh3_64(self.passages.id(passage).as_bytes()));
                        of_query.insert(self.passages.content(passage).digest());
                    }
                }
            }
            relevant
        })
    }
}

/// The passages of a data set, to be drawn at random as negatives of one of its queries: without those that are relevant to it,
/// in any example, by id or by content, without some more, and without those of equal content.
pub(crate) struct Others<'a> {
    passages: &'a Passages,
    taken: HashSet<u32>,
    contents: HashSet<u64>,
    /// Of the example's positives.
    ids: HashSet<&'a str>,
    /// Of other examples of the query.
    relevant: [Option<&'a HashSet<u64>>; 2],
}

impl<'a> Others<'a> {
    /// Those of an example, without what is `taken`.
    pub(crate) fn new(
        dataset: &'a Dataset,
        index: usize,
        taken: impl Iterator<Item = u32>,
    ) -> Self {
        let (entry, passages) = (&dataset.examples[index], &*dataset.passages);
        let taken: HashSet<u32> = entry.known_positives().chain(taken).collect();
        let digest = |&passage: &u32| passages.content(passage).digest();
        let positives = entry.known_positives();
        Self {
            passages,
            contents: taken.iter().map(digest).collect(),
            taken,
            ids: positives.map(|passage| passages.id(passage)).collect(),
            relevant: entry.keys().map(|key| dataset.relevant().get(&key)),
        }
    }

    /// Takes one; none when there is none left.
    pub(crate) fn draw(&mut self, numbers: &mut ChaCha8Rng) -> Option<u32> {
        while self.taken.len() < self.passages.len() {
            let passage = numbers.random_range(0..self.passages.len() as u32);
            let is_free = self.taken.insert(passage) && !self.is_relevant(passage);
            if is_free
                && self
                    .contents
                    .insert(self.passages.content(passage).digest())
            {
                return Some(passage);
            }
        }
        None
    }

    fn is_relevant(&self, passage: u32) -> bool {
        let id = self.passages.id(passage);
        let is_in = |of_query: &&HashSet<u64>| {
            of_query.contains(&xxh3_64(id.as_bytes()))
                || of_query.contains(&self.passages.content(passage).digest())
        };
        self.ids.contains(id) || self.relevant.iter().flatten().any(is_in)
    }
}

/// Puts examples together, their passages held once.
#[derive(Default)]
pub(super) struct DatasetBuilder {
    pub(super) passages: PassageTable,
    pub(super) report: DataReport,
    examples: Vec<Entry>,
}

impl DatasetBuilder {
    /// Adds an example that brings its passages.
    pub(super) fn push(&mut self, example: Example) -> Result<(), DataError> {
        if example.positives.is_empty() {
            return Err(DataError::NoPositive {
                query: example.query_id,
            });
        }
        let mut links = |candidates: Vec<Candidate>| -> Result<Vec<Link>, DataError> {
            let link = |candidate: Candidate| {
                let score = candidate.score;
                Ok(Link::new(self.passages.insert(candidate)?, score))
            };
            candidates.into_iter().map(link).collect()
        };
        let positives = links(example.positives)?;
        let negatives = links(example.negatives)?;
        self.push_entry(Entry {
            query_id: example.query_id,
            query: example.query,
            positives,
            negatives,
            also_positive: Vec::new(),
        });
        Ok(())
    }

    /// Adds an example whose passages are in the table.
    pub(super) fn push_entry(&mut self, entry: Entry) {
        self.examples.push(entry);
    }

    /// Checks that the passages that examples name were found.
    ///
    /// The files say where positives and negatives are named. With `skip`, what is missing is counted.
    pub(super) fn check_named(
        &mut self,
        positives: &[&Path],
        negatives: &[&Path],
        skip: bool,
    ) -> Result<(), DataError> {
        for entry in &self.examples {
            let lists = [
                (&entry.positives, positives, "positives not in the corpus"),
                (&entry.negatives, negatives, "negatives not in the corpus"),
            ];
            for (links, paths, reason) in lists {
                for link in links {
                    if self.passages.has_content(link.passage) {
                        continue;
                    }
                    let (query, id) = (&entry.query_id, self.passages.id(link.passage));
                    let place = || format!("{id} of {query}");
                    if !skip {
                        let reason =
                            format!("passage `{id}` of query `{query}` is not in the corpus");
                        return Err(place_of(paths, &[query, id], reason));
                    }
                    self.report.leave_out(reason, place);
                }
            }
        }
        Ok(())
    }

    /// Makes the data set. Passages without content are left out of the lists, and examples that have no positive then.
    ///
    /// A negative that is a positive too, by id or by content, is left out.
    pub(super) fn finish(mut self, path: &Path) -> Result<Dataset, DataError> {
        let (passages, renumbered) = self.passages.finish();
        let mut report = self.report;
        let mut examples = Vec::with_capacity(self.examples.len());
        for mut entry in self.examples.drain(..) {
            for links in [&mut entry.positives, &mut entry.negatives] {
                links.retain_mut(|link| {
                    let ordinal = renumbered[link.passage as usize];
                    link.passage = ordinal.unwrap_or_default();
                    ordinal.is_some()
                });
            }
            let renumber = |passage: &u32| renumbered[*passage as usize];
            entry.also_positive = entry.also_positive.iter().filter_map(renumber).collect();
            if entry.positives.is_empty() {
                let id = &entry.query_id;
                report.leave_out("queries without a positive in the corpus", || id.clone());
                continue;
            }
            let (ids, contents): (HashSet<&str>, HashSet<u64>) = entry
                .known_positives()
                .map(|passage| (passages.id(passage), passages.content(passage).digest()))
                .unzip();
            let query_id = &entry.query_id;
            entry.negatives.retain(|link| {
                let is_positive = ids.contains(passages.id(link.passage))
                    || contents.contains(&passages.content(link.passage).digest());
                if is_positive {
                    let place = || format!("{} of {query_id}", passages.id(link.passage));
                    report.leave_out("negatives that are positives", place);
                }
                !is_positive
            });
            report.count(&entry);
            examples.push(entry);
        }
        if examples.is_empty() {
            return Err(DataError::Empty {
                path: PathBuf::from(path),
            });
        }
        report.n_passages = passages.len() as u64;
        Ok(Dataset {
            passages: Arc::new(passages),
            examples,
            report,
            relevant: OnceLock::new(),
        })
    }
}
