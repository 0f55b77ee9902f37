//! Tokens per second of the default model, tokenised texts in, vectors out.
//!
//! `cargo bench -p encoder [-- THREADS [BATCH_TOKENS [ARITHMETIC]]]` encodes the first 512 passages of the set `squad` in
//! `$TRAWL_DATA`, or without it as many made-up texts of 16 to 250 words, three times; the median counts.
//! It prints single queries of 1 to 20 words as well.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Instant;

use encoder::{BiEncoder, EncoderConfig, ModelOptions, Role, Text};
use flate2::read::MultiGzDecoder;

const N_TEXTS: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench"); // cargo's own
    let mut config = EncoderConfig::default();
    if let Some(threads) = arguments.next() {
        config.threads = threads.parse()?;
    }
    if let Some(batch_tokens) = arguments.next() {
        config.batch_tokens = batch_tokens.parse()?;
    }
    if let Some(arithmetic) = arguments.next() {
        config.arithmetic = serde_json::from_value(arithmetic.into())?;
    }
    let encoder = BiEncoder::load(&testkit::default_model(), &ModelOptions::default(), &config)?;

    let texts = texts()?;
    let texts: Vec<Text<'_>> = texts.iter().map(|text| Text::Single(text)).collect();
    let tokens = encoder.tokenize(Role::Passage, &texts)?;
    let (seconds, n_tokens) = median(3, || Ok(encoder.encode(&tokens)?.n_tokens))?;
    println!(
        "{} passages, {n_tokens} tokens, {} threads, groups of {}: {:.0} tokens/s, {:.1} passages/s",
        texts.len(),
        config.threads,
        config.batch_tokens,
        n_tokens as f64 / seconds,
        texts.len() as f64 / seconds,
    );
    let (seconds, _) = median(3, || Ok(encoder.tokenize(Role::Passage, &texts)?.len()))?;
    println!("tokenised at {:.0} tokens/s", n_tokens as f64 / seconds);

    let question = "how long does light take to reach us from the next star beyond the sun when nothing stands in between";
    for n_words in [1, 5, 8, 15, 20] {
        let words: Vec<&str> = question.split(' ').take(n_words).collect();
        let query = encoder.tokenize(Role::Query, &[words.join(" ").as_str().into()])?;
        let (seconds, _) = median(3001, || Ok(encoder.encode(&query)?.len()))?;
        println!(
            "one query of {} tokens: {:.3} ms",
            query[0].len(),
            seconds * 1e3
        );
    }
    Ok(())
}

/// Runs `work` once to warm up and `n` times, and returns the median of the seconds with the last result.
fn median(
    n: usize,
    work: impl Fn() -> Result<usize, Box<dyn Error>>,
) -> Result<(f64, usize), Box<dyn Error>> {
    let mut result = work()?;
    let mut seconds = Vec::with_capacity(n);
    for _ in 0..n {
        let start = Instant::now();
        result = work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok((seconds[n / 2], result))
}

/// Passages of a BEIR corpus, else words in a fixed pseudo-random order.
fn texts() -> Result<Vec<String>, Box<dyn Error>> {
    let Some(folder) = testkit::data_folder() else {
        let words = [
            "river", "stone", "market", "engine", "garden", "letter", "winter", "copper", "signal",
            "harbor",
        ];
        let word = |i: usize| words[(i * i + i / 7) % words.len()];
        let text = |i: usize| {
            (0..16 + i * 97 % 235)
                .map(|j| word(i + j))
                .collect::<Vec<_>>()
                .join(" ")
        };
        return Ok((0..N_TEXTS).map(text).collect());
    };
    let file = File::open(folder.join("squad/corpus.jsonl.gz"))?;
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
    lines
        .take(N_TEXTS)
        .map(|line| {
            let passage: serde_json::Value = serde_json::from_str(&line?)?;
            let field = |name: &str| passage[name].as_str().unwrap_or_default().to_owned();
            Ok(format!("{} {}", field("title"), field("text")))
        })
        .collect()
}
