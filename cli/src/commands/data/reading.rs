use std::path::PathBuf;

use anyhow::Context;
use corpus::{CorpusConfig, Template};
use encoder::TextTokenizer;

use super::judged::template;
use crate::model;
use crate::output::Output;

/// Texts of a corpus, or lines of them.
#[derive(Debug, clap::Args)]
pub struct TextsArgs {
    /// Files, read in this order; gzip and zstd are unpacked.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Names of the columns of a TSV or CSV corpus, in order (default: its first line).
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// What is read of a passage [default: `<title> <text>`].
    #[arg(long, value_name = "TEMPLATE", value_parser = template)]
    pub passage_template: Option<Template>,
    /// Count bad lines, in place of ending at the first.
    #[arg(long)]
    pub skip_bad_lines: bool,
    /// Threads [default: all].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

impl TextsArgs {
    /// The files as a corpus, and what is read of a passage.
    pub fn corpus(self) -> (CorpusConfig, Template) {
        let corpus = CorpusConfig {
            paths: self.files,
            columns: self.columns,
            skip_bad_lines: self.skip_bad_lines,
            ..CorpusConfig::default()
        };
        (corpus, self.passage_template.unwrap_or_default())
    }
}

/// The tokenizer of the model to be trained.
#[derive(Debug, clap::Args)]
pub struct TokenizerArgs {
    /// Model whose tokenizer is used: directory, or name in the model folder.
    #[arg(long, value_name = "DIR|NAME")]
    tokenizer: PathBuf,
}

impl TokenizerArgs {
    pub fn load(&self) -> anyhow::Result<TextTokenizer> {
        let folder = model::find_transformer(&self.tokenizer)?;
        TextTokenizer::load(&folder, false)
            .with_context(|| format!("cannot load the tokenizer of `{}`", folder.display()))
    }
}

/// Says how many bad lines were left out.
pub fn remark_bad(n_bad: u64, first: Option<&str>, output: &Output) {
    if let Some(first) = first {
        output.remark(format!("left out: {n_bad} bad lines, the first is {first}"));
    }
}
