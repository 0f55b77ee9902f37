//! Losses, gradients and steps of PyTorch.

use super::*;

/// Inputs and outputs of `docs/reference/training_golden.py`.
#[derive(serde::Deserialize)]
struct Golden {
    settings: Settings,
    steps: Vec<Step>,
}

#[derive(serde::Deserialize)]
struct Settings {
    learning_rate: f64,
    weight_decay: f64,
    temperature: f64,
}

#[derive(serde::Deserialize)]
struct Step {
    loss: f32,
    queries: Vec<Vec<u32>>,
    passages: Vec<Vec<u32>>,
}

fn info_nce(backbone: &Backbone, pooling: Pooling, step: &Step, temperature: f64) -> Tensor {
    let embed = |ids: &[Vec<u32>]| {
        let text = |ids: &Vec<u32>| Tokens {
            ids: ids.clone(),
            type_ids: vec![0; ids.len()],
            ..Tokens::default()
        };
        let texts: Vec<Tokens> = ids.iter().map(text).collect();
        let pooled = backbone
            .pool(&texts, pooling, &Dropout::NONE)
            .expect("a forward");
        let norms = pooled
            .sqr()
            .and_then(|squares| squares.sum_keepdim(1)?.sqrt())
            .expect("norms");
        pooled.broadcast_div(&norms).expect("shapes fit")
    };
    let (queries, passages) = (embed(&step.queries), embed(&step.passages));
    let scores = queries
        .matmul(&passages.t().expect("a matrix"))
        .and_then(|scores| scores / temperature);
    let positives: Vec<i64> = (0..step.queries.len() as i64).map(|i| 2 * i).collect();
    cross_entropy(&scores.expect("scores"), &positives).expect("a loss")
}

/// Whether the gradient is 0 by the model: softmax cancels what a key bias adds, and leaves nothing to choose where there
/// is one position, as in the self-attention of T5's only decoder step.
fn has_no_effect(name: &str) -> bool {
    let decides_nothing = |part| name.ends_with(part) && name.contains("decoder.block");
    name.contains("key.bias")
        || name.contains("attn.k.bias")
        || [
            ".SelfAttention.q.weight",
            ".SelfAttention.k.weight",
            "relative_attention_bias.weight",
        ]
        .into_iter()
        .any(decides_nothing)
}

/// The tolerance is that of f32 sums in another order, twice through two wide random layers.
fn check_golden(name: &str, pooling: Pooling) {
    let folder = testkit::golden("training").join(name);
    let golden: Golden =
        serde_json::from_slice(&std::fs::read(folder.join("steps.json")).expect("steps.json"))
            .expect("valid JSON");
    let tensors = candle_core::safetensors::load(folder.join("tensors.safetensors"), &Device::Cpu)
        .expect("tensors");
    let values = |name: &str| {
        tensors[name]
            .flatten_all()
            .and_then(|t| t.to_vec1::<f32>())
            .expect("values")
    };
    let engine = engine(2, Precision::F32, Simd::detect());
    let load = || {
        let folder = testkit::fixture("models").join(name);
        Backbone::load_as("", &folder, pooling, &engine).expect("the model loads")
    };
    let encoder = load();
    let Settings {
        learning_rate,
        weight_decay,
        temperature,
    } = golden.settings;
    let config = AdamWConfig {
        weight_decay,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(encoder.parameters(), config, &engine).expect("valid settings");
    for (index, step) in golden.steps.iter().enumerate() {
        let loss = info_nce(&encoder, pooling, step, temperature);
        let value = loss.to_scalar::<f32>().expect("a scalar");
        assert!(
            (value - step.loss).abs() < 1e-4 * step.loss,
            "{name} step {index}: {value} {}",
            step.loss
        );
        loss.backward().expect("a backward");
        if index == 0 {
            for parameter in encoder.parameters().iter() {
                let found = parameter
                    .gradient()
                    .expect("it is read")
                    .expect("every parameter has one");
                let expected = values(&format!("gradient.{}", parameter.name()));
                let name = format!("{name} gradient of {}", parameter.name());
                let worst = error(&found, &expected);
                assert!(worst < 2e-4, "{name}: {worst}");
                let is_zero = |values: &[f32]| values.iter().all(|&x| x == 0.0);
                if name.contains("decoder.") && has_no_effect(&name) {
                    assert!(is_zero(&found) && is_zero(&expected), "{name}");
                } else {
                    assert!(!is_zero(&found), "{name}");
                }
            }
            let n_expected = tensors.keys().filter(|key| key.starts_with("gradient."));
            assert_eq!(n_expected.count(), encoder.parameters().iter().count());
        }
        optimizer.step(learning_rate, None).expect("a step");
    }
    let before = load();
    for parameter in encoder.parameters().iter() {
        let name = parameter.name();
        // A gradient of nothing but rounding has a sign, which Adam turns into a step as long as any.
        if has_no_effect(name) {
            continue;
        }
        let start = before
            .parameters()
            .get(name)
            .expect("equal models")
            .values()
            .expect("it is read");
        let moved = |values: &[f32]| -> Vec<f32> {
            values.iter().zip(&start).map(|(a, b)| a - b).collect()
        };
        let (found, expected) = (
            moved(&parameter.values().expect("it is read")),
            moved(&values(&format!("after.{name}"))),
        );
        // Where a gradient is near rounding, Adam's step of ±η is too; the mean over a tensor is not.
        let difference: f32 = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .sum();
        let size: f32 = expected.iter().map(|x| x.abs()).sum();
        assert!(
            difference < 1e-3 * size,
            "{name}: moved by {size} in sum, off by {difference}"
        );
    }
}

#[test]
fn losses_gradients_and_steps_equal_pytorch() {
    check_golden("tiny-bert", Pooling::Mean);
    check_golden("tiny-mpnet", Pooling::Mean);
    check_golden("tiny-t5", Pooling::Mean);
    check_golden("tiny-t5-relu", Pooling::Decoder);
    check_golden("tiny-t5-gated", Pooling::Decoder);
}
