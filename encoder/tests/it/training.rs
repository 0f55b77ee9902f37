//! The training layers against candle's basic operations and against PyTorch.

mod golden;
mod optimizer;

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use compute::Simd;
use encoder::training::{
    AdamW, AdamWConfig, Backbone, Dropout, Encoder, Engine, EngineConfig, IGNORED, Kind, LayerNorm,
    Linear, Parameters, Precision, TrainingError, cross_entropy, dropout, embedding, first, mean,
    sparse_cross_entropy,
};
use encoder::{Activation, Architecture, Batch, Pooling, Tokens, Transformer};

fn engine(threads: usize, precision: Precision, simd: Simd) -> Arc<Engine> {
    let mut config = EngineConfig::default();
    (config.threads, config.precision, config.simd) = (threads, precision, simd);
    Engine::new(&config).expect("threads start")
}

fn load(name: &str, engine: &Arc<Engine>) -> Encoder {
    Encoder::load(&testkit::fixture("models").join(name), engine).expect("the model loads")
}

/// Values without a pattern, between −1 and 1.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Texts of several lengths with ids all over the tables; no padding id, which would be looked up at other positions.
fn texts(architecture: &Architecture, lengths: &[usize]) -> Vec<Tokens> {
    let n_types = architecture.n_types.max(1);
    let text = |(seed, &length): (usize, &usize)| Tokens {
        ids: (0..length)
            .map(|i| (5 + (i * 131 + seed * 17) % (architecture.n_vocabulary - 5)) as u32)
            .collect(),
        type_ids: (0..length).map(|i| (i % n_types) as u32).collect(),
        ..Tokens::default()
    };
    lengths.iter().enumerate().map(text).collect()
}

/// `Σ hidden · noise`, a loss to which every value of the token vectors matters.
fn loss(hidden: &Tensor) -> Tensor {
    let weights = Tensor::from_vec(noise(hidden.elem_count(), 9), hidden.shape(), &Device::Cpu)
        .expect("it fits");
    (hidden * weights)
        .and_then(|product| product.sum_all())
        .expect("a sum")
}

/// Gradients by parameter.
type Gradients = HashMap<String, Vec<f32>>;

fn gradients(encoder: &Encoder, texts: &[Tokens], dropout: &Dropout) -> (Vec<f32>, Gradients) {
    encoder.parameters().clear_gradients();
    let hidden = encoder.forward(texts, dropout).expect("a forward");
    loss(&hidden).backward().expect("a backward");
    let gradients = encoder
        .parameters()
        .iter()
        .filter_map(|p| Some((p.name().to_owned(), p.gradient().expect("it is read")?)));
    (
        hidden
            .flatten_all()
            .and_then(|t| t.to_vec1())
            .expect("values"),
        gradients.collect(),
    )
}

/// The same from the plain forward and candle's own backward.
fn plain_gradients(encoder: &Encoder, texts: &[Tokens]) -> (Vec<f32>, Gradients) {
    let mut variables = HashMap::new();
    let get = |name: &str, shape: &[usize]| {
        let values = encoder
            .parameters()
            .get(name)
            .expect("both have the same parameters")
            .values()
            .expect("it is read");
        let variable = Tensor::from_vec(values, shape, &Device::Cpu)
            .and_then(|t| Var::from_tensor(&t))
            .expect("a var");
        let tensor = variable.as_tensor().clone();
        variables.insert(name.to_owned(), variable);
        Ok::<_, Infallible>(tensor)
    };
    let Ok(transformer) = Transformer::load(encoder.architecture(), get);
    let batch = Batch::new(texts, encoder.architecture(), 0, &Device::Cpu).expect("a batch");
    let hidden = transformer.forward(&batch).expect("a forward");
    let (_, length, width) = hidden.dims3().expect("three dimensions");
    let kept = texts
        .iter()
        .enumerate()
        .flat_map(|(row, text)| (0..text.len()).map(move |column| (row * length + column) as u32));
    let kept = Tensor::from_iter(kept, &Device::Cpu).expect("indices");
    let hidden = hidden
        .reshape(((), width))
        .and_then(|rows| rows.index_select(&kept, 0))
        .expect("kept rows");
    let store = loss(&hidden).backward().expect("a backward");
    let gradients = variables.iter().map(|(name, variable)| {
        let gradient = store.get(variable).expect("every parameter has one");
        (
            name.clone(),
            gradient
                .flatten_all()
                .and_then(|t| t.to_vec1())
                .expect("values"),
        )
    });
    (
        hidden
            .flatten_all()
            .and_then(|t| t.to_vec1())
            .expect("values"),
        gradients.collect(),
    )
}

/// Largest difference over the root mean square of what was expected, of tensors that are not zero by symmetry.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let square: f32 = expected.iter().map(|x| x * x).sum();
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(found.iter().all(|x| x.is_finite()));
    worst / (square / expected.len() as f32).sqrt().max(1e-3)
}

/// Length of the difference over the length of what was expected.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (difference / square(&mut expected.iter().copied())).sqrt()
}

fn check_gradients(
    name: &str,
    precision: Precision,
    simd: Simd,
    tolerance: f32,
    error: fn(&[f32], &[f32]) -> f32,
) {
    let encoder = load(name, &engine(2, precision, simd));
    let lengths = [1, 2, 17, 64, 65, 100, encoder.architecture().max_tokens()];
    let name = format!("{name} {precision:?} {simd:?}");
    check_gradients_of(&name, &encoder, &lengths, tolerance, error);
}

fn check_gradients_of(
    name: &str,
    encoder: &Encoder,
    lengths: &[usize],
    tolerance: f32,
    error: fn(&[f32], &[f32]) -> f32,
) {
    let texts = texts(encoder.architecture(), lengths);
    let (hidden, found) = gradients(encoder, &texts, &Dropout::NONE);
    let (plain_hidden, expected) = plain_gradients(encoder, &texts);
    let worst = error(&hidden, &plain_hidden);
    assert!(worst < tolerance, "{name} token vectors: {worst}");
    assert_eq!(found.len(), expected.len());
    for (parameter, expected) in &expected {
        // The softmax cancels what a key bias adds, so its gradient is rounding alone.
        if parameter.ends_with("key.bias")
            || parameter.ends_with("k.bias")
            || parameter.ends_with("k_lin.bias")
        {
            continue;
        }
        let worst = error(&found[parameter], expected);
        assert!(worst < tolerance, "{name} {parameter}: {worst}");
    }
}

#[test]
fn gradients_equal_those_of_basic_operations() {
    for name in [
        "tiny-bert",
        "tiny-bert-cls-dense",
        "tiny-bert-weighted",
        "tiny-roberta",
        "tiny-distilbert",
        "tiny-mpnet",
    ] {
        check_gradients(name, Precision::F32, Simd::detect(), 2e-4, error);
    }
}

#[test]
fn gradients_of_published_widths_equal_those_of_basic_operations() {
    for (width, n_heads, activation) in [
        (256, 4, Activation::Relu),
        (768, 12, Activation::GeluTanh),
        (1_024, 16, Activation::Gelu),
    ] {
        let config = testkit::fixture("models/tiny-bert/config.json");
        let mut architecture = Architecture::read(&config).expect("config.json is valid");
        (architecture.width, architecture.n_heads) = (width, n_heads);
        (architecture.n_intermediate, architecture.activation) = (4 * width, activation);
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.05)] {
            let engine = engine(2, precision, Simd::detect());
            let encoder = Encoder::random(architecture.clone(), 3, &engine).expect("a model");
            let name = format!("{width} columns in {n_heads} heads, {precision:?}");
            check_gradients_of(&name, &encoder, &[1, 17, 60], tolerance, distance);
        }
    }
}

#[test]
fn every_level_of_instructions_gives_these_gradients() {
    for simd in Simd::available() {
        check_gradients("tiny-bert", Precision::F32, simd, 2e-4, error);
        check_gradients("tiny-mpnet", Precision::F32, simd, 2e-4, error);
    }
}

/// Operands are rounded to 2⁻⁹; sharp attention over these wide random weights amplifies that to 2 % of a gradient at most.
#[test]
fn gradients_in_bf16_are_close() {
    for simd in Simd::available() {
        check_gradients("tiny-bert", Precision::Bf16, simd, 0.05, distance);
        check_gradients("tiny-mpnet", Precision::Bf16, simd, 0.05, distance);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for precision in [Precision::F32, Precision::Bf16] {
        let runs = [1, 2].map(|threads| {
            let encoder = load("tiny-bert", &engine(threads, precision, Simd::detect()));
            let texts = texts(encoder.architecture(), &[30, 7, 90, 64, 1, 55, 120]);
            gradients(
                &encoder,
                &texts,
                &Dropout {
                    hidden: 0.1,
                    attention: 0.1,
                    seed: 1,
                    step: 2,
                    ..Dropout::NONE
                },
            )
        });
        assert_eq!(runs[0], runs[1], "{precision:?}");
    }
}

/// Compares `gradient · u` with the difference quotient of the loss along u, for a random direction u of each parameter.
fn check_differences(
    parameters: &Parameters,
    step: f32,
    tolerance: f64,
    loss: impl Fn() -> Tensor,
) {
    parameters.clear_gradients();
    loss().backward().expect("a backward");
    for parameter in parameters.iter() {
        let name = parameter.name();
        let values = parameter.values().expect("it is read");
        let gradient = parameter
            .gradient()
            .expect("it is read")
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        let direction = noise(values.len(), 77);
        let at = |step: f32| {
            let moved: Vec<f32> = values
                .iter()
                .zip(&direction)
                .map(|(value, u)| value + step * u)
                .collect();
            parameter.set_values(&moved).expect("as many values");
            f64::from(loss().to_scalar::<f32>().expect("a scalar"))
        };
        let quotient = (at(step) - at(-step)) / (2.0 * f64::from(step));
        parameter.set_values(&values).expect("as many values");
        let slope: f64 = gradient
            .iter()
            .zip(&direction)
            .map(|(g, u)| f64::from(*g) * f64::from(*u))
            .sum();
        let size: f64 = gradient
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(
            (slope - quotient).abs() < tolerance * (size + slope.abs()) + 2e-2,
            "{name}: {slope} {quotient}"
        );
    }
}

#[test]
fn gradients_with_dropout_equal_difference_quotients() {
    for name in ["tiny-bert", "tiny-mpnet"] {
        let encoder = load(name, &engine(2, Precision::F32, Simd::detect()));
        let texts = texts(encoder.architecture(), &[9, 1, 30]);
        let dropout = Dropout {
            hidden: 0.2,
            attention: 0.3,
            seed: 5,
            step: 6,
            ..Dropout::NONE
        };
        // Key biases and rows that no text reads have slope 0 on both sides.
        check_differences(encoder.parameters(), 1e-3, 0.05, || {
            loss(&encoder.forward(&texts, &dropout).expect("a forward"))
        });
    }
}

#[test]
fn dropout_repeats_its_masks_and_changes_with_the_step() {
    let encoder = load("tiny-bert", &engine(2, Precision::F32, Simd::detect()));
    let texts = texts(encoder.architecture(), &[9, 1, 30]);
    let at = |step| {
        let dropout = Dropout {
            hidden: 0.1,
            attention: 0.1,
            seed: 5,
            step,
            ..Dropout::NONE
        };
        gradients(&encoder, &texts, &dropout)
    };
    assert_eq!(at(1), at(1));
    assert_ne!(at(1).0, at(2).0);
    assert_ne!(at(1).0, gradients(&encoder, &texts, &Dropout::NONE).0);
}

/// A head in the manner of BERT's for masked tokens: dense, activation, normalization, projection to the token table.
#[test]
fn single_layers_equal_difference_quotients() {
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        let engine = engine(2, Precision::F32, Simd::detect());
        let mut parameters = Parameters::new();
        let (n_rows, width, n_classes) = (300, 24, 50);
        let table = parameters.insert(
            "table",
            &[n_classes, width],
            noise(n_classes * width, 1),
            Kind::Table,
        );
        let table = table.expect("a new name");
        let bias = parameters
            .insert("bias", &[n_classes], noise(n_classes, 2), Kind::Plain)
            .expect("a new name");
        let values = (noise(width * width, 3), noise(width, 4));
        let dense = Linear::new(&mut parameters, "dense", values, &engine)
            .expect("a layer")
            .with_activation(activation);
        let norm = LayerNorm::new(&mut parameters, "norm", width, 1e-12, &engine).expect("a layer");
        let projection = Linear::tied(&table, &bias, &engine).expect("shapes fit");
        let ids: Vec<u32> = (0..n_rows).map(|i| (i * 7 % 40) as u32).collect();
        let targets: Vec<i64> = (0..n_rows)
            .map(|i| {
                if i % 3 == 0 {
                    (i % n_classes) as i64
                } else {
                    IGNORED
                }
            })
            .collect();
        let drop = Dropout {
            hidden: 0.2,
            seed: 3,
            ..Dropout::NONE
        };
        check_differences(&parameters, 1e-3, 0.02, || {
            let rows = embedding(&table, &ids).expect("known ids");
            let inner = dropout(&dense.forward(&rows).expect("it fits"), &drop, 0, &engine)
                .expect("a mask");
            let rows = norm.forward(&inner, &rows).expect("it fits");
            let pooled = mean(&rows, &[100, 200])
                .and_then(|a| a + first(&rows, &[150, 150])?)
                .expect("it fits");
            let loss = sparse_cross_entropy(&rows, &projection, &targets).expect("targets fit");
            (loss * 10.0)
                .and_then(|l| l + pooled.sqr()?.sum_all()?)
                .expect("a sum")
        });
    }
}

#[test]
fn cross_entropy_equals_candles_and_leaves_out_ignored_rows() {
    let logits = Tensor::from_vec(noise(40 * 7, 1), (40, 7), &Device::Cpu)
        .and_then(|t| t * 5.0)
        .expect("logits");
    let logits = Var::from_tensor(&logits).expect("a variable");
    let targets: Vec<i64> = (0..40)
        .map(|i| if i % 4 == 1 { IGNORED } else { i % 7 })
        .collect();
    let found = cross_entropy(&logits, &targets).expect("a loss");
    let kept: Vec<u32> = (0..40).filter(|i| i % 4 != 1).collect();
    let kept_targets =
        Tensor::from_iter(kept.iter().map(|i| i % 7), &Device::Cpu).expect("targets");
    let kept = Tensor::new(kept, &Device::Cpu).expect("indices");
    let rows = logits.index_select(&kept, 0).expect("rows");
    let expected = candle_nn::loss::cross_entropy(&rows, &kept_targets).expect("a loss");
    let scalar = |tensor: &Tensor| tensor.to_scalar::<f32>().expect("a scalar");
    assert!((scalar(&found) - scalar(&expected)).abs() < 1e-5);
    let gradient = |loss: &Tensor| {
        let store = loss.backward().expect("a backward");
        let gradient = store.get(&logits).expect("a gradient");
        gradient
            .flatten_all()
            .and_then(|t| t.to_vec1::<f32>())
            .expect("values")
    };
    assert!(error(&gradient(&found), &gradient(&expected)) < 1e-5);
    assert_eq!(
        scalar(&cross_entropy(&logits, &[IGNORED; 40]).expect("a loss")),
        0.0
    );
    for targets in [vec![0; 39], vec![7; 40], vec![-1; 40]] {
        assert!(cross_entropy(&logits, &targets).is_err());
    }
}

#[test]
fn bad_input_is_refused() {
    let engine = engine(1, Precision::F32, Simd::detect());
    let encoder = load("tiny-bert", &engine);
    let fine = texts(encoder.architecture(), &[3]);
    let mut unknown = fine.clone();
    unknown[0].ids[1] = u32::MAX;
    assert!(matches!(
        encoder.forward(&unknown, &Dropout::NONE),
        Err(TrainingError::Encode(_))
    ));
    let all = Dropout {
        hidden: 1.0,
        ..Dropout::NONE
    };
    assert!(matches!(
        encoder.forward(&fine, &all),
        Err(TrainingError::Tensor(_))
    ));
    let hidden = encoder.embed(&fine, &Dropout::NONE).expect("an embedding");
    assert!(encoder.layers(0..3, &hidden, &[3], &Dropout::NONE).is_err());
    assert!(encoder.layers(0..2, &hidden, &[2], &Dropout::NONE).is_err());
    assert!(
        encoder
            .layers(0..2, &hidden, &[3, 0], &Dropout::NONE)
            .is_err()
    );
    let config = AdamWConfig {
        beta1: 1.0,
        ..AdamWConfig::default()
    };
    assert!(matches!(
        AdamW::new(encoder.parameters(), config, &engine),
        Err(TrainingError::Setting { .. })
    ));

    let mut optimizer =
        AdamW::new(encoder.parameters(), AdamWConfig::default(), &engine).expect("valid settings");
    let parameter = encoder
        .parameters()
        .get("embeddings.LayerNorm.bias")
        .expect("it exists");
    let before = parameter.values().expect("it is read");
    parameter
        .add_gradient(&vec![f32::NAN; before.len()])
        .expect("it fits");
    assert!(matches!(
        optimizer.step(1e-3, None),
        Err(TrainingError::NotFinite { .. })
    ));
    assert!(optimizer.step(f64::NAN, None).is_err());
    assert_eq!(parameter.values().expect("it is read"), before);
    assert!(parameter.add_gradient(&[0.0]).is_err());
}

#[test]
fn first_vectors_alone_equal_those_of_all() {
    for (name, precision) in [
        ("tiny-bert", Precision::F32),
        ("tiny-mpnet", Precision::F32),
        ("tiny-bert", Precision::Bf16),
    ] {
        let encoder = load(name, &engine(2, precision, Simd::detect()));
        let lengths = [1, 2, 90, 64, 65, 100, 7];
        let texts = texts(encoder.architecture(), &lengths);
        let dropout = Dropout {
            hidden: 0.1,
            attention: 0.1,
            seed: 5,
            step: 1,
            ..Dropout::NONE
        };
        let run = |vectors: Tensor| {
            encoder.parameters().clear_gradients();
            loss(&vectors).backward().expect("a backward");
            let gradients: Vec<_> = encoder
                .parameters()
                .iter()
                .map(|p| p.gradient().expect("it is read").expect("a gradient"))
                .collect();
            (
                vectors
                    .flatten_all()
                    .and_then(|t| t.to_vec1::<f32>())
                    .expect("values"),
                gradients,
            )
        };
        let all = encoder.forward(&texts, &dropout).expect("a forward");
        let (expected, expected_gradients) = run(first(&all, &lengths).expect("lengths fit"));
        let (found, gradients) = run(encoder.forward_first(&texts, &dropout).expect("a forward"));
        assert_eq!(found, expected, "{name} {precision:?}");
        for ((found, expected), parameter) in gradients
            .iter()
            .zip(&expected_gradients)
            .zip(encoder.parameters().iter())
        {
            // Rows of zeros are summed in other places.
            let worst = error(found, expected);
            assert!(
                worst < 1e-4,
                "{name} {precision:?} {}: {worst}",
                parameter.name()
            );
        }
    }
}

#[test]
fn an_engine_counts_its_operations() {
    let [engine, other] = [2, 1].map(|threads| engine(threads, Precision::F32, Simd::detect()));
    let (n, width) = (50, 64);
    let mut parameters = Parameters::new();
    let values = (noise(width * width, 1), noise(width, 2));
    let dense = Linear::new(&mut parameters, "dense", values, &engine).expect("a layer");
    let x = Tensor::from_vec(noise(n * width, 3), (n, width), &Device::Cpu).expect("it fits");
    let product = (2 * n * width * width) as u64;
    let output = dense.forward(&x).expect("it fits");
    assert_eq!(engine.operations(), product);
    loss(&output).backward().expect("a backward");
    assert_eq!(engine.operations(), 3 * product); // of the input and of the weights
    assert_eq!(other.operations(), 0);
}

/// Vectors that no variable leads to, such as those of a frozen encoder, do not cut parameters off from the loss.
#[test]
fn layers_on_constants_have_gradients() {
    let engine = engine(1, Precision::F32, Simd::detect());
    let encoder = load("tiny-bert", &engine);
    let mut parameters = encoder.parameters().clone();
    let width = encoder.architecture().width;
    let values = (noise(width * width, 1), noise(width, 2));
    let dense = Linear::new(&mut parameters, "dense", values, &engine).expect("a layer");
    let norm = LayerNorm::new(&mut parameters, "norm", width, 1e-12, &engine).expect("a layer");
    let constant =
        Tensor::from_vec(noise(7 * width, 3), (7, width), &Device::Cpu).expect("it fits");
    let outputs = [
        encoder
            .layers(0..2, &constant, &[3, 4], &Dropout::NONE)
            .expect("a forward"),
        dense.forward(&constant).expect("it fits"),
        norm.forward(&constant, &constant).expect("it fits"),
    ];
    for output in &outputs {
        loss(output).backward().expect("a backward");
    }
    for parameter in parameters
        .iter()
        .filter(|parameter| !parameter.name().starts_with("embeddings."))
    {
        let gradient = parameter.gradient().expect("it is read");
        assert!(
            gradient.is_some_and(|g| g.iter().any(|&x| x != 0.0)),
            "{}",
            parameter.name()
        );
    }
}

#[test]
fn models_that_the_engine_does_not_compute_are_not_trained() {
    let path = testkit::fixture("models/tiny-t5");
    let engine = engine(1, Precision::F32, Simd::detect());
    let error = Encoder::load(&path, &engine).err().expect("T5 is refused");
    let cause =
        std::error::Error::source(&error).map_or_else(|| error.to_string(), |e| e.to_string());
    assert!(
        cause.contains("model_type is `t5`; supported are bert"),
        "{cause}"
    );
}
