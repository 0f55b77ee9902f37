//! Smaller weights for the same function, so that activations stay in the range of 16-bit floats.

use std::path::Path;

use serde_json::{Map, Value};

use super::T5Architecture;
use crate::checkpoint::Checkpoint;
use crate::conversion::{ConvertError, ModelWriter, Stored, WeightType};
use crate::directory::{Directory, read_json};

/// The factor by which the residual stream shrinks.
const FACTOR: f64 = 0.01;

/// The entry of `config.json` that a scaled model carries; training and exports keep it.
const MARK: &str = "t5_weight_scale";

/// What was scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaledT5 {
    /// Tensors that were divided.
    pub n_scaled: usize,
    /// Tensors that stayed as they were.
    pub n_kept: usize,
}

/// Writes the T5 of a folder to a new folder with a residual stream a hundredth as large.
///
/// As OpenMatch's `scale_t5_weights.py`: token table and attention outputs are divided by 100, both layers of a
/// feed-forward block by 10 each, because ReLU lets a factor through; with a gated block (version 1.1) the layer without
/// activation stands for the first one. Every block and the last normalization see the stream brought to a mean square
/// of 1, so vectors stay what they are. That takes an ε under the root which shrinks as the mean square does, to 10⁻⁴ of
/// what it was; OpenMatch leaves it. A projection to the vocabulary that is tied to the token table gives a hundredth of
/// its logits.
///
/// Weights are written in f32.
///
/// # Errors
/// [`ConvertError`]; a folder that was begun has no weights.
pub fn scale_t5(from: &Path, to: &Path) -> Result<ScaledT5, ConvertError> {
    let transformer = Directory::transformer_of(from)?;
    let config_path = transformer.join("config.json");
    let architecture = T5Architecture::read(&config_path)?;
    let mut config: Map<String, Value> = read_json(&config_path)?;
    if config.contains_key(MARK) {
        let path = from.to_path_buf();
        return Err(ConvertError::Scaled { path });
    }
    config.insert(MARK.to_owned(), Value::from(FACTOR));
    let epsilon = architecture.epsilon * FACTOR * FACTOR;
    config.insert("layer_norm_epsilon".to_owned(), Value::from(epsilon));

    let checkpoint = Checkpoint::open(&transformer)?;
    let writer = ModelWriter::new(from, to)?;
    let (tensors, scaled) = scale(&checkpoint)?;
    writer.write(tensors, Some(config))?;
    Ok(scaled)
}

/// By what a tensor is divided.
fn divisor(name: &str) -> f32 {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    // Some checkpoints hold the token table again under each stack's name.
    let tables = ["shared.weight", "embed_tokens.weight"];
    let attention = ["SelfAttention.o.weight", "EncDecAttention.o.weight"];
    let linear = ["wi", "wi_1", "wo"].map(|name| format!("DenseReluDense.{name}.weight"));
    if ends(&tables) || ends(&attention) {
        100.0
    } else if ends(&linear.each_ref().map(String::as_str)) {
        10.0
    } else {
        1.0
    }
}

fn scale(checkpoint: &Checkpoint) -> Result<(Vec<(String, Stored)>, ScaledT5), ConvertError> {
    let mut tensors = Vec::new();
    let mut counts = ScaledT5 {
        n_scaled: 0,
        n_kept: 0,
    };
    for (name, shape) in checkpoint.shapes() {
        let divisor = divisor(&name);
        match divisor == 1.0 {
            true => counts.n_kept += 1,
            false => counts.n_scaled += 1,
        }
        let mut values = checkpoint.head_tensor(&name, &shape)?;
        values.iter_mut().for_each(|x| *x /= divisor);
        let stored = Stored::new(&name, shape, &values, WeightType::F32)?;
        tensors.push((name, stored));
    }
    Ok((tensors, counts))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::conversion::copy_all;
    use crate::tokenizer::{Text, TextTokenizer, Tokens};
    use crate::training::{Dropout, Engine, EngineConfig, T5};

    /// Sentences of the sample corpus.
    fn sentences() -> Vec<String> {
        let corpus = fs::read_to_string(testkit::fixture("sample/corpus.jsonl")).unwrap();
        let text = |line: &str| {
            let passage: Value = serde_json::from_str(line).unwrap();
            passage["text"].as_str().unwrap().to_owned()
        };
        let texts: Vec<String> = corpus.lines().map(text).collect();
        let sentences = texts.iter().flat_map(|text| text.split_inclusive(". "));
        sentences.take(30).map(str::to_owned).collect()
    }

    fn load(folder: &Path, engine: &Arc<Engine>) -> T5 {
        T5::load_as("", folder, true, engine).unwrap()
    }

    fn rows(tensor: candle_core::Tensor) -> Vec<Vec<f64>> {
        let rows: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
        let widen = |row: Vec<f32>| row.into_iter().map(f64::from).collect();
        rows.into_iter().map(widen).collect()
    }

    fn length(row: &[f64]) -> f64 {
        row.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    fn check(name: &str) {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (folder.path().join(name), folder.path().join("scaled"));
        copy_all(&testkit::fixture("models").join(name), &before).unwrap();
        fs::write(before.join("pytorch_model.bin"), "old weights").unwrap();
        fs::create_dir(before.join("2_Dense")).unwrap();
        fs::write(before.join("2_Dense/model.safetensors"), "a module's").unwrap();
        let counts = scale_t5(&before, &after).unwrap();
        assert!(
            counts.n_scaled > 8 && counts.n_kept > counts.n_scaled,
            "{counts:?}"
        );
        assert!(!after.join("pytorch_model.bin").exists());
        assert!(after.join("2_Dense/model.safetensors").exists());
        assert!(
            after.join("tokenizer.json").exists() && after.join("openmatch_config.json").exists()
        );

        let engine = Engine::new(&EngineConfig::default()).unwrap();
        let tokenizer = TextTokenizer::load(&before, false).unwrap();
        let tokens = |text: &String| tokenizer.encode("", Text::Single(text), 128).unwrap();
        let texts: Vec<Tokens> = sentences().iter().map(tokens).collect();
        assert_eq!(texts.len(), 30);
        let (old, new) = (load(&before, &engine), load(&after, &engine));
        let vectors = |model: &T5| rows(model.forward_decoder(&texts, &Dropout::NONE).unwrap());
        for (old, new) in vectors(&old).iter().zip(vectors(&new)) {
            let apart: Vec<f64> = old.iter().zip(&new).map(|(a, b)| a - b).collect();
            let error = length(&apart) / length(old);
            assert!(error < 1e-5, "{name}: {error}");
        }
        let streams = |model: &T5| rows(model.residual_stream(&texts).unwrap());
        for (old, new) in streams(&old).iter().zip(streams(&new)) {
            let ratio = length(&new) / length(old);
            assert!((ratio - FACTOR).abs() < 1e-4 * FACTOR, "{name}: {ratio}");
        }

        let again = scale_t5(&after, &folder.path().join("twice"));
        assert!(
            matches!(again, Err(ConvertError::Scaled { .. })),
            "{again:?}"
        );
        let over = scale_t5(&before, &after);
        assert!(
            matches!(over, Err(ConvertError::NotEmpty { .. })),
            "{over:?}"
        );
    }

    #[test]
    fn vectors_stay_while_the_residual_stream_shrinks() {
        check("tiny-t5-relu");
        check("tiny-t5-gated");
    }

    #[test]
    fn other_models_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bert = scale_t5(
            &testkit::fixture("models/tiny-bert"),
            &folder.path().join("out"),
        );
        assert!(matches!(bert, Err(ConvertError::Load(_))), "{bert:?}");
        assert!(!folder.path().join("out").exists());
    }

    #[test]
    fn what_is_divided_follows_the_names_of_both_versions() {
        for (name, expected) in [
            ("shared.weight", 100.0),
            ("encoder.block.0.layer.0.SelfAttention.o.weight", 100.0),
            ("decoder.block.1.layer.1.EncDecAttention.o.weight", 100.0),
            ("encoder.block.0.layer.1.DenseReluDense.wi.weight", 10.0),
            ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 1.0),
            ("encoder.block.0.layer.1.DenseReluDense.wi_1.weight", 10.0),
            ("decoder.block.0.layer.2.DenseReluDense.wo.weight", 10.0),
            ("encoder.block.0.layer.0.SelfAttention.q.weight", 1.0),
            ("encoder.block.0.layer.0.layer_norm.weight", 1.0),
            ("lm_head.weight", 1.0),
        ] {
            assert_eq!(divisor(name), expected, "{name}");
        }
    }
}
