use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::training::{
    Attend, Dropout, Engine, LayerNorm, Linear, Parameters, TrainingError, dropout, normal,
};
use encoder::{Architecture, Tokens};
use serde::{Deserialize, Serialize};

use super::model::{MaskedLm, Mean, decoder_seed, texts, tokens};
use super::{Masks, Method, Terms};
use crate::masking::{Corrupted, Visibility};

/// RetroMAE, and DupMAE with `bow_loss_weight`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetroMaeConfig {
    /// What the decoder's queries are made of.
    pub query_stream: QueryStream,
    /// What recovering the bag of words from ordinary tokens counts: DupMAE 0.1; RetroMAE has no such loss.
    pub bow_loss_weight: Option<f64>,
    /// Whether the words are recovered by a projection of their own, as in DupMAE's paper, in place of the head.
    #[serde(skip_serializing_if = "std::ops::Not::not")] // runs of before had no such switch
    pub bow_projection: bool,
    /// Of weights that no checkpoint has.
    pub seed: u64,
}

impl Default for RetroMaeConfig {
    /// RetroMAE as published.
    fn default() -> Self {
        Self {
            query_stream: QueryStream::RawPosition,
            bow_loss_weight: None,
            bow_projection: false,
            seed: 0,
        }
    }
}

impl RetroMaeConfig {
    /// DupMAE as published.
    pub fn dup_mae() -> Self {
        Self {
            query_stream: QueryStream::Embedded,
            bow_loss_weight: Some(0.1),
            ..Self::default()
        }
    }
}

/// What the decoder's queries are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryStream {
    /// The vector and the row of the position table: RetroMAE.
    RawPosition,
    /// The vector through the embeddings in place of a word: DupMAE, and FlagEmbedding's RetroMAE.
    Embedded,
}

/// A text as the encoder reads it, and as the decoder sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetroMaeText {
    /// With hidden tokens, from `[CLS]` to `[SEP]`.
    pub encoder: Corrupted,
    /// The same without any.
    pub ids: Vec<u32>,
    /// Which tokens each position of the decoder may see.
    pub visibility: Visibility,
}

/// RetroMAE, Xiao et al. 2022 (arXiv 2205.12035), and DupMAE, Liu et al. 2023 (arXiv 2305.04564).
///
/// `L = CE(E(x̃)) + CE(D(c, x))`, and for DupMAE `+ w L_bow`. **Enhanced decoding**: one layer, whose queries hold the
/// vector c and a position and no word, attends to the words of the text that the position may see; a token is said
/// without being seen, and every token but the first and the last counts. **Bag of words**: of the head's logits at
/// ordinary tokens the largest in each column, r, is to recover which words the text has: `−Σ_v u_v ln softmax(r)_v` with
/// u = 1/n for each word of the n tokens, however often it stands there.
///
/// Deviations from the paper, as in the published code: the bag of words has no projection of its own unless `bow_projection` says
/// so, and counts a tenth unless `bow_loss_weight = 1` does.
pub struct RetroMae {
    model: MaskedLm,
    decoder: EnhancedDecoder,
    /// Of the bag of words, (V, H).
    projection: Option<Linear>,
    config: RetroMaeConfig,
}

impl RetroMae {
    /// Loads the model and draws the decoder's layer.
    ///
    /// # Errors
    /// [`TrainingError::Load`], [`TrainingError::Setting`].
    pub fn load(
        folder: &Path,
        config: &RetroMaeConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let weight = config.bow_loss_weight.unwrap_or(0.0);
        crate::objective::settings::at_least_0("bow_loss_weight", weight)?;
        let model = MaskedLm::load(folder, config.seed, engine)?;
        let architecture = model.encoder().architecture();
        let seed = decoder_seed(config.seed, 1);
        let mut decoder = EnhancedDecoder::new(architecture, seed, engine)?;
        let projection = match (config.bow_projection, config.bow_loss_weight) {
            (true, None) => {
                let reason = "`bow_projection` goes with `bow_loss_weight`";
                return Err(TrainingError::Settings { reason });
            }
            (true, Some(_)) => {
                let (n, width) = (architecture.n_vocabulary, architecture.width);
                // The streams of the decoder's layers come before.
                let weight = normal(seed, 1 << 32, n * width, 0.02);
                let (name, values) = ("bow_projection", (weight, vec![0.0; n]));
                Some(Linear::new(&mut decoder.parameters, name, values, engine)?)
            }
            (false, _) => None,
        };
        Ok(Self {
            model,
            decoder,
            projection,
            config: config.clone(),
        })
    }

    /// What the decoder makes of texts and their vectors, (B, H) → (T, H).
    fn decode(
        &self,
        batch: &[RetroMaeText],
        vectors: &Tensor,
        masks: &Masks<'_>,
    ) -> Result<Tensor, TrainingError> {
        let dropout = masks.at(8);
        let texts: Vec<Tokens> = batch.iter().map(|text| tokens(&text.ids)).collect();
        let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
        let context = self.model.behind_vectors(&texts, vectors, &dropout)?;
        // The embeddings' places of dropout are taken.
        let queries = self.queries(vectors, &lengths, &masks.at(9))?;
        self.decoder.forward(&queries, &context, batch, &dropout)
    }

    /// The decoder's queries, (T, H), of vectors (B, H).
    fn queries(
        &self,
        vectors: &Tensor,
        lengths: &[usize],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let texts = (0u32..).zip(lengths);
        let texts: Vec<u32> = texts.flat_map(|(text, &n)| vec![text; n]).collect();
        let repeated = vectors.index_select(&Tensor::new(texts, &Device::Cpu)?, 0)?;
        match self.config.query_stream {
            QueryStream::RawPosition => Ok((repeated + self.model.positions(lengths)?)?),
            QueryStream::Embedded => self.model.embed_vectors(&repeated, lengths, dropout),
        }
    }

    /// The bag-of-words loss of the encoder's token vectors, (T, H).
    fn bag_of_words(
        &self,
        batch: &[RetroMaeText],
        hidden: &Tensor,
    ) -> Result<Tensor, TrainingError> {
        let (mut ordinary, mut lengths, mut start) = (Vec::new(), Vec::new(), 0);
        for text in batch {
            let n = text.ids.len() as u32;
            ordinary.extend(start + 1..start + n);
            lengths.push(text.ids.len() - 1);
            start += n;
        }
        let ordinary = hidden.index_select(&Tensor::new(ordinary, &Device::Cpu)?, 0)?;
        let largest = match &self.projection {
            Some(projection) => projection.largest(&ordinary, &lengths)?,
            None => self.model.largest_logits(&ordinary, &lengths)?,
        }; // r, (B, V)
        let (n_texts, n_vocabulary) = largest.dims2()?;
        let mut words = vec![0.0f32; n_texts * n_vocabulary]; // u
        for (text, row) in batch.iter().zip(words.chunks_exact_mut(n_vocabulary)) {
            // Between the first and the last stand the text's own tokens.
            let own = &text.ids[1..text.ids.len() - 1];
            for &id in own {
                row[id as usize] = 1.0 / own.len() as f32;
            }
        }
        let words = Tensor::from_vec(words, (n_texts, n_vocabulary), &Device::Cpu)?;
        let most = largest.max_keepdim(1)?.detach();
        let log_sums = (largest.broadcast_sub(&most)?.exp()?.sum_keepdim(1)?.log()? + most)?;
        let losses = (log_sums.broadcast_sub(&largest)? * words)?;
        Ok((losses.sum_all()? / n_texts.max(1) as f64)?)
    }
}

impl Method for RetroMae {
    type Example = RetroMaeText;
    type Model = MaskedLm;

    fn model(&self) -> &MaskedLm {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        &self.decoder.parameters
    }

    fn row_count(&self) -> Option<fn(&RetroMaeText) -> usize> {
        Some(|text| text.ids.len())
    }

    fn terms(&self, batch: &[RetroMaeText], masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let model = &self.model;
        if let Some(row) = batch
            .iter()
            .position(|text| text.ids.len() != text.encoder.ids.len() || text.ids.len() < 2)
        {
            return Err(TrainingError::Setting {
                name: "place of a text whose two forms do not fit",
                value: row as f64,
                rule: "both have the same tokens, the first and the last among them",
            });
        }

        let read = model.read(&texts(batch.iter().map(|text| &text.encoder)), &masks.at(0))?;
        let mut terms = Terms::of(batch.len(), read.n_tokens());
        let labels = batch.iter().flat_map(|text| &text.encoder.labels);
        terms.add("encoder_loss", 1.0, model.loss(&read.hidden, labels)?);
        let vectors = masks.bottleneck(read.vectors()?)?;

        let said = self.decode(batch, &vectors, masks)?;
        let labels: Vec<Option<u32>> = batch.iter().flat_map(|text| inner(&text.ids)).collect();
        terms.add("decoder_loss", 1.0, model.loss(&said, &labels)?);

        if let Some(weight) = self.config.bow_loss_weight {
            let (value, n) = (self.bag_of_words(batch, &read.hidden)?, batch.len());
            terms.add("bow_loss", weight, Mean { value, n });
        }
        Ok(terms)
    }
}

/// Every token as its own label, but the first and the last.
fn inner(ids: &[u32]) -> impl Iterator<Item = Option<u32>> {
    let last = ids.len() - 1;
    let label = move |(place, &id): (usize, &u32)| (place > 0 && place < last).then_some(id);
    ids.iter().enumerate().map(label)
}

/// A layer of BERT whose queries are not its keys' and values' input.
struct EnhancedDecoder {
    n_heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
    parameters: Parameters,
    engine: Arc<Engine>,
}

impl EnhancedDecoder {
    fn new(a: &Architecture, seed: u64, engine: &Arc<Engine>) -> Result<Self, TrainingError> {
        let mut parameters = Parameters::new();
        let mut stream = 0;
        let mut linear = |parameters: &mut Parameters, name: &str, n_in: usize, n_out: usize| {
            stream += 1;
            let values = (normal(seed, stream, n_out * n_in, 0.02), vec![0.0; n_out]);
            Linear::new(parameters, &format!("c_head.{name}"), values, engine)
        };
        let norm = |parameters: &mut Parameters, name: &str| {
            let name = format!("c_head.{name}.LayerNorm");
            LayerNorm::new(parameters, &name, a.width, a.epsilon, engine)
        };
        let (p, h) = (&mut parameters, a.width);
        Ok(Self {
            n_heads: a.n_heads,
            query: linear(p, "attention.self.query", h, h)?,
            key: linear(p, "attention.self.key", h, h)?,
            value: linear(p, "attention.self.value", h, h)?,
            output: linear(p, "attention.output.dense", h, h)?,
            attention_norm: norm(p, "attention.output")?,
            up: linear(p, "intermediate.dense", h, a.n_intermediate)?.with_activation(a.activation),
            down: linear(p, "output.dense", a.n_intermediate, h)?,
            output_norm: norm(p, "output")?,
            engine: engine.clone(),
            parameters,
        })
    }

    /// (T, H) from queries and context (T, H); the residual is that of the queries.
    fn forward(
        &self,
        queries: &Tensor,
        context: &Tensor,
        batch: &[RetroMaeText],
        masks: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let [query, key, value] = [
            (&self.query, queries),
            (&self.key, context),
            (&self.value, context),
        ]
        .map(|(layer, input)| layer.forward(input));
        let (query, key, value) = (query?, key?, value?);
        let attend = Attend {
            n_heads: self.n_heads,
            scale: 1.0 / ((query.dims2()?.1 / self.n_heads) as f32).sqrt(),
            dropout: masks,
            place: 2,
            engine: &self.engine,
        };
        let lengths: Vec<usize> = batch.iter().map(|text| text.ids.len()).collect();
        let seen = batch.iter().map(|text| text.visibility.numbers().to_vec());
        let attended = attend.seen([&query, &key, &value], &lengths, seen.collect())?;
        let drop = |x: &Tensor, place| dropout(x, masks, place, &self.engine);
        let attended = self.output.forward(&attended)?;
        let attended = self.attention_norm.forward(&drop(&attended, 0)?, queries)?;
        let inner = self.down.forward(&self.up.forward(&attended)?)?;
        Ok(self.output_norm.forward(&drop(&inner, 1)?, &attended)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::super::tests::{drawn, texts};
    use super::super::{Pretrained, RetroMaeMasks};
    use super::*;
    use crate::objective::test_data::tiny;

    fn load(config: &RetroMaeConfig) -> RetroMae {
        tiny(|folder, engine| RetroMae::load(folder, config, engine))
    }

    fn text() -> RetroMaeText {
        drawn(&RetroMaeMasks::default(), &[texts(2)[1][..].into()]).remove(0)
    }

    fn set(parameters: &Parameters, name: &str, value: impl Fn(usize) -> f32) {
        let parameter = parameters.get(name).expect("a parameter of this name");
        let values: Vec<f32> = (0..parameter.values().unwrap().len()).map(value).collect();
        parameter.set_values(&values).unwrap();
    }

    /// What the decoder makes of a text behind some vector, by row.
    fn rows(method: &RetroMae, text: &RetroMaeText) -> Vec<Vec<f32>> {
        let vector: Vec<f32> = (0..32).map(|i| (i as f32 * 0.9).sin()).collect();
        let vector = Tensor::from_vec(vector, (1, 32), &Device::Cpu).unwrap();
        let said = method.decode(std::slice::from_ref(text), &vector, &Masks::NONE);
        method
            .model
            .logits(&said.unwrap())
            .unwrap()
            .to_vec2()
            .unwrap()
    }

    #[test]
    fn a_token_is_said_without_being_seen_and_shows_where_it_is_visible() {
        for config in [RetroMaeConfig::default(), RetroMaeConfig::dup_mae()] {
            let (method, text) = (load(&config), text());
            let n = text.ids.len();
            let own = rows(&method, &text);
            for place in 1..n {
                let mut changed = text.clone();
                changed.ids[place] += 1;
                let changed = rows(&method, &changed);
                for row in 0..n {
                    // Its own row never sees it: equal to the last bit.
                    let sees = text.visibility.sees(row, place);
                    assert!(!(sees && row == place));
                    assert_eq!(own[row] != changed[row], sees, "{row} of {place}");
                }
            }
        }
    }

    /// Without attention and the inner layer nothing of a text's words is left: `LN(LN(Q))`.
    #[test]
    fn the_residual_is_that_of_the_queries() {
        let method = load(&RetroMaeConfig::default());
        for name in ["attention.output.dense", "output.dense"] {
            for end in ["weight", "bias"] {
                set(method.decoders(), &format!("c_head.{name}.{end}"), |_| 0.0);
            }
        }
        let batch = [text()];
        let vectors = Tensor::ones((1, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
        let lengths = [batch[0].ids.len()];
        let found = method.decode(&batch, &vectors, &Masks::NONE).unwrap();
        let queries = method.queries(&vectors, &lengths, &Dropout::NONE).unwrap();
        let rows = |tensor: &Tensor| tensor.to_vec2::<f32>().unwrap();
        let normalized = |row: &[f32]| {
            let mean = row.iter().sum::<f32>() / 32.0;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 32.0;
            let scale = 1.0 / (variance + 1e-12).sqrt();
            row.iter().map(|x| (x - mean) * scale).collect::<Vec<_>>()
        };
        for (found, query) in rows(&found).iter().zip(rows(&queries)) {
            for (found, expected) in found.iter().zip(normalized(&normalized(&query))) {
                assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
            }
        }
    }

    /// A text of tokens that nothing is hidden of.
    fn plain(ids: &[u32]) -> RetroMaeText {
        RetroMaeText {
            encoder: Corrupted {
                ids: ids.to_vec(),
                labels: vec![None; ids.len()],
            },
            ids: ids.to_vec(),
            visibility: Visibility::new(&vec![vec![true; ids.len()]; ids.len()]),
        }
    }

    #[test]
    fn each_word_of_the_bag_counts_once() {
        let logit = |id| {
            [(7, 1.0), (9, 3.0)]
                .into_iter()
                .find(|one| one.0 == id)
                .map_or(0.0, |one| one.1)
        };
        for bow_projection in [false, true] {
            let method = load(&RetroMaeConfig {
                bow_projection,
                ..RetroMaeConfig::dup_mae()
            });
            let (parameters, weight, bias) = match bow_projection {
                true => (
                    method.decoders(),
                    "bow_projection.weight",
                    "bow_projection.bias",
                ),
                false => (
                    method.model().parameters(),
                    "bert.embeddings.word_embeddings.weight",
                    "cls.predictions.bias",
                ),
            };
            // Logits that no text changes: 1 for token 7, 3 for token 9, 0 for all others.
            set(parameters, weight, |_| 0.0);
            set(parameters, bias, logit);
            let hidden = Tensor::ones((5, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
            let batch = [plain(&[2, 7, 7, 9, 3])];
            let found = method.bag_of_words(&batch, &hidden).unwrap();
            let log_sum = (574.0 + 1f32.exp() + 3f32.exp()).ln();
            let expected = (log_sum - 1.0) / 3.0 + (log_sum - 3.0) / 3.0;
            let found = found.to_scalar::<f32>().unwrap();
            assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
        }
    }

    #[test]
    fn the_bag_counts_by_its_weight_and_reaches_the_tokens_that_have_the_largest_logits() {
        let batch = [text()];
        let sum = |bow_loss_weight| {
            let config = RetroMaeConfig {
                bow_loss_weight,
                ..RetroMaeConfig::dup_mae()
            };
            let terms = load(&config).terms(&batch, &Masks::NONE).unwrap();
            let sum = terms.sum().unwrap().to_scalar::<f32>().unwrap();
            (sum, terms.values().unwrap().get("bow_loss").copied())
        };
        let ((without, none), (whole, bag)) = (sum(None), sum(Some(1.0)));
        assert!(none.is_none());
        let bag = bag.expect("a loss") as f32;
        for weight in [0.0, 0.1, 0.3, 1.0] {
            let (found, _) = sum(Some(f64::from(weight)));
            assert!(
                (found - without - weight * bag).abs() < 1e-5 * whole,
                "{weight}: {found}"
            );
        }

        let method = load(&RetroMaeConfig::dup_mae());
        // Logits are one number of a token's or its opposite, so that two tokens have the largest ones.
        let table = |i: usize| [1.0, -1.0][i / 32 % 2] * f32::from(i.is_multiple_of(32));
        let parameters = method.model().parameters();
        set(parameters, "bert.embeddings.word_embeddings.weight", table);
        set(parameters, "cls.predictions.bias", |_| 0.0);
        let n = batch[0].ids.len();
        let vectors = (0..n * 32).map(|i| (i as f32 * 1.7).sin());
        let vectors = Tensor::from_vec(vectors.collect(), (n, 32), &Device::Cpu).unwrap();
        let hidden = Var::from_tensor(&vectors).unwrap();
        let gradients = method
            .bag_of_words(&batch, &hidden)
            .unwrap()
            .backward()
            .unwrap();
        let gradient = gradients
            .get(&hidden)
            .expect("it is read")
            .to_vec2::<f32>()
            .unwrap();
        let logits: Vec<Vec<f32>> = method.model.logits(&vectors).unwrap().to_vec2().unwrap();
        let mut wins = vec![false; n];
        for word in [0, 1] {
            let largest = (1..n).max_by(|&a, &b| logits[a][word].total_cmp(&logits[b][word]));
            wins[largest.expect("a token")] = true;
        }
        assert_eq!(wins.iter().filter(|&&wins| wins).count(), 2);
        let is_reached = |row: &Vec<f32>| row.iter().any(|&value| value != 0.0);
        assert_eq!(gradient.iter().map(is_reached).collect::<Vec<_>>(), wins);
    }
}
