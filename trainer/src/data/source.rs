use std::path::{Path, PathBuf};

use corpus::Lines;
use serde::{Deserialize, Serialize};

use super::collection::OnProgress;
use super::columns::is_table;
use super::dataset::DatasetBuilder;
use super::{
    DataError, Dataset, Example, ExampleReader, JudgedSource, LineFormat, NamedSource, PassageText,
    parse_line,
};

/// Examples between two reports of progress.
const REPORT_EVERY: u64 = 1024;

/// Where training examples are read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSource {
    /// Lines that hold their texts.
    Lines(LineSource),
    /// Lines that name passages of a corpus.
    Named(NamedSource),
    /// A corpus, queries and judgments.
    Judged(Box<JudgedSource>),
}

/// Files whose lines hold their texts or token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineSource {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// Their format.
    #[serde(default)]
    pub format: LineFormat,
    /// What is read of passages that have title and text.
    #[serde(default)]
    pub passage: PassageText,
    /// Counts bad lines instead of ending at the first.
    #[serde(default)]
    pub skip_bad_lines: bool,
}

impl DataSource {
    /// Reads all examples, each passage once.
    ///
    /// # Errors
    /// Whatever is wrong with the files, with file and line.
    pub fn read(&self, on_progress: &mut OnProgress<'_>) -> Result<Dataset, DataError> {
        match self {
            Self::Lines(source) => source.read(on_progress),
            Self::Named(source) => source.read(on_progress),
            Self::Judged(source) => source.read(on_progress),
        }
    }

    /// Checks that a model of so many tokens knows all of a data set that was read from here.
    ///
    /// # Errors
    /// [`DataError::Token`]; [`DataError::Line`] where a line holds the token.
    pub fn check_tokens(&self, dataset: &Dataset, n_vocabulary: usize) -> Result<(), DataError> {
        let checked = dataset.check_tokens(n_vocabulary);
        match self {
            Self::Lines(source) => checked.map_err(|error| source.place_of(n_vocabulary, error)),
            _ => checked,
        }
    }
}

impl LineSource {
    /// The first file that is a table: it can be read, but not streamed, since its rows are no lines.
    pub fn table(&self) -> Option<&Path> {
        let mut paths = self.paths.iter().map(PathBuf::as_path);
        match self.format {
            LineFormat::SentenceTransformers => paths.find(|path| is_table(path)),
            _ => None,
        }
    }

    /// Lines of our own format.
    pub fn native(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            ..Self::default()
        }
    }

    /// Reads all examples.
    ///
    /// # Errors
    /// Bad lines unless they are skipped, files that cannot be read, no example at all.
    pub fn read(&self, on_progress: &mut OnProgress<'_>) -> Result<Dataset, DataError> {
        let mut builder = DatasetBuilder::default();
        let mut n_examples = 0;
        for path in &self.paths {
            let mut reader = ExampleReader::open(path, self.format, &self.passage)?;
            while let Some(example) = reader.next_example()? {
                match example {
                    Ok(example) => builder.push(example)?,
                    Err(error) if self.skip_bad_lines => {
                        builder.report.leave_out("bad lines", || error.to_string());
                    }
                    Err(error) => return Err(error),
                }
                n_examples += 1;
                if n_examples % REPORT_EVERY == 0 {
                    on_progress("examples", n_examples);
                }
            }
        }
        on_progress("examples", n_examples);
        let first = self.paths.first();
        builder.finish(first.map_or(Path::new(""), |path| path))
    }

    /// The first line with a token that a model does not know; without one, the error as it is.
    fn place_of(&self, n_vocabulary: usize, error: DataError) -> DataError {
        let is_in = |example: &Example| {
            let passages = example.positives.iter().chain(&example.negatives);
            let contents = passages.map(|passage| &passage.content);
            let mut contents = contents.chain([&example.query]);
            contents.any(|content| content.unknown_token(n_vocabulary).is_some())
        };
        for path in &self.paths {
            let Ok(mut lines) = Lines::open(path) else {
                continue;
            };
            while let Ok(Some((line, text))) = lines.next_line() {
                let example = parse_line(self.format, text, &self.passage);
                if example.is_ok_and(|example| is_in(&example)) {
                    return DataError::Line {
                        path: path.clone(),
                        line,
                        reason: error.to_string(),
                    };
                }
            }
        }
        error
    }
}
