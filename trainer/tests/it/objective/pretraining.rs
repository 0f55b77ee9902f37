//! Methods of pre-training: their gradients, what they learn, and what they leave.

use encoder::{Output, Similarity, TextTokenizer};
use trainer::masking::{
    Corrupted, Corruption, FrequencyDictionary, MasterMasks, MasterStreams, MasterText, Skipped,
    Visibility, Vocabulary, Words, example_random, wrap,
};
use trainer::objective::pretraining::{
    Condenser, CondenserConfig, CotMae, CotMaeConfig, MaskedLm, Master, MasterConfig, Method, Mlm,
    MlmConfig, Pretrained, Pretraining, RetroMae, RetroMaeConfig, RetroMaeText, SimLm, SimLmConfig,
    SimLmText, SpanPair,
};

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;

fn tokenizer() -> TextTokenizer {
    TextTokenizer::load(&model("tiny-bert"), false).expect("the tokenizer loads")
}

fn vocabulary() -> Vocabulary {
    Vocabulary::of(&tokenizer()).expect("word pieces")
}

/// Token ids of `n` texts without `[CLS]` and `[SEP]`, up to `most` of each.
fn texts(n: usize, most: usize) -> Vec<Vec<u32>> {
    let (tokenizer, words) = (tokenizer(), 4);
    let ids = |seed: usize| {
        let ids = tokenizer.ids(&text(seed * 13 + 1, words + seed % 5));
        let mut ids = ids.expect("a text");
        ids.truncate(most);
        ids
    };
    (0..n).map(ids).collect()
}

/// Texts from `[CLS]` to `[SEP]` with a share of whole words hidden.
pub fn corrupted(n: usize, ratio: f64, seed: u64) -> Vec<Corrupted> {
    let vocabulary = vocabulary();
    let hide = |(place, ids): (usize, Vec<u32>)| {
        let mut random = example_random(seed, 0, place as u64);
        let ids = wrap(&vocabulary, &ids);
        let mask = Words::group(&vocabulary, &ids, Skipped::Bounds).mask(ratio, &mut random);
        Corruption::Mixed.apply(&vocabulary, &ids, &mask, &mut random)
    };
    texts(n, 24).into_iter().enumerate().map(hide).collect()
}

fn span_pairs(n: usize) -> Vec<SpanPair> {
    let (read, said) = (corrupted(2 * n, 0.3, 1), corrupted(2 * n, 0.45, 2));
    let pair =
        |list: &[Corrupted], place: usize| [list[2 * place].clone(), list[2 * place + 1].clone()];
    let pairs = (0..n).map(|place| SpanPair {
        encoder: pair(&read, place),
        decoder: pair(&said, place),
    });
    pairs.collect()
}

pub fn retro_mae_texts(n: usize, most: usize) -> Vec<RetroMaeText> {
    let vocabulary = vocabulary();
    let originals = texts(n, most).into_iter().enumerate();
    let text = |(place, ids): (usize, Vec<u32>)| {
        let mut random = example_random(4, 0, place as u64);
        let ids = wrap(&vocabulary, &ids);
        let words = Words::group(&vocabulary, &ids, Skipped::Bounds);
        let mask = words.mask(0.3, &mut random);
        let encoder = Corruption::Mixed.apply(&vocabulary, &ids, &mask, &mut random);
        let visibility = Visibility::draw(&words, 0.5, 256, &mut random);
        RetroMaeText {
            encoder,
            ids,
            visibility,
        }
    };
    originals.map(text).collect()
}

fn master_streams(n: usize) -> Vec<MasterStreams> {
    let vocabulary = vocabulary();
    let frequencies = WORDS.iter().zip(1..).map(|(&word, n)| (word.to_owned(), n));
    let dictionary: FrequencyDictionary = frequencies.collect();
    let masks = MasterMasks {
        max_tokens: 30,
        ..MasterMasks::default()
    };
    let line = |(place, text): (usize, Vec<u32>)| {
        let queries = texts(3, 5 + place);
        let next = texts(2, 12).split_off(1);
        // The first text has no queries and no continuation.
        let (queries, next) = if place == 0 {
            Default::default()
        } else {
            (queries, next)
        };
        let line = MasterText {
            text,
            queries,
            next,
        };
        let mut random = example_random(6, 0, place as u64);
        masks.draw(&line, &vocabulary, &dictionary, &mut random)
    };
    texts(n, 24).into_iter().enumerate().map(line).collect()
}

pub fn objective<M: Method>(method: Result<M, TrainingError>, dropout: f32) -> Pretraining<M> {
    let method = method.expect("the model loads");
    Pretraining::new(method, Some(dropout), false).expect("an objective")
}

pub fn mlm() -> Result<Mlm, TrainingError> {
    Mlm::load(&model("tiny-bert"), &MlmConfig::default(), &engine())
}

pub fn condenser(contrastive: bool) -> Result<Condenser, TrainingError> {
    let config = CondenserConfig {
        skip_from: 1,
        late_mlm: true,
        contrastive,
        ..CondenserConfig::default()
    };
    Condenser::load(&model("tiny-bert"), &config, &engine())
}

pub fn cot_mae() -> Result<CotMae, TrainingError> {
    CotMae::load(&model("tiny-bert"), &CotMaeConfig::default(), &engine())
}

pub fn retro_mae(config: &RetroMaeConfig) -> Result<RetroMae, TrainingError> {
    RetroMae::load(&model("tiny-bert"), config, &engine())
}

/// FlagEmbedding's RetroMAE: DupMAE without the bag of words.
fn flag_embedding() -> RetroMaeConfig {
    RetroMaeConfig {
        bow_loss_weight: None,
        ..RetroMaeConfig::dup_mae()
    }
}

/// With a BERT as the generator, which is not trained.
fn sim_lm() -> Result<SimLm, TrainingError> {
    let config = SimLmConfig {
        generator: Some(model("tiny-bert")),
        ..SimLmConfig::default()
    };
    SimLm::load(&model("tiny-bert"), &config, &engine())
}

fn sim_lm_texts(n: usize) -> Vec<SimLmText> {
    let (read, said) = (corrupted(n, 0.3, 1), corrupted(n, 0.5, 2));
    let vocabulary = vocabulary();
    let ids = texts(n, 24).into_iter().map(|ids| wrap(&vocabulary, &ids));
    let label = |id: u32| (!vocabulary.is_special(id)).then_some(id);
    let texts = ids.zip(read.into_iter().zip(said));
    let texts = texts.map(|(ids, (encoder, decoder))| SimLmText {
        types: vec![0; ids.len()],
        labels: ids.into_iter().map(label).collect(),
        encoder,
        decoder,
    });
    texts.collect()
}

fn master() -> Result<Master, TrainingError> {
    Master::load(&model("tiny-bert"), &MasterConfig::default(), &engine())
}

#[test]
fn gradients_of_every_method_equal_difference_quotients() {
    check_differences(&mut objective(mlm(), 0.1), &corrupted(4, 0.3, 1));
    check_differences(&mut objective(condenser(true), 0.1), &corrupted(4, 0.3, 1));
    check_differences(&mut objective(cot_mae(), 0.1), &span_pairs(2));
    for config in [
        RetroMaeConfig::default(),
        RetroMaeConfig::dup_mae(),
        RetroMaeConfig {
            bow_projection: true,
            ..RetroMaeConfig::dup_mae()
        },
        flag_embedding(),
    ] {
        check_differences(
            &mut objective(retro_mae(&config), 0.1),
            &retro_mae_texts(3, 24),
        );
    }
    check_differences(&mut objective(sim_lm(), 0.1), &sim_lm_texts(3));
    check_differences(&mut objective(master(), 0.1), &master_streams(3));
}

#[test]
fn a_text_without_queries_adds_nothing_to_their_term() {
    let streams = master_streams(1);
    let report = objective(master(), 0.0).evaluate(&streams).expect("a loss");
    assert_eq!(
        report.measures["query_loss"], 0.0,
        "the first text has no queries"
    );
    assert_eq!(report.measures.len(), 8);
    assert!(report.measures["continuation_loss"] > 0.0);
}

#[test]
fn the_export_is_a_bert_and_keeps_its_head() {
    let mut objective = objective(cot_mae(), 0.0);
    let batch = span_pairs(3);
    train(&mut objective, 3, 1e-3, |_| batch.clone());
    let folder = tempfile::tempdir().expect("a folder");
    objective.export(folder.path()).expect("an export");
    let names = encoder::Checkpoint::open(folder.path()).expect("weights");
    assert!(
        names.contains("cls.predictions.bias") && !names.contains("c_head.0.output.dense.weight")
    );

    // What goes on from it begins where it ended.
    let again = Mlm::load(folder.path(), &MlmConfig::default(), &engine()).expect("it loads");
    let model: &MaskedLm = objective.method().model();
    assert!(weights(again.model().parameters()) == weights(model.parameters()));

    // The serving engine reads it as any other BERT: every token's vector is that of training.
    let options = ModelOptions {
        pooling: Some(Pooling::Cls),
        normalize: Some(false),
        similarity: Some(Similarity::InnerProduct),
        query_tokens: Some(64),
        passage_tokens: Some(64),
        ..ModelOptions::default()
    };
    let served = BiEncoder::load(folder.path(), &options, &EncoderConfig::default());
    let served = served.expect("it loads");
    let texts: Vec<String> = (0..32).map(|seed| text(seed, 1 + seed % 12)).collect();
    let texts: Vec<Text<'_>> = texts.iter().map(|text| Text::Single(text)).collect();
    let tokens = served.tokenize(Role::Query, &texts).expect("tokens");
    let found = served
        .encode_as(&tokens, Output::TokenVectors)
        .expect("vectors");
    let trained = objective.method().model().encoder();
    let expected = trained.forward(&tokens, &encoder::training::Dropout::NONE);
    let expected = values(&expected.expect("vectors"));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
    }
}

#[test]
fn a_head_is_read_under_the_names_of_old_checkpoints() {
    let mut trained = objective(mlm(), 0.0);
    let batch = corrupted(3, 0.3, 1);
    train(&mut trained, 3, 1e-3, |_| batch.clone());
    let folder = tempfile::tempdir().expect("a folder");
    trained.export(folder.path()).expect("an export");

    let path = folder.path().join("model.safetensors");
    let old = |(name, tensor): (String, Tensor)| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        (name.replace("LayerNorm.bias", "LayerNorm.beta"), tensor)
    };
    let stored = candle_core::safetensors::load(&path, &Device::Cpu).expect("tensors");
    let stored: HashMap<String, Tensor> = stored.into_iter().map(old).collect();
    candle_core::safetensors::save(&stored, &path).expect("a file");
    let again = Mlm::load(folder.path(), &MlmConfig::default(), &engine()).expect("it loads");
    assert!(weights(again.model().parameters()) == weights(trained.parameters()));
}

/// The values of all parameters by their names.
fn weights(parameters: &Parameters) -> Vec<(String, Vec<f32>)> {
    let parameters = parameters.iter();
    parameters
        .map(|one| (one.name().to_owned(), one.values().unwrap()))
        .collect()
}

/// Trains a method, exports it with its decoders, and goes on from there: all begins as it ended.
fn check_kept<M: Method>(
    load: impl Fn(&Path) -> Result<M, TrainingError>,
    batch: &Vec<M::Example>,
    folder: &Path,
) where
    M::Example: Clone,
{
    let begin = |from: &Path, keeps| Pretraining::new(load(from)?, Some(0.0), keeps);
    let mut trained = begin(&model("tiny-bert"), true).expect("an objective");
    assert_eq!(trained.read_from(), None);
    train(&mut trained, 3, 1e-3, |_| batch.clone());
    trained.export(folder).expect("an export");

    let kept = folder.join("decoders.safetensors");
    let mut again = begin(folder, false).expect("an objective");
    assert_eq!(again.read_from(), Some(kept.as_path()));
    assert!(weights(again.parameters()) == weights(trained.parameters()));
    let loss = |objective: &mut Pretraining<M>| objective.evaluate(batch).expect("a loss").loss;
    assert_eq!(loss(&mut again), loss(&mut trained));

    // Without them decoders begin anew.
    let kept_bytes = std::fs::read(&kept).expect("the decoders");
    std::fs::remove_file(&kept).expect("the decoders");
    let mut anew = begin(folder, false).expect("an objective");
    assert_eq!(anew.read_from(), None);
    assert_ne!(loss(&mut anew), loss(&mut trained));
    std::fs::write(kept, kept_bytes).expect("the decoders");
}

#[test]
fn decoders_that_were_kept_go_on() {
    let new = || tempfile::tempdir().expect("a folder");
    let [first, second, third, fourth] = [new(), new(), new(), new()];
    let config = CotMaeConfig::default();
    let load = |from: &Path| CotMae::load(from, &config, &engine());
    check_kept(load, &span_pairs(2), first.path());
    let load = |from: &Path| RetroMae::load(from, &RetroMaeConfig::default(), &engine());
    check_kept(load, &retro_mae_texts(2, 24), second.path());
    let load = |from: &Path| SimLm::load(from, &SimLmConfig::default(), &engine());
    check_kept(load, &sim_lm_texts(2), third.path());
    let load = |from: &Path| Master::load(from, &MasterConfig::default(), &engine());
    check_kept(load, &master_streams(2), fourth.path());

    // A method without decoders has no use for them.
    let mlm = Mlm::load(second.path(), &MlmConfig::default(), &engine()).expect("it loads");
    let mlm = Pretraining::new(mlm, None, false).expect("an objective");
    assert_eq!(mlm.read_from(), None);

    let refused = |found: Result<Pretraining<CotMae>, TrainingError>, expected: &str| {
        let error = found.err().expect("it is refused").to_string();
        let has_all = error.contains("decoders.safetensors`: ") && error.contains(expected);
        assert!(has_all, "{error}, not {expected}");
    };
    let start = |from: &Path, n_head_layers| {
        let config = CotMaeConfig {
            n_head_layers,
            ..CotMaeConfig::default()
        };
        Pretraining::new(CotMae::load(from, &config, &engine())?, None, false)
    };
    // More layers, fewer, another method's, another width, and no such file.
    refused(start(first.path(), 1), "the model has no `c_head.1.");
    let two_of_one = CotMaeConfig {
        n_head_layers: 1,
        ..config.clone()
    };
    let load = |from: &Path| CotMae::load(from, &two_of_one, &engine());
    let fifth = new();
    check_kept(load, &span_pairs(2), fifth.path());
    refused(start(fifth.path(), 2), "`c_head.1.");
    refused(start(second.path(), 2), "the model has no `c_head.");
    let path = first.path().join("decoders.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).expect("tensors");
    let name = "c_head.0.attention.self.query.weight";
    let narrow = tensors[name].narrow(1, 0, 16).expect("narrower");
    tensors.insert(name.to_owned(), narrow.contiguous().expect("a copy"));
    candle_core::safetensors::save(&tensors, &path).expect("a file");
    refused(
        start(first.path(), 2),
        "query.weight` is F32 [32, 16], not F32 [32, 32]",
    );
    std::fs::write(path, "decoders").expect("a file");
    refused(
        start(first.path(), 2),
        "without this file decoders begin anew",
    );
}

#[test]
fn other_families_and_bad_settings_are_refused() {
    let roberta = Mlm::load(&model("tiny-roberta"), &MlmConfig::default(), &engine());
    let error = roberta.err().expect("RoBERTa is refused").to_string();
    assert!(error.contains("model_type `bert`"), "{error}");
    let config = CondenserConfig {
        skip_from: 3,
        ..CondenserConfig::default()
    };
    let condenser = Condenser::load(&model("tiny-bert"), &config, &engine());
    assert!(matches!(condenser, Err(TrainingError::Setting { .. })));
    let config = CotMaeConfig {
        n_head_layers: 0,
        ..CotMaeConfig::default()
    };
    let cot_mae = CotMae::load(&model("tiny-bert"), &config, &engine());
    assert!(matches!(cot_mae, Err(TrainingError::Setting { .. })));
}

/// One batch of a published method with its loss and gradients: see `tests/golden/pretraining/README.md`.
struct Golden {
    case: Value,
    tensors: HashMap<String, Tensor>,
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().expect("flat").to_vec1().expect("f32")
}

impl Golden {
    fn read(method: &str) -> Self {
        let folder = testkit::golden("pretraining").join(method);
        let case = std::fs::read(folder.join("case.json")).expect("a case");
        let tensors = folder.join("tensors.safetensors");
        Self {
            case: serde_json::from_slice(&case).expect("JSON"),
            tensors: candle_core::safetensors::load(tensors, &Device::Cpu).expect("tensors"),
        }
    }

    fn input<T: DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_value(self.case["inputs"][name].clone()).expect("an input")
    }

    /// Token ids and labels under these names, or, for MASTER, under a stream's name in these.
    fn texts(&self, side: &str, stream: Option<&str>) -> Vec<Corrupted> {
        let list = |end: &str| {
            let value = &self.case["inputs"][format!("{side}_{end}")];
            stream.map_or(value, |stream| &value[stream]).clone()
        };
        let ids: Vec<Vec<u32>> = serde_json::from_value(list("ids")).expect("ids");
        let labels: Vec<Vec<i64>> = serde_json::from_value(list("labels")).expect("labels");
        let text = |(ids, labels): (Vec<u32>, Vec<i64>)| Corrupted {
            ids,
            labels: labels
                .into_iter()
                .map(|label| u32::try_from(label).ok())
                .collect(),
        };
        ids.into_iter().zip(labels).map(text).collect()
    }

    /// The method with the weights of the case.
    fn objective<M: Method>(&self, method: Result<M, TrainingError>) -> Pretraining<M> {
        let objective = objective(method, 0.0);
        let mut n_set = 0;
        for parameter in objective.parameters().iter() {
            if let Some(tensor) = self.tensors.get(&format!("weights.{}", parameter.name())) {
                parameter
                    .set_values(&values(tensor))
                    .expect("as many values");
                n_set += 1;
            }
        }
        let weights = self
            .tensors
            .keys()
            .filter(|name| name.starts_with("weights."));
        assert_eq!(n_set, weights.count(), "{}", self.case["method"]);
        objective
    }

    /// Compares a method's losses and gradients with those of the case.
    fn check<M: Method>(&self, method: Result<M, TrainingError>, batch: &Vec<M::Example>) {
        let name = self.case["method"].as_str().expect("a name");
        let mut objective = self.objective(method);
        let report = objective.step(batch, &step_at(0)).expect("a step");
        let mut found: Vec<f64> = report.measures.into_values().chain([report.loss]).collect();
        let expected = self.case["losses"].as_object().expect("losses");
        let mut expected: Vec<f64> = expected
            .values()
            .map(|x| x.as_f64().expect("a loss"))
            .collect();
        found.sort_by(f64::total_cmp);
        expected.sort_by(f64::total_cmp);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 1e-5 * expected,
                "{name}: {found}, not {expected}"
            );
        }
        let mut n_compared = 0;
        for parameter in objective.parameters().iter() {
            let own = parameter.name();
            let published = own.strip_prefix("bert.").unwrap_or(own);
            if own.ends_with("key.bias") {
                continue; // rounding alone, since softmax cancels it
            }
            let expected = self.tensors.get(&format!("gradient.{published}"));
            let expected = values(expected.unwrap_or_else(|| panic!("{name} has {own}")));
            let found = parameter.gradient().expect("it is read");
            let found = found.unwrap_or_else(|| vec![0.0; expected.len()]);
            let error = length(found.iter().zip(&expected).map(|(a, b)| a - b));
            let size = length(expected.iter().copied());
            assert!(error <= 1e-4 * size, "{name}, {own}: {error} of {size}");
            n_compared += 1;
        }
        assert!(n_compared > 35, "{name}: {n_compared}");
    }
}

#[test]
fn losses_and_gradients_equal_those_of_the_published_code() {
    check_golden();
}

#[test]
fn losses_and_gradients_on_a_device_equal_those_of_the_published_code() {
    on_device(check_golden);
}

fn check_golden() {
    let golden = Golden::read("mlm");
    golden.check(mlm(), &golden.texts("encoder", None));

    for (name, contrastive) in [("condenser", false), ("cocondenser", true)] {
        let golden = Golden::read(name);
        assert_eq!(golden.input::<usize>("skip_from"), 1);
        golden.check(condenser(contrastive), &golden.texts("encoder", None));
    }

    let golden = Golden::read("cotmae");
    let (read, said) = (golden.texts("encoder", None), golden.texts("decoder", None));
    let pairs = read
        .chunks(2)
        .zip(said.chunks(2))
        .map(|(read, said)| SpanPair {
            encoder: [read[0].clone(), read[1].clone()],
            // The case has them in the order of the vectors that they meet.
            decoder: [said[1].clone(), said[0].clone()],
        });
    golden.check(cot_mae(), &pairs.collect());

    for (name, config) in [
        ("retromae", RetroMaeConfig::default()),
        ("dupmae", RetroMaeConfig::dup_mae()),
    ] {
        let golden = Golden::read(name);
        let visibility: Vec<Vec<Vec<u8>>> = golden.input("visibility");
        let (read, said) = (golden.texts("encoder", None), golden.texts("decoder", None));
        let texts = read.into_iter().zip(said).zip(visibility);
        let texts = texts.map(|((encoder, said), rows)| {
            let rows: Vec<Vec<bool>> = rows
                .iter()
                .map(|row| row.iter().map(|&sees| sees == 1).collect())
                .collect();
            RetroMaeText {
                encoder,
                ids: said.ids,
                visibility: Visibility::new(&rows),
            }
        });
        let texts = texts.collect();
        golden.check(retro_mae(&config), &texts);
        if name == "dupmae" {
            let mut without_bag = golden.objective(retro_mae(&flag_embedding()));
            let found = without_bag.evaluate(&texts).expect("a loss").measures;
            assert_eq!(found.len(), 2);
            for (name, found) in found {
                let published = name.strip_suffix("_loss").expect("a loss");
                let expected = golden.case["losses"][published].as_f64().expect("a loss");
                assert!(
                    (found - expected).abs() <= 1e-5 * expected,
                    "{name}: {found}, not {expected}"
                );
            }
        }
    }

    let golden = Golden::read("simlm");
    let types: Vec<Vec<u32>> = golden.input("encoder_types");
    let (read, said) = (golden.texts("encoder", None), golden.texts("decoder", None));
    let texts = read.into_iter().zip(said).zip(types);
    // What was drawn for the case stands in its texts, and nothing is hidden from anybody.
    let as_it_is = |text: Corrupted| Corrupted {
        labels: vec![None; text.ids.len()],
        ids: text.ids,
    };
    let texts = texts.map(|((encoder, said), types)| SimLmText {
        types,
        labels: encoder.labels.clone(),
        encoder: as_it_is(encoder),
        decoder: as_it_is(said),
    });
    let method = SimLm::load(&model("tiny-bert"), &SimLmConfig::default(), &engine());
    golden.check(method, &texts.collect());

    let golden = Golden::read("master");
    let [text, first_half, seen] =
        ["text", "first_half", "seen"].map(|stream| golden.texts("encoder", Some(stream)));
    let [keywords, queries, continuation, second_half, unseen] = [
        "c_head",
        "query_head",
        "gpt_head",
        "next_head",
        "overlap_head",
    ]
    .map(|stream| golden.texts("decoder", Some(stream)));
    let streams = (0..text.len()).map(|row| MasterStreams {
        text: text[row].clone(),
        keywords: keywords[row].clone(),
        queries: queries[row].clone(),
        continuation: continuation[row].clone(),
        first_half: first_half[row].clone(),
        second_half: second_half[row].clone(),
        seen: seen[row].clone(),
        unseen: unseen[row].clone(),
    });
    golden.check(master(), &streams.collect());
}
