use std::io;
use std::path::PathBuf;

use corpus::CorpusError;

/// Why training data cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A line of a file is not what the format asks for.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file of passages, queries, judgments or results cannot be used.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// A file or folder cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A cache of tokens cannot be opened.
    #[error(transparent)]
    Cache(#[from] index::OpenError),
    /// A cache of tokens cannot be written.
    #[error(transparent)]
    CacheWrite(#[from] index::WriteError),
    /// A folder does not hold what the format asks for.
    #[error("`{}`: {reason}", path.display())]
    Folder {
        /// The folder, or a file of it.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No example is left to train on.
    #[error("`{}` has no example", path.display())]
    Empty {
        /// The file or folder, the first of several.
        path: PathBuf,
    },
    /// A template names a field that no record has.
    #[error("template `{template}` names `{field}`, which no record of `{}` has", path.display())]
    Marker {
        /// The template.
        template: String,
        /// The field.
        field: String,
        /// The file, the first of several.
        path: PathBuf,
    },
    /// An example without a relevant passage.
    #[error("query `{query}` has no positive")]
    NoPositive {
        /// The query's id.
        query: String,
    },
    /// A group cannot be filled, for the data set has too few passages that are not relevant.
    #[error("a group of query `{query}` takes {needed} negatives, and there are {found}")]
    TooFewNegatives {
        /// The query's id.
        query: String,
        /// Negatives of a group.
        needed: usize,
        /// Negatives that there are, random passages of the data set included.
        found: usize,
    },
    /// Mining asks for more random passages than are neither relevant nor results.
    #[error(
        "query `{query}` has {found} passages that are neither relevant nor in the run, and `n_random` is {needed}"
    )]
    TooFewOthers {
        /// The query's id.
        query: String,
        /// `n_random`.
        needed: usize,
        /// Passages that there are.
        found: usize,
    },
    /// A passage without the teacher's score where one is needed.
    #[error("passage `{passage}` of query `{query}` has no teacher score")]
    Unscored {
        /// The query's id.
        query: String,
        /// The passage's id.
        passage: String,
    },
    /// A token id that the model does not know.
    #[error("{text} holds token {token}, and the model has {n_vocabulary} of them")]
    Token {
        /// Whose it is.
        text: String,
        /// The token.
        token: u32,
        /// Tokens of the model.
        n_vocabulary: usize,
    },
    /// Not BERT's tokenizer: whole words are told by its `##`, special tokens by their names.
    #[error("the tokenizer has no token `{token}`, and pre-training takes BERT's word pieces")]
    NotWordPieces {
        /// The token that is missing.
        token: &'static str,
    },
    /// A passage that the tokenizer cannot read.
    #[error("cannot tokenise passage `{passage}`: {reason}")]
    Tokenize {
        /// The passage's id.
        passage: String,
        /// What the tokenizer says.
        reason: String,
    },
    /// More passages than 32 bits number.
    #[error("more than 4294967295 passages")]
    TooManyPassages,
    /// A setting that cannot be.
    #[error("{name} is {value}; {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl DataError {
    /// Returns whether the contents of the input are to blame, rather than the machine or the caller.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Corpus(error) => error.is_bad_input(),
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Cache(_)
            | Self::CacheWrite(_)
            | Self::Setting { .. }
            | Self::NotWordPieces { .. } => false,
            _ => true,
        }
    }
}
