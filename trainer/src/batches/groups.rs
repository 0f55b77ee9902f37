use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Batches;
use crate::data::random::{Purpose, random};
use crate::data::{Content, DataError, Dataset, Group, Sampling};

/// How groups are drawn and put into batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupsConfig {
    /// How a group is drawn.
    pub sampling: Sampling,
    /// Groups of a batch.
    pub batch_size: usize,
    /// Seed of the order.
    #[serde(default)]
    pub seed: u64,
    /// Keeps the order of the examples in every epoch, as evaluation does.
    #[serde(default)]
    pub in_order: bool,
    /// Leaves out the last batch of an epoch when it is short.
    #[serde(default)]
    pub drop_last: bool,
    /// Never puts a text twice into a batch: an example whose query or passages are there already waits for the next.
    /// Where groups are of one passage, a batch that would be of one group is left out.
    #[serde(default)]
    pub no_duplicates: bool,
    /// How several data sets share an epoch.
    #[serde(default)]
    pub mixing: Mixing,
    /// Refuses data sets with a passage that has no teacher's score.
    #[serde(default)]
    pub scored: bool,
}

/// How several data sets share an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// Examples of all data sets stand in one batch.
    #[default]
    Together,
    /// A batch is of one data set; batches come in random order, so each set in proportion to its size.
    Proportional,
    /// A batch is of one data set; the sets take turns until the first has no batch left.
    RoundRobin,
}

/// Batches of groups drawn from data sets in memory.
///
/// Where a group is a passage alone, a last batch of one group, whose loss could only be 0, joins the one before.
#[derive(Debug)]
pub struct GroupBatches {
    datasets: Vec<Arc<Dataset>>,
    config: GroupsConfig,
    /// Whether an id stands for different texts, so that it has to say its data set too.
    ids_clash: bool,
    plans: Mutex<Plans>,
}

/// The examples of each batch of an epoch.
type Plan = Vec<Vec<Place>>;

/// What is known of epochs: the plan of the one asked for last, the lengths of all asked for.
#[derive(Debug, Default)]
struct Plans {
    last: Option<(u64, Arc<Plan>)>,
    lengths: HashMap<u64, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    dataset: usize,
    example: usize,
}

impl GroupBatches {
    /// Checks that every group of every epoch can be drawn.
    ///
    /// # Errors
    /// What [`Dataset::check`] finds, and settings that cannot be.
    pub fn new(datasets: Vec<Arc<Dataset>>, config: GroupsConfig) -> Result<Self, DataError> {
        config.sampling.check()?;
        if config.batch_size == 0 {
            return Err(DataError::Setting {
                name: "batch_size",
                value: "0".to_owned(),
                expected: "it is at least 1",
            });
        }
        if config.batch_size == 1 && config.sampling.n_passages == 1 {
            return Err(DataError::Setting {
                name: "batch_size",
                value: "1".to_owned(),
                expected: "with groups of one passage it is at least 2",
            });
        }
        for dataset in &datasets {
            dataset.check(&config.sampling, config.scored)?;
        }
        Ok(Self {
            ids_clash: datasets.len() > 1 && ids_clash(&datasets),
            datasets,
            config,
            plans: Mutex::default(),
        })
    }

    /// The examples of an epoch's batches.
    fn plan(&self, epoch: u64) -> Result<Arc<Plan>, DataError> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        match &plans.last {
            Some((of, plan)) if *of == epoch => Ok(Arc::clone(plan)),
            _ => {
                let plan = Arc::new(self.make_plan(epoch)?);
                plans.lengths.insert(epoch, plan.len());
                plans.last = Some((epoch, Arc::clone(&plan)));
                Ok(plan)
            }
        }
    }

    fn make_plan(&self, epoch: u64) -> Result<Plan, DataError> {
        let places = |dataset: usize| {
            (0..self.datasets[dataset].len()).map(move |example| Place { dataset, example })
        };
        let all = 0..self.datasets.len();
        if self.config.mixing == Mixing::Together {
            return self.cut(all.flat_map(places).collect(), epoch, 0);
        }
        let mut plans = Vec::with_capacity(all.len());
        for dataset in all {
            plans.push(self.cut(places(dataset).collect(), epoch, dataset as u64)?);
        }
        if self.config.mixing == Mixing::RoundRobin {
            let n_turns = plans.iter().map(Vec::len).min().unwrap_or_default();
            let mut turns: Vec<_> = plans.into_iter().map(Vec::into_iter).collect();
            let n_batches = n_turns * turns.len();
            let mut plan = Vec::with_capacity(n_batches);
            for _ in 0..n_turns {
                plan.extend(turns.iter_mut().filter_map(Iterator::next));
            }
            return Ok(plan);
        }
        let mut plan = plans.concat();
        if !self.config.in_order {
            plan.shuffle(&mut random(self.config.seed, epoch, 0, Purpose::Mixing));
        }
        Ok(plan)
    }

    /// Orders the examples of an epoch and cuts them into batches.
    fn cut(&self, mut places: Vec<Place>, epoch: u64, part: u64) -> Result<Plan, DataError> {
        if !self.config.in_order {
            places.shuffle(&mut random(self.config.seed, epoch, part, Purpose::Order));
        }
        let size = self.config.batch_size;
        let mut plan: Plan = match self.config.no_duplicates {
            true => self.without_duplicates(places, epoch)?,
            false => places.chunks(size).map(<[Place]>::to_vec).collect(),
        };
        if self.config.drop_last {
            plan.retain(|batch| batch.len() == size);
        }
        if self.config.sampling.n_passages > 1 {
            return Ok(plan);
        }
        if self.config.no_duplicates {
            plan.retain(|batch| batch.len() > 1);
        } else if let Some(alone) = plan.pop_if(|batch| batch.len() == 1)
            && let Some(last) = plan.last_mut()
        {
            last.extend(alone);
        }
        Ok(plan)
    }

    /// Fills one batch after another; an example that shares a text with the batch waits for the next one.
    fn without_duplicates(&self, places: Vec<Place>, epoch: u64) -> Result<Plan, DataError> {
        let mut plan = Plan::new();
        let mut fresh = places.into_iter().enumerate();
        // By number: those that may be tried, and behind each text of a batch those that wait for it.
        let mut ready: BTreeMap<usize, Example> = BTreeMap::new();
        let mut waiting: HashMap<u64, BTreeMap<usize, Example>> = HashMap::new();
        loop {
            let (mut batch, mut texts) = (Vec::new(), HashSet::new());
            while batch.len() < self.config.batch_size {
                let (number, example) = match ready.pop_first() {
                    Some(one) => one,
                    None => match fresh.next() {
                        Some((number, place)) => (number, self.example(place, epoch)?),
                        None => break,
                    },
                };
                let Some(&shared) = example.digests.iter().find(|one| texts.contains(*one)) else {
                    texts.extend(&example.digests);
                    batch.push(example.place);
                    continue;
                };
                // Of all that wait for one text, the first stands for them; another takes its place.
                if let Some(text) = example.waited_for.filter(|&text| text != shared) {
                    release(&mut waiting, text, &mut ready);
                }
                let example = Example {
                    waited_for: Some(shared),
                    ..example
                };
                waiting.entry(shared).or_default().insert(number, example);
            }
            if batch.is_empty() {
                return Ok(plan);
            }
            plan.push(batch);
            for text in texts {
                release(&mut waiting, text, &mut ready);
            }
        }
    }

    fn example(&self, place: Place, epoch: u64) -> Result<Example, DataError> {
        let dataset = &self.datasets[place.dataset];
        Ok(Example {
            place,
            digests: dataset.group_digests(place.example, epoch, &self.config.sampling)?,
            waited_for: None,
        })
    }
}

/// An example that is to find its batch.
#[derive(Debug)]
struct Example {
    place: Place,
    /// Of its texts.
    digests: Vec<u64>,
    /// The text for which it waited last.
    waited_for: Option<u64>,
}

/// Lets the first example that waits for a text be tried.
fn release(
    waiting: &mut HashMap<u64, BTreeMap<usize, Example>>,
    text: u64,
    ready: &mut BTreeMap<usize, Example>,
) {
    let first = waiting.get_mut(&text).and_then(BTreeMap::pop_first);
    ready.extend(first);
}

/// Whether one id is that of two texts in different data sets.
fn ids_clash(datasets: &[Arc<Dataset>]) -> bool {
    let (mut passages, mut queries) = (HashMap::new(), HashMap::new());
    let clashes = |of: &mut HashMap<u64, u64>, id: &str, content: &Content| {
        let digest = content.digest();
        of.insert(xxh3_64(id.as_bytes()), digest)
            .is_some_and(|other| other != digest)
    };
    datasets.iter().any(|dataset| {
        let table = dataset.passages();
        let ordinals = 0..table.len() as u32;
        let examples = 0..dataset.len();
        ordinals
            .into_iter()
            .any(|one| clashes(&mut passages, table.id(one), table.content(one)))
            || examples.into_iter().any(|one| {
                let entry = dataset.entry(one);
                clashes(&mut queries, &entry.query_id, &entry.query)
            })
    })
}

/// Says before each id of which data set it is.
fn name(group: &mut Group, dataset: usize) {
    let name = |id: &str| format!("{dataset}:{id}");
    group.query_id = name(&group.query_id);
    for passage in &mut group.passages {
        passage.id = name(&passage.id);
    }
    group.positives = group.positives.iter().map(|id| name(id)).collect();
}

impl Batches for GroupBatches {
    type Batch = Vec<Group>;

    fn len(&self, epoch: u64) -> usize {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.lengths.get(&epoch).copied();
        drop(plans);
        known.unwrap_or_else(|| self.plan(epoch).map_or(0, |plan| plan.len()))
    }

    fn batch(&self, epoch: u64, index: usize) -> Result<Vec<Group>, DataError> {
        let plan = self.plan(epoch)?;
        let group = |place: &Place| {
            let dataset = &self.datasets[place.dataset];
            let mut group = dataset.group(place.example, epoch, &self.config.sampling)?;
            if self.ids_clash {
                name(&mut group, place.dataset);
            }
            Ok(group)
        };
        plan[index].iter().map(group).collect()
    }

    fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        for dataset in &self.datasets {
            hash.update(&dataset.digest().to_le_bytes());
        }
        hash.digest()
    }
}
