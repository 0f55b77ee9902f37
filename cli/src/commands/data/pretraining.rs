//! What pre-training reads, made of a corpus.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use encoder::WordPieceConfig;
use serde_json::json;
use trainer::data::DataError;
use trainer::learn_word_pieces;
use trainer::masking::{DictionaryConfig, FrequencyDictionary, WordSource};
use trainer::spans::{
    BlockConfig, ClosingRule, CutError, DocumentSource, SpanConfig, write_blocks, write_span_pairs,
};

use super::reading::{TextsArgs, TokenizerArgs, remark_bad};
use super::write_lines;
use super::writing::write_lines_of;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;

/// Arguments of `trawl data word-pieces`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl data word-pieces corpus.jsonl.gz --out encoder
  trawl data word-pieces a.jsonl.zst b.tsv.gz --pieces 16384 --cased --out encoder

Writes tokenizer.json, tokenizer_config.json and vocab.txt. With a config.json of as many `vocab_size` beside them the folder is a
model with random weights for `trawl train`.")]
pub struct WordPiecesArgs {
    #[command(flatten)]
    reading: TextsArgs,
    /// Entries of the vocabulary, special tokens among them.
    #[arg(long, value_name = "N", default_value_t = 30_522, value_parser = clap::value_parser!(u32).range(256..))]
    pieces: u32,
    /// Tell capital letters and accents from plain ones.
    #[arg(long)]
    cased: bool,
    /// How often two pieces have to stand beside each other to become one.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    least_count: u64,
    /// Folder to write to, which has no tokenizer yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn word_pieces(args: WordPiecesArgs, output: &Output) -> anyhow::Result<()> {
    for name in ["tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
        let file = args.out.join(name);
        if file.exists() {
            return Err(Failure::usage(format!("`{}` exists", file.display())).into());
        }
    }
    let config = WordPieceConfig {
        n_pieces: args.pieces as usize,
        lower_case: !args.cased,
        least_count: args.least_count,
    };
    let n_threads = compute::thread_budget(args.reading.threads);
    let (corpus, template) = args.reading.corpus();
    let progress = Progress::new(output);
    let mut on_bytes = |done, total| progress.update("read", "bytes", done, total);
    let learned = learn_word_pieces(&corpus, &template, &config, n_threads, &mut on_bytes);
    progress.finish();
    let (learned, report) = learned?;
    remark_bad(report.n_bad, report.first_bad.as_deref(), output);
    let saved = learned.save(&args.out);
    saved.with_context(|| format!("cannot write to `{}`", args.out.display()))?;
    let value = json!({
        "texts": report.n_texts, "bad_lines": report.n_bad, "pieces": learned.n_pieces(), "out": args.out,
    });
    output.result(&value, |_| {
        format!(
            "{} pieces of {} texts written to {}; \"vocab_size\": {} belongs into config.json",
            learned.n_pieces(),
            report.n_texts,
            args.out.display(),
            learned.n_pieces()
        )
    })
}

/// Arguments of `trawl data frequency-dictionary`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl data frequency-dictionary marco.tsv.json --tokenizer bert-base-uncased --out frequency_dict.json
  trawl data frequency-dictionary --texts corpus.jsonl.gz --tokenizer all-MiniLM-L6-v2 --out frequency_dict.json

Files are MASTER's lines, `{\"text\": [token ids], …}`, or with `--texts` any corpus that trawl reads. Special tokens are no
words; a word keeps the `##` of its pieces, as in `cat##fish`.")]
pub struct FrequencyDictionaryArgs {
    #[command(flatten)]
    reading: TextsArgs,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// The files are corpora of texts.
    #[arg(long)]
    texts: bool,
    /// File to write: a JSON object of words and counts; `.gz` and `.zst` compress it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn frequency_dictionary(args: FrequencyDictionaryArgs, output: &Output) -> anyhow::Result<()> {
    let reading = args.reading;
    if !args.texts && (reading.columns.is_some() || reading.passage_template.is_some()) {
        let text = "`--columns` and `--passage-template` go with `--texts`";
        return Err(Failure::usage(text).into());
    }
    let tokenizer = args.tokenizer.load()?;
    let (skip_bad_lines, threads) = (reading.skip_bad_lines, reading.threads);
    let source = if args.texts {
        let (corpus, template) = reading.corpus();
        WordSource::Texts(corpus, template)
    } else {
        WordSource::Ids(reading.files)
    };
    let config = DictionaryConfig {
        source,
        skip_bad_lines,
        n_threads: compute::thread_budget(threads),
    };
    let progress = Progress::new(output);
    let mut on_bytes = |done, total| progress.update("count", "bytes", done, total);
    let counted = FrequencyDictionary::count(&config, &tokenizer, &mut on_bytes);
    progress.finish();
    let (dictionary, report) = counted?;
    remark_bad(report.n_bad, report.first_bad.as_deref(), output);
    write_lines(&args.out, |writer| dictionary.write(writer))?;
    let value = json!({
        "texts": report.n_texts, "empty_texts": report.n_empty, "bad_lines": report.n_bad, "words": report.n_words,
        "distinct_words": dictionary.len(), "out": args.out,
    });
    output.result(&value, |_| {
        format!(
            "{} different words, {} in all, of {} texts ({} empty) written to {}",
            dictionary.len(),
            report.n_words,
            report.n_texts,
            report.n_empty,
            args.out.display()
        )
    })
}

/// Arguments of `trawl data span-pairs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl data span-pairs corpus.jsonl --tokenizer all-MiniLM-L6-v2 --out spans.jsonl.zst
  trawl data span-pairs msmarco-docs.tsv.gz --columns id,url,title,text --skip-bad-lines \\
                        --tokenizer bert-base-uncased --out spans.jsonl.zst

A line is a document: `{\"spans\": [{\"anchor\", \"random_sampled\", \"nearby\", \"overlap\"}, …]}`, token ids without special
tokens. Documents of fewer than two spans are left out and counted.")]
pub struct SpanPairsArgs {
    #[command(flatten)]
    reading: TextsArgs,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// Tokens after which a span ends with its sentence.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Chance of a span to end after fewer tokens.
    #[arg(long, value_name = "P", default_value_t = 0.15)]
    short_probability: f64,
    /// How far apart the spans of a random pair may be.
    #[arg(long, value_name = "N", default_value_t = 100)]
    window: usize,
    /// Seed of the draws.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// File to write; `.gz` and `.zst` compress it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn span_pairs(args: SpanPairsArgs, output: &Output) -> anyhow::Result<()> {
    let tokenizer = args.tokenizer.load()?;
    let source = documents(args.reading);
    let config = SpanConfig {
        max_tokens: args.max_tokens,
        short_probability: args.short_probability,
        window: args.window,
        seed: args.seed,
    };
    let progress = Progress::new(output);
    let mut on_bytes = |done, total| progress.update("spans", "bytes", done, total);
    let write = |writer: &mut dyn Write| {
        write_span_pairs(&source, &config, &tokenizer, writer, &mut on_bytes)
    };
    let written = write_lines_of(&args.out, write, fault);
    progress.finish();
    let report = written?;
    remark_bad(report.n_bad, report.first_bad.as_deref(), output);
    let value = json!({
        "documents": report.n_documents, "short_documents": report.n_short, "bad_lines": report.n_bad,
        "spans": report.n_spans, "tokens": report.n_tokens, "seed": args.seed, "out": args.out,
    });
    output.result(&value, |_| {
        format!(
            "{} spans of {} documents written to {}; {} documents of fewer than two spans left out",
            report.n_spans,
            report.n_documents - report.n_short,
            args.out.display(),
            report.n_short
        )
    })
}

/// Arguments of `trawl data blocks`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl data blocks wikipedia.jsonl.zst --tokenizer bert-base-uncased --out blocks.jsonl.zst
  trawl data blocks lines.tsv --columns id,text --joined 1000 --tokenizer bert-base-uncased --out books.jsonl.zst
  trawl data blocks corpus.jsonl --rule condenser --tokenizer all-MiniLM-L6-v2 --out blocks.jsonl

A line is a block of whole sentences, `{\"text\": [token ids]}` without special tokens: what `trawl train` reads with
`data.corpus.format = \"master\"`. Without blocks training sees only the beginning, or one window, of a long document.")]
pub struct BlocksArgs {
    #[command(flatten)]
    reading: TextsArgs,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// When a block ends.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Rule::RetroMae)]
    rule: Rule,
    /// Tokens that training reads of a block, `[CLS]` and `[SEP]` among them [default: 512; condenser: 128].
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Chance of a block to end after fewer tokens [default: 0; condenser: 0.1].
    #[arg(long, value_name = "P")]
    short_probability: Option<f64>,
    /// Records that are read as one document, such as lines of a book.
    #[arg(long, value_name = "N", default_value_t = 1)]
    joined: usize,
    /// Seed of the draws.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// File to write; `.gz` and `.zst` compress it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// When a block of sentences ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Rule {
    /// With the sentence that brings it to its length, of which training does not read what is too much.
    RetroMae,
    /// Before the sentence that would make it too long.
    Condenser,
}

impl From<Rule> for ClosingRule {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::RetroMae => Self::RetroMae,
            Rule::Condenser => Self::Condenser,
        }
    }
}

pub fn blocks(args: BlocksArgs, output: &Output) -> anyhow::Result<()> {
    let tokenizer = args.tokenizer.load()?;
    let source = documents(args.reading);
    let own = BlockConfig::of(args.rule.into());
    let config = BlockConfig {
        max_tokens: args.max_tokens.unwrap_or(own.max_tokens),
        short_probability: args.short_probability.unwrap_or(own.short_probability),
        joined: args.joined,
        seed: args.seed,
        ..own
    };
    let progress = Progress::new(output);
    let mut on_bytes = |done, total| progress.update("blocks", "bytes", done, total);
    let write =
        |writer: &mut dyn Write| write_blocks(&source, &config, &tokenizer, writer, &mut on_bytes);
    let written = write_lines_of(&args.out, write, fault);
    progress.finish();
    let report = written?;
    remark_bad(report.n_bad, report.first_bad.as_deref(), output);
    let value = json!({
        "documents": report.n_documents, "empty_documents": report.n_empty, "bad_lines": report.n_bad,
        "blocks": report.n_blocks, "tokens": report.n_tokens, "long_blocks": report.n_long,
        "tokens_beyond": report.n_beyond, "config": config, "out": args.out,
    });
    output.result(&value, |_| {
        format!(
            "{} blocks of {} documents written to {}, {} tokens; {} blocks are longer than {} tokens, by {} in all; {} \
             documents without a token left out",
            report.n_blocks,
            report.n_documents - report.n_empty,
            args.out.display(),
            report.n_tokens,
            report.n_long,
            config.max_tokens,
            report.n_beyond,
            report.n_empty
        )
    })
}

/// The texts as documents to cut.
fn documents(reading: TextsArgs) -> DocumentSource {
    let n_threads = compute::thread_budget(reading.threads);
    let (corpus, template) = reading.corpus();
    DocumentSource {
        corpus,
        template,
        n_threads,
    }
}

/// Tells errors of the file that is written from others.
fn fault(error: CutError) -> Result<std::io::Error, DataError> {
    match error {
        CutError::Write(error) => Ok(error),
        CutError::Data(error) => Err(error),
    }
}
