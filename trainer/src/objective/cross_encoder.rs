use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::training::{Dropout, Encoder, Engine, Parameters, TrainingError};
use encoder::{Architecture, Directory, LoadError, RankPrior, Tokens, Truncation};
use serde::{Deserialize, Serialize};

use super::distillation::{DistillationConfig, DistillationLoss};
use super::head::Head;
use super::passes::{self, GradCacheConfig};
use super::rates::Rates;
use super::scores::{Measures, teacher_scores};
use super::settings::{above_0, at_least_0, check, dropout};
use super::{Objective, Preparation, Step, StepReport};
use crate::data::{Content, Group};
use crate::export::{CrossEncoderExport, Tensors};
use crate::loss::{
    self, LossError, binary_cross_entropy, kl_divergence, lambda_loss, listwise_softmax,
    margin_mse, margin_ranking, r_drop, rank_net, soft_cross_entropy, soft_margin_ranking,
};
use crate::ranks::Collective;
use crate::text::Tokenization;

/// What a cross-encoder is trained to do. Every entry has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrossEncoderConfig {
    /// Most tokens of a pair, special tokens included: SimLM 192, RetroMAE 200.
    pub max_tokens: usize,
    /// Which text of too long a pair loses tokens: the reranker cuts the longer one, RetroMAE's training the passage.
    pub truncation: Truncation,
    /// The loss over each group.
    pub loss: RankingLoss,
    /// m: what `margin` and `soft_margin` ask a positive to be ahead.
    pub margin: f64,
    /// k: what `lambda` optimizes is NDCG at k; over the whole group when absent.
    pub lambda_k: Option<usize>,
    /// What the ranking loss counts beside distillation.
    pub ranking_weight: f64,
    /// Learns from teacher scores of the passages too; there is no pool for `in_batch`.
    pub distillation: Option<DistillationConfig>,
    /// F: scores each group without dropout first, and trains on its N / F best with the positive (SimLM 4).
    pub rerank_forward_factor: usize,
    /// Weight of R-Drop: two passes under different dropout have to agree (SimLM 1); one pass when absent.
    pub r_drop: Option<f64>,
    /// Probability of all dropout; those of config.json when absent.
    pub dropout: Option<f32>,
    /// What the order of the first stage adds to the scores, in dev figures and where the model is used; the loss does
    /// not know of it. The model's own when absent.
    pub rank_prior: Option<RankPrior>,
    /// Seed of the head of a checkpoint that has none.
    pub head_seed: u64,
    /// Takes the pairs through the encoder in parts, for batches that do not fit into memory.
    pub grad_cache: Option<GradCacheConfig>,
}

impl Default for CrossEncoderConfig {
    fn default() -> Self {
        Self {
            max_tokens: 192,
            truncation: Truncation::LongestFirst,
            loss: RankingLoss::Listwise,
            margin: 1.0,
            lambda_k: None,
            ranking_weight: 1.0,
            distillation: None,
            rerank_forward_factor: 1,
            r_drop: None,
            dropout: None,
            rank_prior: None,
            head_seed: 0,
            grad_cache: None,
        }
    }
}

/// A loss over the scores of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankingLoss {
    /// [`loss::listwise_softmax`] (SimLM, RetroMAE, FlagEmbedding).
    #[default]
    Listwise,
    /// [`loss::binary_cross_entropy`] (OpenMatch's `bce`).
    Pointwise,
    /// [`loss::margin_ranking`] (OpenMatch's `mr`).
    Margin,
    /// [`loss::soft_margin_ranking`] (OpenMatch's `smr`).
    SoftMargin,
    /// [`loss::rank_net`].
    RankNet,
    /// [`loss::soft_cross_entropy`] to the labels 1 of the positive and 0 of the others (ListNet).
    ListNet,
    /// [`loss::lambda_loss`] with the same labels and μ = 10, as sentence-transformers has it.
    Lambda,
}

/// Trains a model that reads a query and a passage together and gives the pair one score.
pub struct CrossEncoderObjective {
    config: CrossEncoderConfig,
    folder: PathBuf,
    /// Before the tokenizer's own normalization.
    lower_case: bool,
    pairs: Arc<Pairs>,
    encoder: Encoder,
    head: Head,
    parameters: Parameters,
    rates: Rates,
}

/// What makes pairs of texts tokens.
struct Pairs {
    tokenization: Tokenization,
    max_tokens: usize,
    truncation: Truncation,
}

/// Pairs that go through the encoder at once.
struct Part<'a> {
    pairs: &'a [Tokens],
    dropout: Dropout,
    classifier_dropout: f32,
}

/// What NDCG-Loss2 counts beside LambdaRank in NDCG-Loss2++.
const LAMBDA_MU: f64 = 10.0;

/// Pairs that are scored at once where nothing is held for a backward pass.
const PAIRS_AT_ONCE: usize = 64;

impl CrossEncoderObjective {
    /// Loads a cross-encoder of one label, or a bare checkpoint, which gets a new head.
    ///
    /// # Errors
    /// [`TrainingError::Load`] for a model that cannot be trained so, [`TrainingError::Setting`].
    pub fn load(
        folder: &Path,
        config: &CrossEncoderConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        config.check()?;
        let family = Architecture::read(&folder.join("config.json"))?.family;
        let encoder = Encoder::load_as(family.prefix(), folder, engine)?;
        let architecture = encoder.architecture();
        if architecture.labels.has_classifier && architecture.labels.n != 1 {
            return Err(TrainingError::Load(LoadError::Config {
                path: folder.join("config.json"),
                reason: format!(
                    "the model has {} labels; trained is one",
                    architecture.labels.n
                ),
            }));
        }
        let lower_case = Directory::lower_cases(folder)?;
        let tokenization = Tokenization::load(folder, lower_case, architecture.max_tokens())?;
        tokenization.check_length("pair", config.max_tokens)?;
        let mut parameters = encoder.parameters().clone();
        let head = Head::load(folder, &encoder, &mut parameters, config.head_seed)?;
        let own = Rates::read(folder)?;
        Ok(Self {
            rates: config.dropout.map_or(own, Rates::all),
            config: config.clone(),
            folder: folder.to_path_buf(),
            lower_case,
            pairs: Arc::new(Pairs {
                tokenization,
                max_tokens: config.max_tokens,
                truncation: config.truncation,
            }),
            encoder,
            head,
            parameters,
        })
    }

    /// The config.
    pub fn config(&self) -> &CrossEncoderConfig {
        &self.config
    }

    /// Tokens of the vocabulary.
    pub fn n_vocabulary(&self) -> usize {
        self.encoder.architecture().n_vocabulary
    }

    /// Scores (query, passage) pairs without dropout: the logits, as distillation takes them.
    ///
    /// # Errors
    /// [`TrainingError::Encode`], naming the pair.
    pub fn score(&self, pairs: &[(Content, Content)]) -> Result<Vec<f32>, TrainingError> {
        let pairs = pairs.iter().map(|(query, passage)| (query, passage));
        self.score_tokens(&self.pairs.tokenize(pairs)?)
    }

    fn score_tokens(&self, pairs: &[Tokens]) -> Result<Vec<f32>, TrainingError> {
        let mut scores = Vec::with_capacity(pairs.len());
        for pairs in pairs.chunks(PAIRS_AT_ONCE) {
            let part = Part {
                pairs,
                dropout: Dropout::NONE,
                classifier_dropout: 0.0,
            };
            scores.extend(self.forward(&part)?.to_vec1::<f32>()?);
        }
        Ok(scores)
    }

    /// Logits of pairs, (pairs).
    fn forward(&self, part: &Part<'_>) -> Result<Tensor, TrainingError> {
        let first = self.encoder.forward_first(part.pairs, &part.dropout)?; // (pairs, H)
        let masks = Dropout {
            hidden: part.classifier_dropout,
            ..part.dropout.by_text()
        };
        self.head.forward(&first, &masks)
    }

    /// The groups that are trained on, with their pairs, and the tokens that choosing them took: with a forward factor F
    /// the positive and the best of the others, N / F in all.
    fn select(
        &self,
        batch: &[Group],
        pairs: Vec<Tokens>,
    ) -> Result<(Vec<Group>, Vec<Tokens>, usize), TrainingError> {
        let n_passages = check_groups(batch)?;
        let factor = self.config.rerank_forward_factor;
        let n_kept = (n_passages / factor).max(2.min(n_passages));
        if factor == 1 || n_kept == n_passages {
            return Ok((batch.to_vec(), pairs, 0));
        }
        let scores = self.score_tokens(&pairs)?;
        let (mut groups, mut kept_pairs) = (Vec::new(), Vec::new());
        for (row, (group, scores)) in batch.iter().zip(scores.chunks(n_passages)).enumerate() {
            let mut order: Vec<usize> = (1..n_passages).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let kept: Vec<usize> = [0].into_iter().chain(order).take(n_kept).collect();
            kept_pairs.extend(
                kept.iter()
                    .map(|place| pairs[row * n_passages + place].clone()),
            );
            groups.push(Group {
                passages: kept
                    .iter()
                    .map(|&place| group.passages[place].clone())
                    .collect(),
                ..group.clone()
            });
        }
        let n_scored = pairs.iter().map(Tokens::len).sum();
        Ok((groups, kept_pairs, n_scored))
    }

    /// The loss of groups from the logits of each pass over them, (B·N).
    fn loss(
        &self,
        batch: &[Group],
        passes: &[Tensor],
        measures: &mut Measures,
    ) -> Result<Tensor, TrainingError> {
        let n_passages = batch[0].passages.len();
        let passes: Vec<Tensor> = passes
            .iter()
            .map(|logits| logits.reshape((batch.len(), n_passages)))
            .collect::<Result<_, _>>()?; // (B, N) each
        measures.add_groups(&passes[0].detach())?;
        let teacher = match self.config.distillation {
            Some(_) => Some(teacher_scores(batch)?),
            None => None,
        };
        let mut sum = Tensor::zeros((), passes[0].dtype(), &Device::Cpu)?;
        for scores in &passes {
            sum = (sum + self.group_loss(scores, teacher.as_ref())?)?;
        }
        let mean = (sum / passes.len() as f64)?;
        match (&passes[..], self.config.r_drop) {
            ([first, second], Some(weight)) => Ok((mean + (r_drop(first, second)? * weight)?)?),
            _ => Ok(mean),
        }
    }

    fn group_loss(&self, scores: &Tensor, teacher: Option<&Tensor>) -> loss::Result<Tensor> {
        let config = &self.config;
        let ranking = match config.loss {
            RankingLoss::Listwise => listwise_softmax(scores)?,
            RankingLoss::Pointwise => binary_cross_entropy(scores)?,
            RankingLoss::Margin => margin_ranking(scores, config.margin)?,
            RankingLoss::SoftMargin => soft_margin_ranking(scores, config.margin)?,
            RankingLoss::RankNet => rank_net(scores)?,
            RankingLoss::ListNet => soft_cross_entropy(scores, &labels(scores)?)?,
            RankingLoss::Lambda => {
                lambda_loss(scores, &labels(scores)?, LAMBDA_MU, config.lambda_k)?
            }
        };
        let ranking = (ranking * config.ranking_weight)?;
        let (Some(distillation), Some(teacher)) = (&config.distillation, teacher) else {
            return Ok(ranking);
        };
        let student = (scores / distillation.student_temperature.unwrap_or(1.0))?;
        let softened = (teacher / distillation.teacher_temperature)?;
        let distilled = match distillation.loss {
            DistillationLoss::Kl => kl_divergence(&student, &softened, distillation.reduction)?,
            DistillationLoss::SoftCrossEntropy => soft_cross_entropy(&student, &softened)?,
            DistillationLoss::InBatch => unreachable!("refused when the objective is loaded"),
            DistillationLoss::MarginMse => margin_mse(scores, teacher)?,
        };
        Ok((ranking + (distilled * distillation.weight)?)?)
    }

    /// One step over these groups, with the parts held one after the other or all at once.
    fn accumulate(
        &self,
        batch: &[Group],
        pairs: Vec<Tokens>,
        step: &Step,
        (cached, ranks): (bool, &dyn Collective),
    ) -> Result<StepReport, TrainingError> {
        let group_size = check_groups(batch)?;
        let (share, n_groups) = (ranks.share(batch.len()), batch.len());
        if share.is_empty() {
            return Ok(StepReport::default().join(ranks)?);
        }
        let first = share.start * group_size;
        let before = passes::behind(&pairs[..first]);
        let pairs = pairs[first..share.end * group_size].to_vec();
        let (batch, pairs, n_scored) = self.select(&batch[share], pairs)?;
        let n_passes = if self.config.r_drop.is_some() { 2 } else { 1 };
        let (n_pairs, max_tokens) = match self.config.grad_cache {
            Some(parts) => (parts.passages, parts.max_tokens),
            None => (usize::MAX, None),
        };
        let ranges = passes::cut(&pairs, n_pairs, max_tokens);
        let mut parts = Vec::new();
        for pass in 0..n_passes {
            parts.extend(ranges.iter().map(|range| Part {
                pairs: &pairs[range.clone()],
                dropout: self.rates.at(
                    step,
                    pass,
                    before.then(passes::behind(&pairs[..range.start])),
                ),
                classifier_dropout: self.rates.classifier,
            }));
        }
        let mut measures = Measures::default();
        let loss = passes::backward(
            &parts,
            cached,
            step.weight * (batch.len() as f64 / n_groups as f64),
            |part| self.forward(part),
            |logits| {
                let passes: Vec<Tensor> = logits
                    .chunks(ranges.len())
                    .map(|parts| Tensor::cat(parts, 0))
                    .collect::<Result<_, _>>()?; // (B·N) each
                self.loss(&batch, &passes, &mut measures)
            },
        )?;
        let n_tokens: usize = pairs.iter().map(Tokens::len).sum();
        let own = StepReport {
            loss,
            n_tokens: n_scored + n_passes as usize * n_tokens,
            n_examples: batch.len(),
            measures: measures.finish(),
        };
        Ok(own.join(ranks)?)
    }
}

impl CrossEncoderConfig {
    fn check(&self) -> Result<(), TrainingError> {
        at_least_0("margin", self.margin)?;
        at_least_0("ranking weight", self.ranking_weight)?;
        at_least_0("r_drop", self.r_drop.unwrap_or(0.0))?;
        above_0("lambda_k", self.lambda_k.unwrap_or(1) as f64)?;
        let factor = self.rerank_forward_factor as f64;
        above_0("rerank_forward_factor", factor)?;
        dropout(self.dropout)?;
        let refuse = |reason| Err(TrainingError::Settings { reason });
        if self.lambda_k.is_some() && self.loss != RankingLoss::Lambda {
            return refuse("`lambda_k` goes with `loss = \"lambda\"`");
        }
        let has_margin = matches!(self.loss, RankingLoss::Margin | RankingLoss::SoftMargin);
        if self.margin != Self::default().margin && !has_margin {
            return refuse("`margin` goes with `loss = \"margin\"` and `\"soft_margin\"`");
        }
        if let Some(reason) = self.rank_prior.and_then(RankPrior::flaw) {
            return refuse(reason);
        }
        let Some(distillation) = self.distillation else {
            let rule = "without distillation it is above 0";
            let is_trained = self.ranking_weight > 0.0;
            return check(is_trained, "ranking weight", self.ranking_weight, rule);
        };
        if distillation.loss == DistillationLoss::InBatch {
            return refuse(
                "the distillation loss of a cross-encoder is not `in_batch`: its pairs form no pool",
            );
        }
        distillation.check()
    }
}

impl Objective for CrossEncoderObjective {
    type Batch = Vec<Group>;
    /// All pairs, group by group.
    type Input = Vec<Tokens>;

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn is_drawn(&self, name: &str) -> bool {
        self.head.is_drawn(name)
    }

    fn unshareable(&self) -> Option<&'static str> {
        if self.config.rerank_forward_factor > 1 {
            return Some("which groups `rerank_forward_factor` keeps, one process alone decides");
        }
        let counts_pairs =
            self.config.loss == RankingLoss::Lambda && self.config.lambda_k.is_some();
        counts_pairs.then_some(
            "how many pairs `lambda_k` counts differs between groups, and shares are joined by groups",
        )
    }

    fn preparation(&self) -> Preparation<Vec<Group>, Vec<Tokens>> {
        let pairs = self.pairs.clone();
        Box::new(move |batch| pairs.tokenize(pairs_of(batch)))
    }

    fn step_prepared(
        &mut self,
        batch: &Vec<Group>,
        input: Vec<Tokens>,
        step: &Step,
        ranks: &dyn Collective,
    ) -> Result<StepReport, TrainingError> {
        let cached = self.config.grad_cache.is_some();
        self.accumulate(batch, input, step, (cached, ranks))
    }

    /// The loss over whole groups, whatever the forward factor.
    fn evaluate(&mut self, batch: &Vec<Group>) -> Result<StepReport, TrainingError> {
        check_groups(batch)?;
        let pairs = self.pairs.tokenize(pairs_of(batch))?;
        let logits = Tensor::new(self.score_tokens(&pairs)?, &Device::Cpu)?; // (B·N)
        let mut measures = Measures::default();
        let loss = self.loss(batch, &[logits], &mut measures)?;
        Ok(StepReport {
            loss: passes::finite(&loss)?,
            n_tokens: pairs.iter().map(Tokens::len).sum(),
            n_examples: batch.len(),
            measures: measures.finish(),
        })
    }

    fn export(&self, folder: &Path) -> Result<(), TrainingError> {
        let mut weights = Tensors::new();
        weights.extend(&self.parameters, |name| Some(name.to_owned()))?;
        let export = CrossEncoderExport {
            source: &self.folder,
            weights,
            lower_case: self.lower_case,
            max_tokens: self.config.max_tokens,
            rank_prior: self.config.rank_prior,
        };
        export.write(folder)
    }
}

impl Pairs {
    fn tokenize<'a>(
        &self,
        pairs: impl Iterator<Item = (&'a Content, &'a Content)>,
    ) -> Result<Vec<Tokens>, TrainingError> {
        self.tokenization
            .pairs(pairs, self.max_tokens, self.truncation)
    }
}

/// All pairs of a batch, group by group.
fn pairs_of(batch: &[Group]) -> impl Iterator<Item = (&Content, &Content)> {
    batch.iter().flat_map(|group| {
        let passages = group.passages.iter();
        passages.map(|passage| (&group.query, &passage.content))
    })
}

/// Labels of groups, (B, N): 1 for the positive, 0 for the others.
fn labels(scores: &Tensor) -> loss::Result<Tensor> {
    let (n_queries, n_passages) = scores.dims2()?;
    let row = |_| (0..n_passages).map(|place| f64::from(u8::from(place == 0)));
    let labels: Vec<f64> = (0..n_queries).flat_map(row).collect();
    let labels = Tensor::from_vec(labels, scores.shape(), scores.device())?;
    Ok(labels.to_dtype(scores.dtype())?)
}

/// Returns N. Refuses groups of different size, and of the positive alone.
fn check_groups(batch: &[Group]) -> Result<usize, LossError> {
    let n_passages = batch.first().map_or(0, |group| group.passages.len());
    if batch.iter().any(|group| group.passages.len() != n_passages) || n_passages == 0 {
        return Err(LossError::UnevenGroups {
            n_queries: batch.len(),
            n_passages: batch.iter().map(|group| group.passages.len()).sum(),
        });
    }
    if n_passages == 1 {
        return Err(LossError::NoNegatives { n_passages });
    }
    Ok(n_passages)
}
