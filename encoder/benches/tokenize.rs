//! Tokens per second of the default model's tokenizer on one thread: ours and the tokenizers crate, in turn.
//!
//! `cargo bench -p encoder --bench tokenize` reads the sample corpus, and the set `squad` as well when `$TRAWL_DATA` names the
//! folder of the sets; both truncate to the model's 256 tokens; five rounds, the median counts.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::time::Instant;

use encoder::{BiEncoder, EncoderConfig, ModelOptions, Role, Text};
use flate2::read::MultiGzDecoder;
use tokenizers::{Tokenizer, TruncationParams};

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let model = testkit::default_model();
    let config = EncoderConfig {
        threads: 1,
        ..Default::default()
    };
    let encoder = BiEncoder::load(&model, &ModelOptions::default(), &config)?;
    let mut tokenizer = Tokenizer::from_file(model.join("tokenizer.json")).map_err(message)?;
    tokenizer.with_padding(None);
    let truncation = TruncationParams {
        max_length: 256,
        ..Default::default()
    };
    tokenizer
        .with_truncation(Some(truncation))
        .map_err(message)?;

    let sample = File::open(testkit::fixture("sample/corpus.jsonl"))?;
    let mut corpora = vec![("sample", texts(sample)?)];
    if let Some(data) = testkit::data_folder() {
        let squad = File::open(data.join("squad/corpus.jsonl.gz"))?;
        corpora.push(("squad", texts(MultiGzDecoder::new(squad))?));
    }
    for (name, texts) in &corpora {
        let inputs: Vec<Text<'_>> = texts.iter().map(|text| Text::Single(text)).collect();
        let ours = || -> Result<usize, Box<dyn Error>> {
            let tokens = encoder.tokenize(Role::Passage, &inputs)?;
            Ok(tokens.iter().map(|tokens| tokens.len()).sum())
        };
        let reference = || -> Result<usize, Box<dyn Error>> {
            let count = |text: &String| {
                let encoding = tokenizer.encode_fast(text.as_str(), true);
                encoding.map(|encoding| encoding.len()).map_err(message)
            };
            texts.iter().map(count).sum()
        };
        let n_tokens = ours()?;
        assert_eq!(n_tokens, reference()?, "both make the same tokens");
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            rates[0].push(rate(n_tokens, ours)?);
            rates[1].push(rate(n_tokens, reference)?);
        }
        let [ours, reference] = rates.map(|mut rates: Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[ROUNDS / 2]
        });
        println!(
            "{name}: {} texts, {n_tokens} tokens: {:.2} M tokens/s, the crate {:.2} M tokens/s, {:.1} times",
            texts.len(),
            ours / 1e6,
            reference / 1e6,
            ours / reference,
        );
    }
    Ok(())
}

/// Repeats `work` for a quarter of a second at least.
fn rate(
    n_tokens: usize,
    work: impl Fn() -> Result<usize, Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed().as_secs_f64() < 0.25 {
        std::hint::black_box(work()?);
        n += n_tokens;
    }
    Ok(n as f64 / start.elapsed().as_secs_f64())
}

fn texts(corpus: impl Read) -> Result<Vec<String>, Box<dyn Error>> {
    let text = |line: std::io::Result<String>| {
        let passage: serde_json::Value = serde_json::from_str(&line?)?;
        let field = |name: &str| passage[name].as_str().unwrap_or_default().to_owned();
        Ok(format!("{} {}", field("title"), field("text")))
    };
    BufReader::new(corpus).lines().map(text).collect()
}

fn message(error: tokenizers::Error) -> Box<dyn Error> {
    error.to_string().into()
}
