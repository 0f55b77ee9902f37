use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;
use trainer::data::{
    DataSource, JudgedSource, Judgments, LineFormat, LineSource, NamedFormat, NamedSource,
    PassageText,
};

use super::judged::{self, CandidateArgs, JudgedArgs};
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `trawl data convert`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl data convert --from tevatron train.jsonl.gz --out native.jsonl.zst
  trawl data convert --from beir --data data/medquad --run bm25.trec --depth 200 --out native.jsonl
  trawl data convert --from beir --corpus para.txt --titles para.title.txt --queries train.query.txt \\
                     --qrels qrels.train.tsv --negatives train.negatives.tsv --out native.jsonl
  trawl data convert --from simlm train.jsonl --corpus passages.jsonl.gz --out native.jsonl
  trawl data convert --from retromae --corpus data/corpus --queries data/train_query \\
                     --qrels data/train_qrels.txt --negatives data/hard_negs.txt --out native.jsonl")]
pub struct ConvertArgs {
    /// Files of examples, for formats that have such.
    #[arg(value_name = "FILE")]
    inputs: Vec<PathBuf>,
    /// What the files hold.
    #[arg(long, value_enum, value_name = "FORMAT")]
    from: Format,
    /// File to write; `.gz` and `.zst` compress it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Count bad lines of examples, in place of ending at the first.
    #[arg(long)]
    skip_bad_lines: bool,
    #[command(flatten)]
    judged: JudgedArgs,
    #[command(flatten)]
    candidates: CandidateArgs,
    /// A teacher's scores: `query passage score` lines or TREC runs.
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Negatives")]
    scores: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// trawl's lines, to compress, check or join them.
    Native,
    /// OpenMatch's lines of token ids, or Tevatron's of texts: query, positives, negatives.
    Openmatch,
    /// OpenMatch's distillation lines: query, positive, negative, score.
    OpenmatchPairwise,
    /// OpenMatch's distillation lines: query, docs, scores.
    OpenmatchListwise,
    /// Tevatron: `positive_passages`, `negative_passages`.
    Tevatron,
    /// Tevatron: `positive_document_ids`, with `--corpus`.
    TevatronIds,
    /// FlagEmbedding: query, pos, neg.
    FlagEmbedding,
    /// sentence-transformers: columns anchor, positive, negatives, score; JSON lines, `.csv` or `.tsv`.
    SentenceTransformers,
    /// SimLM, with `--corpus passages.jsonl.gz`; passages are pairs of title and text unless a template is given.
    Simlm,
    /// A corpus, queries and judgments, with a run or lists of negatives.
    Beir,
    /// RetroMAE: as `beir`, with folders of token ids; one example a line of `--qrels`.
    Retromae,
}

impl Format {
    fn of_lines(self) -> Option<LineFormat> {
        Some(match self {
            Self::Native => LineFormat::Native,
            Self::Openmatch => LineFormat::Openmatch,
            Self::OpenmatchPairwise => LineFormat::OpenmatchPairwise,
            Self::OpenmatchListwise => LineFormat::OpenmatchListwise,
            Self::Tevatron => LineFormat::Tevatron,
            Self::FlagEmbedding => LineFormat::FlagEmbedding,
            Self::SentenceTransformers => LineFormat::SentenceTransformers,
            Self::TevatronIds | Self::Simlm | Self::Beir | Self::Retromae => return None,
        })
    }

    fn of_ids(self) -> Option<NamedFormat> {
        match self {
            Self::TevatronIds => Some(NamedFormat::TevatronIds),
            Self::Simlm => Some(NamedFormat::Simlm),
            _ => None,
        }
    }
}

impl ConvertArgs {
    /// Refuses arguments that say nothing of the format.
    fn check(&self) -> Result<(), Failure> {
        let own = judged::given(&[
            ("--skip-bad-lines", self.skip_bad_lines),
            ("--scores", !self.scores.is_empty()),
        ]);
        let given = [self.judged.given(), self.candidates.given(), own].concat();
        let text = ["--passage-template", "--pair"];
        let corpus = ["--corpus", "--titles", "--skip-missing"];
        let takes = |name: &str| match self.from {
            Format::Tevatron => text.contains(&name) || name == "--skip-bad-lines",
            Format::TevatronIds | Format::Simlm => text.contains(&name) || corpus.contains(&name),
            Format::Beir => name != "--skip-bad-lines",
            Format::Retromae => !["--skip-bad-lines", "--min-grade"].contains(&name),
            _ => name == "--skip-bad-lines",
        };
        let Some(strange) = given.into_iter().find(|name| !takes(name)) else {
            return Ok(());
        };
        let format = self.from.to_possible_value();
        let format = format.expect("no format is hidden");
        let name = format.get_name();
        let text = format!("`{strange}` says nothing of `--from {name}`");
        Err(Failure::usage(text))
    }

    fn resolve(self) -> anyhow::Result<DataSource> {
        self.check()?;
        let (lines, ids) = (self.from.of_lines(), self.from.of_ids());
        let takes_files = lines.is_some() || ids.is_some();
        if takes_files == self.inputs.is_empty() {
            let text = match takes_files {
                true => "name the files of examples",
                false => {
                    "this format has no files of examples; give `--data`, or `--corpus`, `--queries` and `--qrels`"
                }
            };
            return Err(Failure::usage(text).into());
        }
        let corpus = &self.judged.corpus;
        if let Some(format) = lines {
            return Ok(DataSource::Lines(LineSource {
                paths: self.inputs,
                format,
                passage: corpus.passage(PassageText::default()),
                skip_bad_lines: self.skip_bad_lines,
            }));
        }
        if let Some(format) = ids {
            let is_simlm = format == NamedFormat::Simlm;
            let default = match is_simlm {
                true => PassageText::Pair,
                false => PassageText::default(),
            };
            return Ok(DataSource::Named(NamedSource {
                paths: self.inputs,
                format,
                corpus: corpus.resolve(is_simlm)?,
                passage: corpus.passage(default),
                all_passages: false,
                skip_missing: corpus.skip_missing,
            }));
        }
        let mut source = JudgedSource {
            negatives: self.candidates.resolve(),
            scores: self.scores,
            ..self.judged.resolve()?
        };
        if let (Format::Retromae, Judgments::Qrels { path, .. }) = (self.from, &source.judgments) {
            source.judgments = Judgments::Lines(path.clone());
        }
        Ok(DataSource::Judged(Box::new(source)))
    }
}

pub fn run(args: ConvertArgs, output: &Output) -> anyhow::Result<()> {
    let out = args.out.clone();
    let dataset = super::read(&args.resolve()?, output)?;
    super::write_lines(&out, |writer| {
        dataset
            .examples()
            .try_for_each(|example| example.write(writer))
    })?;
    let report = dataset.report();
    output.result(&super::summary(report, json!({"out": out})), |_| {
        format!(
            "{} examples, {} positives, {} negatives written to {}",
            report.n_examples,
            report.n_positives,
            report.n_negatives,
            out.display()
        )
    })
}
