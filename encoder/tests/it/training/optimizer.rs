//! AdamW beside its slow version, and its state in files.

use super::*;

/// AdamW as its doc has it, in f64, on every value in every step.
struct Dense {
    values: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    n_steps: i32,
}

impl Dense {
    fn step(&mut self, gradient: &[f32], rate: f64, config: &AdamWConfig, scale: f64) {
        self.n_steps += 1;
        for (i, &g) in gradient.iter().enumerate() {
            let g = f64::from(g) * scale;
            self.first[i] = config.beta1 * self.first[i] + (1.0 - config.beta1) * g;
            self.second[i] = config.beta2 * self.second[i] + (1.0 - config.beta2) * g * g;
            let first = self.first[i] / (1.0 - config.beta1.powi(self.n_steps));
            let second = self.second[i] / (1.0 - config.beta2.powi(self.n_steps));
            self.values[i] -= rate * config.weight_decay * self.values[i];
            self.values[i] -= rate * first / (second.sqrt() + config.epsilon);
        }
    }
}

#[test]
fn lazy_rows_equal_dense_steps() {
    // Also second moments that fade before the first ones, or at once.
    for (beta1, beta2) in [(0.9, 0.999), (0.95, 0.9), (0.0, 0.0)] {
        check_lazy_rows(AdamWConfig {
            beta1,
            beta2,
            weight_decay: 0.1,
            ..AdamWConfig::default()
        });
    }
}

fn check_lazy_rows(config: AdamWConfig) {
    let (n_rows, width) = (30, 20);
    let engine = engine(2, Precision::F32, Simd::detect());
    let mut parameters = Parameters::new();
    let start = noise(n_rows * width, 1);
    let table = parameters
        .insert("table", &[n_rows, width], start.clone(), Kind::Table)
        .expect("a new name");
    let mut optimizer = AdamW::new(&parameters, config, &engine).expect("valid settings");
    let n = start.len();
    let mut dense = Dense {
        values: start.iter().map(|&x| f64::from(x)).collect(),
        first: vec![0.0; n],
        second: vec![0.0; n],
        n_steps: 0,
    };
    let compare = |found: &[f32], expected: &[f64]| {
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!(
                (f64::from(*a) - b).abs() < 2e-5,
                "{config:?}, row {}: {a} {b}",
                i / width
            );
        }
    };
    for step in 0..400u32 {
        // Row 0 always, row 1 often, others rarely, row 29 never; one step in the middle has a gradient everywhere.
        let ids: Vec<u32> = (0..29)
            .filter(|row| step % (1 + row * row / 2) == 0)
            .chain([0])
            .collect();
        let rows = embedding(&table, &ids).expect("known ids");
        for (&id, row) in ids.iter().zip(rows.to_vec2::<f32>().expect("rows")) {
            compare(&row, &dense.values[id as usize * width..][..width]);
        }
        let weights = noise(ids.len() * width, step);
        let weights = Tensor::from_vec(weights, (ids.len(), width), &Device::Cpu).expect("it fits");
        let mut loss = (rows * weights)
            .and_then(|product| product.sum_all())
            .expect("a sum");
        if step == 200 {
            let all = table
                .tensor()
                .and_then(|t| t.sqr()?.sum_all())
                .expect("a sum");
            loss = (loss + all).expect("a sum");
        }
        loss.backward().expect("a backward");
        let gradient = table.gradient().expect("it is read").expect("a gradient");
        let norm: f64 = gradient
            .iter()
            .map(|&g| f64::from(g).powi(2))
            .sum::<f64>()
            .sqrt();
        let rate = 1e-3 * (1.0 + f64::from(step % 7));
        let found = optimizer.step(rate, Some(3.0)).expect("a step");
        assert!((found - norm).abs() < 1e-4 * norm, "{found} {norm}");
        dense.step(&gradient, rate, &config, (3.0 / (norm + 1e-6)).min(1.0));
    }
    compare(&table.values().expect("it is read"), &dense.values);
}

#[test]
fn a_run_goes_on_bit_for_bit_from_its_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = engine(2, Precision::F32, Simd::detect());
    let step = |encoder: &Encoder, optimizer: &mut AdamW, seed: usize| {
        let texts = texts(encoder.architecture(), &[9 + seed, 3, 30]);
        let dropout = Dropout {
            hidden: 0.1,
            attention: 0.1,
            seed: 1,
            step: seed as u64,
            ..Dropout::NONE
        };
        loss(&encoder.forward(&texts, &dropout).expect("a forward"))
            .backward()
            .expect("a backward");
        optimizer.step(1e-3, Some(1.0)).expect("a step");
    };
    let values = |encoder: &Encoder| {
        encoder
            .parameters()
            .iter()
            .map(|p| p.values().expect("it is read"))
            .collect::<Vec<_>>()
    };
    let encoder = load("tiny-bert", &engine);
    let mut optimizer =
        AdamW::new(encoder.parameters(), AdamWConfig::default(), &engine).expect("valid settings");
    let unseen = load("tiny-bert", &engine);
    let mut unseen_optimizer =
        AdamW::new(unseen.parameters(), AdamWConfig::default(), &engine).expect("valid settings");
    for seed in 0..8 {
        step(&unseen, &mut unseen_optimizer, seed);
    }
    for seed in 0..5 {
        step(&encoder, &mut optimizer, seed);
    }
    let [weights, state] =
        ["model.safetensors", "optimizer.safetensors"].map(|name| folder.path().join(name));
    encoder.save(&weights).expect("a file");
    optimizer.save(&state).expect("a file");
    let saved = values(&encoder);
    for seed in 5..8 {
        step(&encoder, &mut optimizer, seed);
    }

    let config = testkit::fixture("models").join("tiny-bert/config.json");
    std::fs::copy(config, folder.path().join("config.json")).expect("a copy");
    let resumed = Encoder::load(folder.path(), &engine).expect("it loads");
    let mut optimizer =
        AdamW::new(resumed.parameters(), AdamWConfig::default(), &engine).expect("valid settings");
    optimizer.load(&state).expect("the state fits");
    assert_eq!(values(&resumed), saved);
    for seed in 5..8 {
        step(&resumed, &mut optimizer, seed);
    }
    assert_eq!(values(&encoder), values(&resumed));
    assert_eq!(values(&encoder), values(&unseen), "saving changes nothing");

    // A history that is as long, but of single numbers.
    let bytes = std::fs::read(&state).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let flat = tensors.iter().map(|(name, tensor)| {
        let shape = match name.ends_with(".history") {
            true => vec![tensor.shape().iter().product()],
            false => tensor.shape().to_vec(),
        };
        let view = safetensors::tensor::TensorView::new(tensor.dtype(), shape, tensor.data());
        (name.to_owned(), view.expect("as many values"))
    });
    let damaged = folder.path().join("damaged.safetensors");
    safetensors::serialize_to_file(flat, None, &damaged).expect("a file");
    let refused = optimizer.load(&damaged).expect_err("no pairs");
    assert!(
        refused.to_string().contains("history holds no pairs"),
        "{refused}"
    );

    let again = load("tiny-bert", &engine);
    again
        .parameters()
        .load(&weights)
        .expect("the same names and shapes");
    assert_eq!(values(&again), saved);

    let other = load("tiny-mpnet", &engine);
    assert!(matches!(
        other.parameters().load(&weights),
        Err(TrainingError::State { .. })
    ));
    let mut optimizer =
        AdamW::new(other.parameters(), AdamWConfig::default(), &engine).expect("valid settings");
    assert!(matches!(
        optimizer.load(&state),
        Err(TrainingError::State { .. })
    ));
    assert!(matches!(
        optimizer.load(Path::new("nothing")),
        Err(TrainingError::State { .. })
    ));
}
