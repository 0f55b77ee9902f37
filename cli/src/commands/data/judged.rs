//! A corpus, queries and judgments, as several commands take them.

use std::path::{Path, PathBuf};

use corpus::{RunFormat, Template};
use trainer::data::{
    CorpusSource, JudgedSource, Judgments, NegativeSource, PassageText, QuerySource,
};

use crate::failure::Failure;
use crate::model::named;

/// Where passages, queries and judgments are.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Data set")]
pub struct JudgedArgs {
    /// Data set in BEIR's layout, in place of `--corpus`, `--queries` and `--qrels`.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["corpus", "queries", "qrels"])]
    data: Option<PathBuf>,
    /// Split of `--data` [default: train].
    #[arg(long, value_name = "NAME", requires = "data")]
    split: Option<String>,
    #[command(flatten)]
    pub corpus: CorpusArgs,
    /// Queries: JSON lines, TSV, or a folder of token ids.
    #[arg(long, value_name = "FILE|DIR")]
    queries: Option<PathBuf>,
    /// Judgments: TREC, BEIR or two columns.
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,
    /// Lowest grade of a positive; lower ones above 0 are no negatives either [default: 1].
    #[arg(long, value_name = "N")]
    min_grade: Option<i32>,
    /// What is read of a query [default: `<text>`].
    #[arg(long, value_name = "TEMPLATE", value_parser = template)]
    query_template: Option<Template>,
}

/// Where passages are, and what is read of them.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Data set")]
pub struct CorpusArgs {
    /// Passages: JSON lines, TSV or CSV; SimLM's rows; a folder of token ids.
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    corpus: Vec<PathBuf>,
    /// Titles (RocketQA's `para.title.txt`) for a `--corpus` of texts alone.
    #[arg(long, value_name = "FILE", requires = "corpus")]
    titles: Option<PathBuf>,
    /// What is read of a passage [default: `<title> <text>`].
    #[arg(long, value_name = "TEMPLATE", value_parser = template)]
    passage_template: Option<Template>,
    /// Title and text as a pair of texts, in place of a template.
    #[arg(long, conflicts_with = "passage_template")]
    pair: bool,
    /// Count passages and queries that are named and not there, in place of ending at the first.
    #[arg(long)]
    pub skip_missing: bool,
}

/// Reads a template.
pub fn template(text: &str) -> Result<Template, String> {
    Template::parse(text).map_err(|error| error.to_string())
}

/// Where candidates for negatives are.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Negatives")]
pub struct CandidateArgs {
    /// Run whose results are the negatives.
    #[arg(long, value_name = "FILE", conflicts_with = "negatives")]
    run: Option<PathBuf>,
    /// Format of the run: auto, trec, score3, marco, marco4.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = named::<RunFormat>)]
    run_format: RunFormat,
    /// Results of a query at most, counted after its positives have left.
    #[arg(long, value_name = "N", requires = "run")]
    depth: Option<usize>,
    /// Lists of negatives: query, tab, passages separated by commas.
    #[arg(long, value_name = "FILE")]
    negatives: Option<PathBuf>,
}

impl CandidateArgs {
    pub fn resolve(self) -> Option<NegativeSource> {
        let run = self.run.map(|path| NegativeSource::Run {
            path,
            format: self.run_format,
            depth: self.depth,
        });
        run.or(self.negatives.map(NegativeSource::Lists))
    }
}

impl CandidateArgs {
    /// The arguments that were given.
    pub fn given(&self) -> Vec<&'static str> {
        given(&[
            ("--run", self.run.is_some()),
            ("--depth", self.depth.is_some()),
            ("--negatives", self.negatives.is_some()),
        ])
    }
}

/// The names of what was given.
pub fn given(arguments: &[(&'static str, bool)]) -> Vec<&'static str> {
    let given = arguments.iter().filter(|(_, is_given)| *is_given);
    given.map(|(name, _)| *name).collect()
}

impl CorpusArgs {
    /// The corpus; one of SimLM's has its ids by row.
    pub fn resolve(&self, by_row: bool) -> anyhow::Result<CorpusSource> {
        match (self.corpus.as_slice(), &self.titles) {
            ([], _) => Err(Failure::usage("name the passages with `--corpus`").into()),
            ([texts], Some(titles)) => Ok(CorpusSource::TextsAndTitles {
                texts: texts.clone(),
                titles: titles.clone(),
            }),
            (_, Some(_)) => Err(Failure::usage("`--titles` goes with one `--corpus`").into()),
            ([path], None) if by_row => Ok(CorpusSource::Rows(path.clone())),
            ([folder], None) if folder.is_dir() => Ok(CorpusSource::Tokens(folder.clone())),
            (_, None) if by_row => Err(Failure::usage("this format has one `--corpus`").into()),
            (paths, None) => Ok(CorpusSource::files(paths.to_vec())),
        }
    }

    /// What is read of a passage; `default` where nothing is said.
    pub fn passage(&self, default: PassageText) -> PassageText {
        match &self.passage_template {
            _ if self.pair => PassageText::Pair,
            Some(template) => PassageText::Template(template.clone()),
            None => default,
        }
    }
}

impl JudgedArgs {
    /// The arguments that were given.
    pub fn given(&self) -> Vec<&'static str> {
        let corpus = &self.corpus;
        given(&[
            ("--data", self.data.is_some()),
            ("--split", self.split.is_some()),
            ("--queries", self.queries.is_some()),
            ("--qrels", self.qrels.is_some()),
            ("--min-grade", self.min_grade.is_some()),
            ("--query-template", self.query_template.is_some()),
            ("--corpus", !corpus.corpus.is_empty()),
            ("--titles", corpus.titles.is_some()),
            ("--passage-template", corpus.passage_template.is_some()),
            ("--pair", corpus.pair),
            ("--skip-missing", corpus.skip_missing),
        ])
    }

    /// The data set, without negatives and scores.
    pub fn resolve(self) -> anyhow::Result<JudgedSource> {
        let passage = self.corpus.passage(PassageText::default());
        let skip_missing = self.corpus.skip_missing;
        let mut source = match (&self.data, self.queries, self.qrels) {
            (Some(folder), _, _) => {
                JudgedSource::beir(folder, self.split.as_deref().unwrap_or("train"))?
            }
            (None, Some(queries), Some(qrels)) => {
                let corpus = self.corpus.resolve(false)?;
                JudgedSource::new(corpus, queries_of(&queries), Judgments::qrels(&qrels))
            }
            _ => {
                let text = "give `--data`, or `--corpus`, `--queries` and `--qrels`";
                return Err(Failure::usage(text).into());
            }
        };
        if let (Judgments::Qrels { min_grade, .. }, Some(given)) =
            (&mut source.judgments, self.min_grade)
        {
            *min_grade = given;
        }
        Ok(JudgedSource {
            passage,
            query: self.query_template.unwrap_or(source.query),
            skip_missing,
            ..source
        })
    }
}

fn queries_of(path: &Path) -> QuerySource {
    if path.is_dir() {
        QuerySource::Tokens(path.to_owned())
    } else {
        QuerySource::File(path.to_owned())
    }
}
