use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{Batches, Counts};
use crate::data::DataError;
use crate::data::random::{Purpose, random};
use crate::masking::{Vocabulary, example_random};

/// What a method of pre-training reads of a text: windows and what is hidden of them.
pub trait Draw<T>: Send + Sync {
    /// What a step reads.
    type Example: Send;

    /// Refuses settings that cannot be.
    ///
    /// # Errors
    /// [`DataError::Setting`].
    fn check(&self) -> Result<(), DataError>;

    /// Tokens of what is drawn at most, special tokens among them.
    fn max_tokens(&self) -> usize;

    /// Adds what a step reads of a text to its batch.
    fn draw(
        &self,
        text: &T,
        vocabulary: &Vocabulary,
        random: &mut ChaCha8Rng,
        batch: &mut Vec<Self::Example>,
    );

    /// Counts what [`Self::draw`], with the same random numbers, would read of a text: what it lacks, and what is cut.
    fn count(&self, text: &T, random: &mut ChaCha8Rng, counts: &mut Counts);

    /// A number that other files behind the draws would not give.
    fn digest(&self) -> u64 {
        0
    }
}

/// The texts of a corpus by their places, in memory or in a file.
pub trait Texts: Send + Sync {
    /// One of them.
    type Text;

    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text at a place below [`Self::len`].
    ///
    /// # Errors
    /// [`DataError`] when it cannot be read.
    fn text(&self, place: u32) -> Result<Self::Text, DataError>;

    /// A number that other texts would not give.
    fn digest(&self) -> u64;
}

impl<T: Clone + Hash + Send + Sync> Texts for Vec<T> {
    type Text = T;

    fn len(&self) -> usize {
        self.len()
    }

    fn text(&self, place: u32) -> Result<T, DataError> {
        Ok(self[place as usize].clone())
    }

    fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        self.hash(&mut hash);
        hash.finish()
    }
}

/// Texts, and what is drawn of them.
#[derive(Debug)]
pub struct TextSource<S, D> {
    texts: S,
    vocabulary: Vocabulary,
    draw: D,
}

/// How texts are put into batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextBatchesConfig {
    /// Texts of a batch.
    pub batch_size: usize,
    /// Seed of order and draws.
    pub seed: u64,
    /// Leaves out the last batch of an epoch when it is short.
    pub drop_last: bool,
    /// The part of each epoch that is read; all of it without one.
    pub shard: Option<Shard>,
}

/// The part that one of several processes reads of each epoch: every `count`-th text of the order that all of them draw, so
/// that together they read each text once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Which part, from 0.
    pub index: usize,
    /// Parts of an epoch.
    pub count: usize,
}

/// Batches of texts.
///
/// The order of an epoch depends on seed and epoch, what is drawn of a text on these and the place of the text.
#[derive(Debug)]
pub struct TextBatches<S, D> {
    source: Arc<TextSource<S, D>>,
    /// Places of the texts that are read.
    places: Vec<u32>,
    config: TextBatchesConfig,
    digest: u64,
    /// The order of the epoch that was asked for last.
    order: Mutex<Option<(u64, Arc<Vec<u32>>)>>,
}

impl<S: Texts, D: Draw<S::Text>> TextSource<S, D> {
    /// Checks the settings of the draws.
    ///
    /// # Errors
    /// [`DataError::Setting`]; [`DataError::TooManyPassages`].
    pub fn new(texts: S, vocabulary: Vocabulary, draw: D) -> Result<Self, DataError> {
        draw.check()?;
        u32::try_from(texts.len()).map_err(|_| DataError::TooManyPassages)?;
        Ok(Self {
            texts,
            vocabulary,
            draw,
        })
    }

    /// Draws `n_held_out` texts by the seed; returns the places of the others, and theirs.
    ///
    /// # Errors
    /// [`DataError::Setting`] when that leaves none to train on.
    pub fn split(&self, n_held_out: usize, seed: u64) -> Result<(Vec<u32>, Vec<u32>), DataError> {
        if n_held_out >= self.texts.len() {
            return Err(DataError::Setting {
                name: "dev.texts",
                value: n_held_out.to_string(),
                expected: "it is below the number of texts",
            });
        }
        let mut places: Vec<u32> = (0..self.texts.len() as u32).collect();
        places.shuffle(&mut random(seed, 0, 0, Purpose::HeldOut));
        let mut rest = places.split_off(n_held_out);
        rest.sort_unstable();
        places.sort_unstable();
        Ok((rest, places))
    }
}

impl<S: Texts, D: Draw<S::Text>> TextBatches<S, D> {
    /// Batches of the texts at some places of a source.
    ///
    /// # Errors
    /// [`DataError::Setting`] when a batch has no text, or the shard is none.
    pub fn new(
        source: Arc<TextSource<S, D>>,
        places: Vec<u32>,
        config: TextBatchesConfig,
    ) -> Result<Self, DataError> {
        if config.batch_size == 0 {
            return Err(DataError::Setting {
                name: "batch_size",
                value: "0".to_owned(),
                expected: "it is at least 1",
            });
        }
        if let Some(Shard { index, count }) = config.shard
            && index >= count
        {
            return Err(DataError::Setting {
                name: "shard",
                value: format!("{{ index = {index}, count = {count} }}"),
                expected: "the index is below the count",
            });
        }
        let mut hash = Xxh3::new();
        places.hash(&mut hash);
        (source.texts.digest(), source.draw.digest()).hash(&mut hash);
        Ok(Self {
            digest: hash.finish(),
            source,
            places,
            config,
            order: Mutex::default(),
        })
    }

    /// Gives each text of a batch and its random numbers to `each`.
    fn each(
        &self,
        epoch: u64,
        index: usize,
        mut each: impl FnMut(&S::Text, &mut ChaCha8Rng),
    ) -> Result<(), DataError> {
        let (order, size) = (self.order(epoch), self.config.batch_size);
        let end = order.len().min((index + 1) * size);
        for &place in &order[index * size..end] {
            let mut random = example_random(self.config.seed, epoch, place.into());
            each(&self.source.texts.text(place)?, &mut random);
        }
        Ok(())
    }

    fn order(&self, epoch: u64) -> Arc<Vec<u32>> {
        let mut last = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, order)) if *of == epoch => Arc::clone(order),
            _ => {
                let mut order = self.places.clone();
                order.shuffle(&mut random(self.config.seed, epoch, 0, Purpose::Order));
                if let Some(Shard { index, count }) = self.config.shard {
                    order = order.into_iter().skip(index).step_by(count).collect();
                }
                let order = Arc::new(order);
                *last = Some((epoch, Arc::clone(&order)));
                order
            }
        }
    }
}

impl<S: Texts, D: Draw<S::Text>> Batches for TextBatches<S, D> {
    type Batch = Vec<D::Example>;

    fn len(&self, _epoch: u64) -> usize {
        let (n, size) = (self.places.len(), self.config.batch_size);
        let n = match self.config.shard {
            Some(Shard { index, count }) => n.saturating_sub(index).div_ceil(count),
            None => n,
        };
        match self.config.drop_last {
            true => n / size,
            false => n.div_ceil(size),
        }
    }

    fn batch(&self, epoch: u64, index: usize) -> Result<Vec<D::Example>, DataError> {
        let mut batch = Vec::new();
        let TextSource {
            draw, vocabulary, ..
        } = &*self.source;
        self.each(epoch, index, |text, random| {
            draw.draw(text, vocabulary, random, &mut batch);
        })?;
        Ok(batch)
    }

    fn counts(&self, epoch: u64, index: usize) -> Result<Counts, DataError> {
        let mut counts = Counts::from([("texts", 0)]);
        self.each(epoch, index, |text, random| {
            *counts.entry("texts").or_default() += 1;
            self.source.draw.count(text, random, &mut counts);
        })?;
        Ok(counts)
    }

    fn digest(&self) -> u64 {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    /// Draws the text and a random number.
    #[derive(Debug)]
    struct Numbers;

    impl Draw<u32> for Numbers {
        type Example = (u32, u64);

        fn check(&self) -> Result<(), DataError> {
            Ok(())
        }

        fn max_tokens(&self) -> usize {
            1
        }

        fn draw(
            &self,
            text: &u32,
            _: &Vocabulary,
            random: &mut ChaCha8Rng,
            batch: &mut Vec<(u32, u64)>,
        ) {
            batch.push((*text, random.random()));
        }

        fn count(&self, text: &u32, random: &mut ChaCha8Rng, counts: &mut Counts) {
            let sum = u64::from(*text) + random.random::<u64>() % 1000;
            *counts.entry("sum").or_default() += sum;
        }
    }

    fn source(n: u32) -> Arc<TextSource<Vec<u32>, Numbers>> {
        let pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
        let vocabulary = Vocabulary::new(pieces.to_vec()).expect("the special tokens");
        let texts: Vec<u32> = (100..100 + n).collect();
        Arc::new(TextSource::new(texts, vocabulary, Numbers).expect("a source"))
    }

    fn batches(places: &[u32], seed: u64, drop_last: bool) -> TextBatches<Vec<u32>, Numbers> {
        let config = TextBatchesConfig {
            batch_size: 4,
            seed,
            drop_last,
            shard: None,
        };
        TextBatches::new(source(10), places.to_vec(), config).expect("batches")
    }

    fn epoch(batches: &TextBatches<Vec<u32>, Numbers>, epoch: u64) -> Vec<Vec<(u32, u64)>> {
        let indices = 0..batches.len(epoch);
        let batch = |index| batches.batch(epoch, index).expect("a batch");
        indices.map(batch).collect()
    }

    #[test]
    fn an_epoch_has_each_text_once_in_its_own_order() {
        let places: Vec<u32> = (0..10).collect();
        let all = batches(&places, 1, false);
        let first = epoch(&all, 0);
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut texts: Vec<u32> = first.iter().flatten().map(|(text, _)| *text).collect();
        texts.sort_unstable();
        assert_eq!(texts, (100..110).collect::<Vec<_>>());
        assert_ne!(first, epoch(&all, 1));
        assert_ne!(first, epoch(&batches(&places, 2, false), 0));
        // Whatever was asked before.
        let again = batches(&places, 1, false);
        assert_eq!(again.batch(1, 2).expect("a batch"), epoch(&all, 1)[2]);
        assert_eq!(again.batch(0, 1).expect("a batch"), first[1]);
        assert_eq!(epoch(&batches(&places, 1, true), 0), first[..2]);
    }

    #[test]
    fn a_batch_may_have_room_for_more_than_all_texts() {
        let config = TextBatchesConfig {
            batch_size: usize::MAX,
            seed: 1,
            drop_last: false,
            shard: None,
        };
        let all = TextBatches::new(source(10), (0..10).collect(), config).expect("batches");
        assert_eq!(all.batch(0, 0).expect("a batch").len(), 10);
    }

    #[test]
    fn counts_are_of_what_is_drawn() {
        let all = batches(&(0..10).collect::<Vec<_>>(), 1, false);
        for (index, batch) in epoch(&all, 1).into_iter().enumerate() {
            let sum = |&(text, drawn): &(u32, u64)| u64::from(text) + drawn % 1000;
            let expected = [
                ("sum", batch.iter().map(sum).sum()),
                ("texts", batch.len() as u64),
            ];
            let counts = all.counts(1, index).expect("counts");
            assert_eq!(counts, Counts::from(expected));
        }
    }

    #[test]
    fn what_is_drawn_depends_on_the_place_alone() {
        let (all, part) = (batches(&[0, 1, 2, 3], 1, false), batches(&[2], 1, false));
        let drawn = part.batch(3, 0).expect("a batch")[0];
        assert!(all.batch(3, 0).expect("a batch").contains(&drawn));
        assert_ne!(all.digest(), part.digest());
        assert_eq!(all.digest(), batches(&[0, 1, 2, 3], 7, true).digest());
    }

    #[test]
    fn shards_share_out_each_epoch() {
        let places: Vec<u32> = (0..10).collect();
        let of = |shard| {
            let config = TextBatchesConfig {
                batch_size: 2,
                seed: 1,
                drop_last: false,
                shard,
            };
            TextBatches::new(source(10), places.clone(), config)
        };
        let whole = of(None).expect("batches");
        for count in [1, 3, 10, 12] {
            let shards = (0..count).map(|index| Some(Shard { index, count }));
            let shards: Vec<_> = shards.map(|shard| of(shard).expect("batches")).collect();
            let texts = |batches: &_| epoch(batches, 5).concat();
            let parts: Vec<Vec<_>> = shards.iter().map(texts).collect();
            for (n, drawn) in texts(&whole).into_iter().enumerate() {
                assert_eq!(parts[n % count][n / count], drawn, "{n} of {count}");
            }
            assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 10);
        }
        for (index, count) in [(0, 0), (3, 3)] {
            let error = of(Some(Shard { index, count })).expect_err("no such part");
            assert!(error.to_string().contains("shard"), "{error}");
        }
    }

    #[test]
    fn held_out_texts_are_the_rest() {
        let source = source(10);
        let (rest, held_out) = source.split(3, 1).expect("enough texts");
        assert_eq!((rest.len(), held_out.len()), (7, 3));
        let mut all = [rest, held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(source.split(3, 1).expect("enough").1, held_out);
        assert_eq!(source.split(0, 1).expect("enough").0.len(), 10);
        let error = source.split(10, 1).expect_err("none is left");
        assert!(error.to_string().contains("dev.texts"), "{error}");
    }
}
