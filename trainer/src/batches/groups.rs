use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::Batches;
use crate::data::random::{Purpose, random};
use crate::data::{DataError, Dataset, Group, Sampling};

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
#[derive(Debug)]
pub struct GroupBatches {
    datasets: Vec<Arc<Dataset>>,
    config: GroupsConfig,
    plan: Mutex<Option<(u64, Arc<Plan>)>>,
}

/// The examples of each batch of an epoch.
type Plan = Vec<Vec<Place>>;

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
        if config.batch_size == 0 {
            return Err(DataError::Setting {
                name: "batch_size",
                value: "0".to_owned(),
                expected: "it is at least 1",
            });
        }
        for dataset in &datasets {
            dataset.check(&config.sampling, config.scored)?;
        }
        Ok(Self {
            datasets,
            config,
            plan: Mutex::default(),
        })
    }

    /// How the batches are made.
    pub fn config(&self) -> &GroupsConfig {
        &self.config
    }

    /// The data sets.
    pub fn datasets(&self) -> &[Arc<Dataset>] {
        &self.datasets
    }

    /// The examples of an epoch's batches. The plan of the epoch asked for last is kept.
    fn plan(&self, epoch: u64) -> Result<Arc<Plan>, DataError> {
        let mut kept = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((of, plan)) if *of == epoch => Ok(Arc::clone(plan)),
            _ => {
                let plan = Arc::new(self.make_plan(epoch)?);
                *kept = Some((epoch, Arc::clone(&plan)));
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
        Ok(plan)
    }

    /// Fills one batch after another; an example that shares a text with the batch is tried again for the next one.
    fn without_duplicates(&self, places: Vec<Place>, epoch: u64) -> Result<Plan, DataError> {
        let mut plan = Plan::new();
        let mut fresh = places.into_iter();
        let mut waiting: Vec<(Place, Vec<u64>)> = Vec::new();
        loop {
            let (mut batch, mut texts) = (Vec::new(), HashSet::new());
            let mut put_back = Vec::new();
            let mut earlier = std::mem::take(&mut waiting).into_iter();
            while batch.len() < self.config.batch_size {
                let (place, digests) = match earlier.next() {
                    Some(one) => one,
                    None => match fresh.next() {
                        Some(place) => (place, self.digests(place, epoch)?),
                        None => break,
                    },
                };
                if digests.iter().any(|digest| texts.contains(digest)) {
                    put_back.push((place, digests));
                } else {
                    texts.extend(digests);
                    batch.push(place);
                }
            }
            put_back.extend(earlier);
            waiting = put_back;
            if batch.is_empty() {
                return Ok(plan);
            }
            plan.push(batch);
        }
    }

    fn digests(&self, place: Place, epoch: u64) -> Result<Vec<u64>, DataError> {
        self.datasets[place.dataset].group_digests(place.example, epoch, &self.config.sampling)
    }
}

impl Batches for GroupBatches {
    type Batch = Vec<Group>;

    fn len(&self, epoch: u64) -> usize {
        self.plan(epoch).map_or(0, |plan| plan.len())
    }

    fn batch(&self, epoch: u64, index: usize) -> Result<Vec<Group>, DataError> {
        let plan = self.plan(epoch)?;
        let group = |place: &Place| {
            let dataset = &self.datasets[place.dataset];
            dataset.group(place.example, epoch, &self.config.sampling)
        };
        plan[index].iter().map(group).collect()
    }
}
