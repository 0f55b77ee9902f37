use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::data::DataError;

/// When a block of sentences ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosingRule {
    /// RetroMAE's: before a sentence, once the block has as many tokens as its target. So a block goes beyond its target by up
    /// to a sentence, of which training does not read the end.
    RetroMae,
    /// Condenser's: before a sentence that would bring it above its target. So only a block of one sentence goes beyond it.
    Condenser,
}

impl ClosingRule {
    /// The smallest target that may be drawn.
    fn least_target(self) -> usize {
        match self {
            Self::RetroMae => 3,
            Self::Condenser => 1,
        }
    }
}

/// How documents become blocks of whole sentences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// When a block ends.
    pub rule: ClosingRule,
    /// Tokens that training reads of a block, `[CLS]` and `[SEP]` among them; the target is that without these.
    pub max_tokens: usize,
    /// Chance of a block to have a target drawn from those below too.
    pub short_probability: f64,
    /// Records of the corpus that are read as one document, the first ones together, and so on: lines of a book.
    pub joined: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl BlockConfig {
    /// The published values of a rule.
    pub fn of(rule: ClosingRule) -> Self {
        let (max_tokens, short_probability) = match rule {
            ClosingRule::RetroMae => (512, 0.0),
            ClosingRule::Condenser => (128, 0.1),
        };
        Self {
            rule,
            max_tokens,
            short_probability,
            joined: 1,
            seed: 42,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`DataError::Setting`].
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |name, value, expected| DataError::Setting {
            name,
            value,
            expected,
        };
        if self.room() < self.rule.least_target() {
            let expected = match self.rule {
                ClosingRule::RetroMae => "it is at least 5",
                ClosingRule::Condenser => "it is at least 3",
            };
            return Err(wrong("max_tokens", self.max_tokens.to_string(), expected));
        }
        if self.joined == 0 {
            return Err(wrong("joined", "0".to_owned(), "it is at least 1"));
        }
        match (0.0..=1.0).contains(&self.short_probability) {
            true => Ok(()),
            false => Err(wrong(
                "short_probability",
                self.short_probability.to_string(),
                "it is from 0 to 1",
            )),
        }
    }

    /// Tokens between `[CLS]` and `[SEP]`.
    pub(super) fn room(&self) -> usize {
        self.max_tokens.saturating_sub(2)
    }

    fn draw_target(&self, random: &mut impl Rng) -> usize {
        match random.random_bool(self.short_probability) {
            true => random.random_range(self.rule.least_target()..=self.room()),
            false => self.room(),
        }
    }
}

/// Packs the sentences of a document into blocks of whole sentences, each with a target of its own; what is left is the last
/// block. Sentences without a token are left out.
///
/// # Panics
/// On settings that [`BlockConfig::check`] refuses.
pub fn blocks(
    sentences: impl IntoIterator<Item = Vec<u32>>,
    config: &BlockConfig,
    random: &mut impl Rng,
) -> Vec<Vec<u32>> {
    let mut blocks = Vec::new();
    let mut block: Vec<u32> = Vec::new();
    let mut target = config.draw_target(random);
    for sentence in sentences.into_iter().filter(|ids| !ids.is_empty()) {
        let is_full = match config.rule {
            ClosingRule::RetroMae => block.len() >= target,
            ClosingRule::Condenser => !block.is_empty() && block.len() + sentence.len() > target,
        };
        if is_full {
            blocks.push(std::mem::take(&mut block));
            target = config.draw_target(random);
        }
        block.extend(sentence);
    }
    if !block.is_empty() {
        blocks.push(block);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::test_data::sentences;
    use super::*;
    use crate::data::random::{Purpose, random};

    fn config(rule: ClosingRule, max_tokens: usize) -> BlockConfig {
        BlockConfig {
            max_tokens,
            short_probability: 0.0,
            ..BlockConfig::of(rule)
        }
    }

    /// Lengths of the blocks that sentences of some lengths become.
    fn check(rule: ClosingRule, lengths: &[usize], expected: &[usize]) {
        let mut random = random(1, 0, 0, Purpose::Blocks);
        let found = blocks(sentences(lengths), &config(rule, 12), &mut random);
        let found: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(found, expected, "{rule:?} {lengths:?}");
    }

    #[test]
    fn blocks_end_as_published() {
        // The target is 10.
        check(ClosingRule::RetroMae, &[4, 5, 6, 7, 3, 2], &[15, 10, 2]);
        check(
            ClosingRule::Condenser,
            &[4, 5, 6, 7, 3, 2],
            &[4 + 5, 6, 7 + 3, 2],
        );
        check(ClosingRule::RetroMae, &[10, 0, 1], &[10, 1]);
        check(ClosingRule::Condenser, &[10, 0, 1], &[10, 1]);
        // A sentence is never cut.
        check(ClosingRule::RetroMae, &[9, 30, 30], &[39, 30]);
        check(ClosingRule::Condenser, &[9, 30, 30], &[9, 30, 30]);
        check(ClosingRule::Condenser, &[], &[]);
        check(ClosingRule::RetroMae, &[0], &[]);
    }

    fn check_targets(rule: ClosingRule, least: usize) {
        let config = BlockConfig {
            short_probability: 0.3,
            ..config(rule, 12)
        };
        let mut random = random(3, 0, 0, Purpose::Blocks);
        let blocks = blocks(sentences(&[1; 100_000]), &config, &mut random);
        // Of single tokens a block has as many as its target: 10, or any of `least` to 10.
        let n = blocks.len() as f64;
        let share = 0.3 / (11 - least) as f64;
        for target in 1..=10 {
            let p = match target {
                10 => 0.7 + share,
                _ if target < least => 0.0,
                _ => share,
            };
            let count = blocks.iter().filter(|block| block.len() == target).count() as f64;
            let bound = 4.0 * (n * p * (1.0 - p)).sqrt() + 1.0; // the last block may be shorter
            assert!(
                (count - n * p).abs() <= bound,
                "{rule:?} {target}: {count} of {n}"
            );
        }
    }

    #[test]
    fn short_targets_are_as_frequent_as_they_should_be() {
        check_targets(ClosingRule::RetroMae, 3);
        check_targets(ClosingRule::Condenser, 1);
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for rule in [ClosingRule::RetroMae, ClosingRule::Condenser] {
            let good = BlockConfig::of(rule);
            good.check().expect("the published values");
            let check = |config: BlockConfig, name: &str| {
                let error = config.check().expect_err("it cannot be").to_string();
                assert!(error.starts_with(name), "{error}");
            };
            let least = rule.least_target() + 2;
            config(rule, least).check().expect("room for a target");
            check(config(rule, least - 1), "max_tokens is ");
            check(config(rule, 0), "max_tokens is 0");
            let joined = 0;
            check(
                BlockConfig {
                    joined,
                    ..good.clone()
                },
                "joined is 0",
            );
            for short_probability in [f64::NAN, -0.1, 1.5] {
                check(
                    BlockConfig {
                        short_probability,
                        ..good.clone()
                    },
                    "short_probability is ",
                );
            }
        }
    }

    proptest! {
        #[test]
        fn no_sentence_is_lost_or_cut(
            lengths in prop::collection::vec(0usize..12, 0..60),
            is_condenser: bool,
            max_tokens in 5usize..30,
            is_short: bool,
            seed: u64,
        ) {
            let short_probability = if is_short { 0.5 } else { 0.0 };
            let rule = if is_condenser { ClosingRule::Condenser } else { ClosingRule::RetroMae };
            let config = BlockConfig { short_probability, ..config(rule, max_tokens) };
            let all = sentences(&lengths);
            let found = blocks(all.clone(), &config, &mut random(seed, 0, 0, Purpose::Blocks));
            // All tokens, in order; blocks end where sentences do.
            prop_assert_eq!(found.concat(), all.concat());
            let mut rest = all.iter().filter(|ids| !ids.is_empty()).peekable();
            for (number, block) in found.iter().enumerate() {
                let mut own: Vec<usize> = Vec::new();
                while own.iter().sum::<usize>() < block.len() {
                    own.push(rest.next().expect("a sentence of the block").len());
                }
                prop_assert_eq!(own.iter().sum::<usize>(), block.len());
                let last = own[own.len() - 1];
                let (n, room, next) = (block.len(), config.room(), rest.peek());
                // None but the last is shorter than the rule has it.
                let (most, is_full) = match rule {
                    ClosingRule::RetroMae => (n - last < room, n >= if is_short { 3 } else { room }),
                    ClosingRule::Condenser => {
                        let is_full = next.is_some_and(|next| n + next.len() > room);
                        (n <= room || own.len() == 1, is_short || is_full)
                    }
                };
                prop_assert!(most, "{n} tokens of {own:?}");
                prop_assert!(is_full || number + 1 == found.len(), "{n} tokens of {own:?}");
            }
        }
    }
}
