mod config;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::training::{Dropout, Engine, First, Parameters, TrainingError};
use encoder::{LoadError, Tokens};

pub use self::config::{BiEncoderConfig, MaskConfig, Negatives};
use super::guide::Guide;
use super::passes::{self, GradCacheConfig};
use super::rates::Rates;
use super::scores::{Measures, teacher_scores};
use super::tower::{Tower, VectorOptions};
use super::{Objective, Preparation, Step, StepReport};
use crate::data::Group;
use crate::data::random::{Purpose, random};
use crate::export::{PASSAGE_TOWER, QUERY_TOWER};
use crate::loss::{
    self, Better, Mask, Width, block_similarities, cross_entropy, group_similarities,
    listwise_softmax, matryoshka, positives, similarities,
};
use crate::ranks::{Alone, Collective};
use crate::text::{Side, Tokenization};

/// Trains a model that turns queries and passages into vectors of one space.
pub struct BiEncoderObjective {
    config: BiEncoderConfig,
    sides: Arc<Sides>,
    query: Tower,
    /// None where passages go through the queries' tower.
    passage: Option<Tower>,
    parameters: Parameters,
    /// Of queries and of passages.
    rates: [Rates; 2],
    temperature: f64,
    guide: Option<Guide>,
}

/// What makes texts of a batch tokens.
struct Sides {
    tokenization: Tokenization,
    query: Side,
    passage: Side,
}

/// A batch as token ids.
pub struct TokenizedBatch {
    /// B
    queries: Vec<Tokens>,
    /// B·N
    passages: Vec<Tokens>,
}

/// A part of a batch's texts for one tower.
struct Part<'a> {
    is_query: bool,
    texts: &'a [Tokens],
    dropout: Dropout,
}

/// What is known of a batch beside its texts.
struct Target<'a> {
    /// Of the pool, (B, B·N).
    mask: Mask,
    /// The guide's cosines, (B, columns of the loss).
    guide: Option<Tensor>,
    /// (B, N), with distillation.
    teacher: Option<Tensor>,
    temperature: f64,
    widths: Cow<'a, [Width]>,
}

impl BiEncoderObjective {
    /// Loads a model directory.
    ///
    /// # Errors
    /// [`TrainingError::Load`] for a model that cannot be trained so, [`TrainingError::Setting`].
    pub fn load(
        folder: &Path,
        config: &BiEncoderConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        config.check()?;
        let options = VectorOptions {
            pooling: config.pooling,
            normalize: config.normalize,
            head: config.head,
        };
        let (query, passage) = if config.untied {
            let passages = config.passage_model.as_deref().unwrap_or(folder);
            (
                Tower::load(folder, "query.", &options, engine)?,
                Some(Tower::load(passages, "passage.", &options, engine)?),
            )
        } else {
            (Tower::load(folder, "", &options, engine)?, None)
        };
        let passages = passage.as_ref().unwrap_or(&query);
        let differ = |what: &str, differ: bool| match differ {
            true => Err(LoadError::Config {
                path: config.passage_model.clone().unwrap_or_default(),
                reason: format!("its {what} is another than that of the queries' model"),
            }),
            false => Ok(()),
        };
        let (own, others) = (&query.backbone, &passages.backbone);
        differ("vocabulary", own.n_vocabulary() != others.n_vocabulary())?;
        differ("width", query.width() != passages.width())?;
        differ("normalization", query.normalizes != passages.normalizes)?;
        config.check_widths(query.width())?;
        let most = own.max_tokens().min(others.max_tokens());
        let (transformer, lower_case) = (&query.directory.transformer, query.directory.lower_case);
        let tokenization = Tokenization::load(transformer, lower_case, most)?;
        if config.passage_model.is_some() {
            // Each tower is exported with a tokenizer of its own; trained are both with one.
            let other = &passages.directory;
            let agrees = tokenization.agrees_with(&other.transformer, other.lower_case)?;
            differ("tokenizer", !agrees)?;
        }
        let side = |what, prompt: &Option<String>, own: &str, max_tokens| {
            tokenization.check_length(what, max_tokens)?;
            let prompt = prompt.clone().unwrap_or_else(|| own.to_owned());
            Ok::<_, LoadError>(Side { prompt, max_tokens })
        };
        let (own, passage_own) = (
            &query.directory.query_prompt,
            &passages.directory.passage_prompt,
        );
        let query_side = side("query", &config.query_prompt, own, config.query_tokens)?;
        let passage_side = side(
            "passage",
            &config.passage_prompt,
            passage_own,
            config.passage_tokens,
        )?;
        let mut parameters = query.parameters().clone();
        if let Some(passage) = &passage {
            parameters.extend(passage.parameters());
        }
        let normalized = query.normalizes;
        let rates = [
            Rates::read(transformer)?,
            Rates::read(&passages.directory.transformer)?,
        ];
        let temperature = config
            .temperature
            .unwrap_or(if normalized { 0.05 } else { 1.0 });
        let guide = config.guide.as_ref();
        let guide = guide.map(|guide| Guide::load(guide, engine)).transpose()?;
        let config = BiEncoderConfig {
            pooling: Some(query.pooling),
            normalize: Some(normalized),
            query_prompt: Some(query_side.prompt.clone()),
            passage_prompt: Some(passage_side.prompt.clone()),
            temperature: Some(temperature),
            ..config.clone()
        };
        Ok(Self {
            rates: config.dropout.map_or(rates, |p| [Rates::all(p); 2]),
            config,
            sides: Arc::new(Sides {
                tokenization,
                query: query_side,
                passage: passage_side,
            }),
            query,
            passage,
            parameters,
            temperature,
            guide,
        })
    }

    /// The config with what the model decided filled in.
    pub fn config(&self) -> &BiEncoderConfig {
        &self.config
    }

    /// Tokens of the vocabulary.
    pub fn n_vocabulary(&self) -> usize {
        self.query.backbone.n_vocabulary()
    }

    /// What is probably not meant, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        // Truncated vectors are brought to length 1 whatever the whole ones are.
        let compares_cosines = self.query.normalizes || !self.config.matryoshka.is_empty();
        if compares_cosines && self.temperature >= 0.5 {
            warnings.push(format!(
                "vectors have length 1 and the temperature is {}: similarities over it are too close to learn from; \
                 0.01 to 0.1 is usual",
                self.temperature
            ));
        }
        warnings
    }

    fn tower(&self, is_query: bool) -> &Tower {
        match &self.passage {
            Some(passage) if !is_query => passage,
            _ => &self.query,
        }
    }

    /// What a batch is compared with; `step` is none where nothing is trained.
    fn target(&self, batch: &[Group], step: Option<&Step>) -> Result<Target<'_>, TrainingError> {
        let n_passages: usize = batch.iter().map(|group| group.passages.len()).sum();
        let in_group = self.config.negatives == Negatives::Group;
        if n_passages <= 1 || (in_group && n_passages == batch.len()) {
            return Err(TrainingError::Setting {
                name: "number of passages that a positive stands against",
                value: 0.0,
                rule: "it is at least 1, for the loss is always 0 otherwise",
            });
        }
        // Groups are checked even where nothing is masked.
        let mut mask = Mask::known(batch)?;
        if !self.config.mask.known {
            mask = Mask::empty(batch.len(), n_passages);
        }
        if self.config.mask.own {
            mask.mask_own()?;
        }
        let teacher = match self.config.distillation {
            Some(one) if one.needs_negatives() && n_passages == batch.len() => {
                return Err(TrainingError::Setting {
                    name: "number of passages that distillation compares",
                    value: 1.0,
                    rule: "it is at least 2, for the loss is always 0 otherwise",
                });
            }
            Some(_) => Some(teacher_scores(batch)?),
            None => None,
        };
        let guide = match &self.guide {
            Some(guide) => Some(guide.similarities(batch, self.config.negatives.blocks())?),
            None => None,
        };
        Ok(Target {
            mask,
            guide,
            teacher,
            temperature: self.temperature_at(step),
            widths: self.widths_at(step),
        })
    }

    /// 1 over `max(1, min(1, t/W)/τ)`, with W steps of warm-up.
    fn temperature_at(&self, step: Option<&Step>) -> f64 {
        let n_warmup = self.config.temperature_warmup;
        match step {
            Some(step) if step.optimizer_step < n_warmup => {
                let share = step.optimizer_step as f64 / n_warmup as f64;
                1.0 / (share / self.temperature).max(1.0)
            }
            _ => self.temperature,
        }
    }

    /// The widths of a step: all, or those that seed and number of the batch draw, in their order.
    fn widths_at(&self, step: Option<&Step>) -> Cow<'_, [Width]> {
        let widths = &self.config.matryoshka;
        match (step, self.config.matryoshka_per_step) {
            (Some(step), Some(n)) if n < widths.len() => {
                let mut numbers = random(step.seed, 0, step.index, Purpose::Widths);
                let mut drawn = rand::seq::index::sample(&mut numbers, widths.len(), n).into_vec();
                drawn.sort_unstable();
                Cow::Owned(drawn.into_iter().map(|place| widths[place]).collect())
            }
            _ => Cow::Borrowed(widths),
        }
    }

    /// Cuts a share of a batch's groups into the parts that go through an encoder at once, queries first.
    fn parts<'a>(
        &self,
        tokens: &'a TokenizedBatch,
        groups: &Range<usize>,
        dropout: impl Fn(usize, First) -> Dropout,
    ) -> Vec<Part<'a>> {
        let whole = GradCacheConfig {
            queries: usize::MAX,
            passages: usize::MAX,
            max_tokens: None,
        };
        let config = self.config.grad_cache.unwrap_or(whole);
        let group_size = tokens.passages.len() / tokens.queries.len().max(1); // N
        let mut parts = Vec::new();
        for (is_query, all, size, n_texts) in [
            (true, &tokens.queries, 1, config.queries),
            (false, &tokens.passages, group_size, config.passages),
        ] {
            let start = groups.start * size;
            let texts = &all[start..groups.end * size];
            let ranges = passes::cut(texts, n_texts, config.max_tokens);
            parts.extend(ranges.into_iter().map(|range| Part {
                is_query,
                dropout: dropout(
                    usize::from(!is_query),
                    passes::behind(&all[..start + range.start]),
                ),
                texts: &texts[range],
            }));
        }
        parts
    }

    /// One step, with the parts held one after the other or all at once.
    fn accumulate(
        &self,
        batch: &[Group],
        tokens: &TokenizedBatch,
        step: &Step,
        (cached, ranks): (bool, &dyn Collective),
    ) -> Result<StepReport, TrainingError> {
        let target = self.target(batch, Some(step))?;
        let dropout = |side: usize, first| self.rates[side].at(step, side as u64, first);
        let parts = self.parts(tokens, &ranks.share(batch.len()), dropout);
        let mut measures = Measures::default();
        let loss = passes::backward(
            &parts,
            cached,
            step.weight * self.config.grad_scale,
            |part| self.embed(part),
            |vectors| self.loss((&parts, ranks), vectors, &target, &mut measures),
        )?;
        Ok(report(loss, tokens, measures))
    }

    fn embed(&self, part: &Part<'_>) -> Result<Tensor, TrainingError> {
        self.tower(part.is_query).embed(part.texts, &part.dropout)
    }

    /// The vectors of one side of a batch, those of this rank's parts with their graph: (B, H) or (B·N, H).
    ///
    /// Every rank computes the loss of all, so what each of its own vectors does to it is known whole: the sum of the ranks'
    /// gradients is that of the batch, and nothing is left to scale.
    fn gather(
        &self,
        is_query: bool,
        (parts, ranks): (&[Part<'_>], &dyn Collective),
        vectors: &[Tensor],
    ) -> Result<Tensor, TrainingError> {
        let own = parts.iter().zip(vectors);
        let own = own.filter(|(part, _)| part.is_query == is_query);
        let own: Vec<&Tensor> = own.map(|(_, vectors)| vectors).collect();
        let own = match own.is_empty() {
            true => None,
            false => Some(Tensor::cat(&own, 0)?),
        };
        if let (Some(own), true) = (&own, ranks.is_alone()) {
            return Ok(own.clone());
        }
        let values = match &own {
            Some(own) => own.flatten_all()?.to_vec1::<f32>()?,
            None => Vec::new(),
        };
        let mut all = Vec::new();
        for (rank, values) in ranks.all_gather(&values)?.into_iter().enumerate() {
            match &own {
                Some(own) if rank == ranks.rank() => all.push(own.clone()),
                _ if values.is_empty() => {}
                _ => {
                    let shape = (values.len() / self.query.width(), self.query.width());
                    all.push(Tensor::from_vec(values, shape, &Device::Cpu)?);
                }
            }
        }
        Ok(Tensor::cat(&all, 0)?)
    }

    /// The loss of a batch from the vectors of this rank's parts.
    fn loss(
        &self,
        (parts, ranks): (&[Part<'_>], &dyn Collective),
        vectors: &[Tensor],
        target: &Target<'_>,
        measures: &mut Measures,
    ) -> Result<Tensor, TrainingError> {
        let side = |is_query| self.gather(is_query, (parts, ranks), vectors);
        let (queries, passages) = (side(true)?, side(false)?); // (B, H), (B·N, H)
        let scores = similarities(&queries, &passages)?.detach(); // (B, B·N)
        let config = &self.config;
        let mut mask = target.mask.clone();
        if let Some(margin) = config.mask.above {
            let spare_own = !config.mask.above_own;
            mask.mask_better(&scores, Better::Absolute(margin), spare_own)?;
        }
        mask = mask.blocks(config.negatives.blocks())?;
        if let (Some(guide), Some(similarities)) = (&self.guide, &target.guide) {
            guide.mask(similarities, &mut mask)?;
        }
        measures.add(&scores, &mask)?;
        let loss = |queries: &Tensor, passages: &Tensor| {
            self.vector_loss(queries, passages, &mask, target)
        };
        Ok(match target.widths.is_empty() {
            true => loss(&queries, &passages)?,
            false => matryoshka(&queries, &passages, &target.widths, loss)?,
        })
    }

    /// The contrastive loss and distillation, each with its weight.
    fn vector_loss(
        &self,
        queries: &Tensor,
        passages: &Tensor,
        mask: &Mask,
        target: &Target<'_>,
    ) -> loss::Result<Tensor> {
        let (config, temperature) = (&self.config, target.temperature);
        let contrastive = || {
            if config.negatives == Negatives::Group {
                let scores = group_similarities(queries, passages)?; // (B, N)
                let scores = (mask.groups()?.apply(&scores)? / temperature)?;
                return listwise_softmax(&scores);
            }
            let blocks = config.negatives.blocks();
            let scores = block_similarities(queries, passages, blocks)?; // (B, B·N + blocks·B)
            let scores = (mask.apply(&scores)? / temperature)?;
            cross_entropy(&scores, &positives(queries.dim(0)?, passages.dim(0)?)?)
        };
        let (Some(distillation), Some(teacher)) = (&config.distillation, &target.teacher) else {
            return Ok((contrastive()? * config.contrastive_weight)?);
        };
        let distilled =
            (distillation.loss(queries, passages, teacher, temperature)? * distillation.weight)?;
        if config.contrastive_weight == 0.0 {
            return Ok(distilled);
        }
        Ok((distilled + (contrastive()? * config.contrastive_weight)?)?)
    }
}

impl Objective for BiEncoderObjective {
    type Batch = Vec<Group>;
    type Input = TokenizedBatch;

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn is_drawn(&self, name: &str) -> bool {
        let towers = [Some(&self.query), self.passage.as_ref()];
        towers
            .into_iter()
            .flatten()
            .any(|tower| tower.is_drawn(name))
    }

    fn unshareable(&self) -> Option<&'static str> {
        None
    }

    fn preparation(&self) -> Preparation<Vec<Group>, TokenizedBatch> {
        let sides = self.sides.clone();
        Box::new(move |batch| sides.tokenize(batch))
    }

    fn step_prepared(
        &mut self,
        batch: &Vec<Group>,
        input: TokenizedBatch,
        step: &Step,
        ranks: &dyn Collective,
    ) -> Result<StepReport, TrainingError> {
        let cached = self.config.grad_cache.is_some();
        self.accumulate(batch, &input, step, (cached, ranks))
    }

    fn evaluate(&mut self, batch: &Vec<Group>) -> Result<StepReport, TrainingError> {
        let target = self.target(batch, None)?;
        let tokens = self.sides.tokenize(batch)?;
        let parts = self.parts(&tokens, &(0..batch.len()), |_, _| Dropout::NONE);
        let vectors: Vec<Tensor> = parts
            .iter()
            .map(|part| Ok(self.embed(part)?.detach()))
            .collect::<Result<_, TrainingError>>()?;
        let mut measures = Measures::default();
        let loss = self.loss((&parts, &Alone), &vectors, &target, &mut measures)?;
        Ok(report(passes::finite(&loss)?, &tokens, measures))
    }

    /// Writes a sentence-transformers directory, or OpenMatch's of a decoder; one for each tower where they are two.
    fn export(&self, folder: &Path) -> Result<(), TrainingError> {
        let Sides { query, passage, .. } = &*self.sides;
        let prompts = (&*query.prompt, &*passage.prompt);
        let (query_tokens, passage_tokens) = (self.config.query_tokens, self.config.passage_tokens);
        let Some(passage) = &self.passage else {
            return self
                .query
                .export(folder, query_tokens.max(passage_tokens), prompts);
        };
        self.query
            .export(&folder.join(QUERY_TOWER), query_tokens, prompts)?;
        passage.export(&folder.join(PASSAGE_TOWER), passage_tokens, prompts)
    }
}

impl Sides {
    fn tokenize(&self, batch: &[Group]) -> Result<TokenizedBatch, TrainingError> {
        let queries = batch.iter().map(|group| &group.query);
        let passages = batch.iter().flat_map(|group| &group.passages);
        let passages = passages.map(|passage| &passage.content);
        Ok(TokenizedBatch {
            queries: self.tokenization.texts(&self.query, queries)?,
            passages: self.tokenization.texts(&self.passage, passages)?,
        })
    }
}

fn report(loss: f64, tokens: &TokenizedBatch, measures: Measures) -> StepReport {
    let TokenizedBatch { queries, passages } = tokens;
    StepReport {
        loss,
        n_tokens: queries.iter().chain(passages).map(Tokens::len).sum(),
        n_examples: queries.len(),
        measures: measures.finish(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::test_data::{difference, groups, tiny};
    use crate::objective::{DistillationConfig, HeadConfig};

    /// Gradients with the batch in these parts, cached and held at once.
    fn check_grad_cache(config: &BiEncoderConfig, queries: usize, passages: usize) {
        let parts = GradCacheConfig {
            queries,
            passages,
            max_tokens: None,
        };
        let config = BiEncoderConfig {
            grad_cache: Some(parts),
            ..config.clone()
        };
        let objective = tiny(|folder, engine| BiEncoderObjective::load(folder, &config, engine));
        let batch = groups(6, 3);
        let step = Step {
            seed: 1,
            index: 7,
            optimizer_step: 7,
            weight: 0.5,
        };
        let runs = [false, true].map(|cached| {
            objective.parameters.clear_gradients();
            let tokens = objective.sides.tokenize(&batch).expect("tokens");
            let report = objective.accumulate(&batch, &tokens, &step, (cached, &Alone));
            let report = report.expect("a step");
            let gradients = objective
                .parameters
                .iter()
                .map(|p| (p.name().to_owned(), p.gradient().unwrap()));
            (report, gradients.collect::<Vec<_>>())
        });
        assert_eq!(runs[0].0, runs[1].0);
        assert!(runs[0].0.loss > 0.0);
        for ((name, direct), (_, cached)) in runs[0].1.iter().zip(&runs[1].1) {
            let (Some(direct), Some(cached)) = (direct, cached) else {
                panic!("{name} has no gradient");
            };
            let difference = difference(cached, direct);
            assert!(
                difference < 1e-5,
                "{name} with {queries}, {passages}: {difference}"
            );
        }
    }

    #[test]
    fn grad_cache_gives_the_gradient_of_the_whole_batch() {
        let plain = BiEncoderConfig {
            temperature: Some(0.02),
            dropout: Some(0.2),
            ..BiEncoderConfig::default()
        };
        for (queries, passages) in [(1, 1), (3, 3), (6, 18)] {
            check_grad_cache(&plain, queries, passages);
        }
        let everything = BiEncoderConfig {
            untied: true,
            head: Some(HeadConfig {
                width: 8,
                bias: true,
                seed: 3,
            }),
            negatives: Negatives::Full,
            distillation: Some(DistillationConfig::default()),
            matryoshka: vec![
                Width {
                    width: 8,
                    weight: 1.0,
                },
                Width {
                    width: 4,
                    weight: 0.5,
                },
            ],
            mask: MaskConfig {
                above: Some(0.0),
                ..MaskConfig::default()
            },
            contrastive_weight: 0.2,
            grad_scale: 2.0,
            ..plain
        };
        check_grad_cache(&everything, 4, 5);
    }

    #[test]
    fn each_tower_drops_what_its_own_model_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let fixture = testkit::fixture("models/tiny-bert-plain");
        for file in [
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        ] {
            std::fs::copy(fixture.join(file), folder.path().join(file)).expect("copied");
        }
        let text = std::fs::read_to_string(fixture.join("config.json")).expect("a file");
        let mut settings: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for rate in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
            settings[rate] = serde_json::json!(0.4);
        }
        std::fs::write(folder.path().join("config.json"), settings.to_string()).expect("written");
        let own = BiEncoderConfig {
            untied: true,
            passage_model: Some(folder.path().to_owned()),
            pooling: Some(encoder::Pooling::Cls),
            normalize: Some(true),
            query_tokens: 16,
            passage_tokens: 32,
            ..BiEncoderConfig::default()
        };
        let one = BiEncoderConfig {
            dropout: Some(0.2),
            ..own.clone()
        };
        for (config, expected) in [(own, [0.1, 0.4]), (one, [0.2, 0.2])] {
            let objective =
                tiny(|folder, engine| BiEncoderObjective::load(folder, &config, engine));
            assert_eq!(objective.rates, expected.map(Rates::all));
        }
    }

    #[test]
    fn warm_temperatures_of_normalized_vectors_are_warned_of() {
        let width = Width {
            width: 8,
            weight: 1.0,
        };
        for (temperature, normalize, matryoshka, n_warnings) in [
            (None, None, Vec::new(), 0),
            (Some(0.49), None, Vec::new(), 0),
            (Some(0.5), None, Vec::new(), 1),
            (None, Some(false), Vec::new(), 0),
            (None, Some(false), vec![width], 1),
            (Some(0.05), Some(false), vec![width], 0),
        ] {
            let config = BiEncoderConfig {
                temperature,
                normalize,
                matryoshka,
                ..BiEncoderConfig::default()
            };
            let objective =
                tiny(|folder, engine| BiEncoderObjective::load(folder, &config, engine));
            assert_eq!(objective.warnings().len(), n_warnings, "{temperature:?}");
        }
    }
}
