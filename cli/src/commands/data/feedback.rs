use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use server::{LoggedEvent, LoggedFeedback, LoggedSearch, query_log_files};
use sha2::{Digest, Sha256};

use super::write_lines;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Arguments of `trawl data from-feedback`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl data from-feedback logs/queries.jsonl --collection docs --out data/clicks --min-clicks 2
  trawl mine --queries data/clicks/queries.jsonl --qrels data/clicks/qrels/train.tsv --corpus corpus.jsonl --run dense.trec --out train.jsonl

A click counts once for a search and a document. A judgment takes the place of clicks, and of judgments before it. Nothing is
corrected for where a document stood: people click what is on top, so clicks praise the ranking that they were made in.
The answer says how many clicks were made at each rank.")]
pub struct FromFeedbackArgs {
    /// Query logs of servers (`query_log.path`); the older files of each are read, too.
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// Collection whose feedback is read; needed where there is that of several.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Folder for `queries.jsonl` and `qrels/SPLIT.tsv`; with the `corpus.jsonl` beside them it is a data set in BEIR's layout.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the judgments.
    #[arg(long, value_name = "NAME", default_value = "train")]
    split: String,
    /// Clicks from which on a document is relevant to a query.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    min_clicks: u64,
    /// Grade of a document that was clicked and not judged.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    click_grade: i32,
}

pub fn run(args: FromFeedbackArgs, output: &Output) -> anyhow::Result<()> {
    if args.split.is_empty() || args.split.contains(['/', '\\']) {
        let text = format!("--split `{}` is no name of a file", args.split);
        return Err(Failure::usage(text).into());
    }
    let mut gathered = Gathered::default();
    for log in &args.logs {
        let failed = || format!("cannot read query log `{}`", log.display());
        for file in query_log_files(log).with_context(failed)? {
            gathered.read(&file).with_context(failed)?;
        }
    }
    let collection = gathered.collection(args.collection.as_deref())?;
    let judged = gathered.judge(&collection, args.min_clicks, args.click_grade);
    if let Some(id) = judged.unwritable.first() {
        let n_ids = judged.unwritable.len();
        output.remark(format!(
            "documents {UNWRITABLE} are left out: {n_ids}, {id:?} for one"
        ));
    }
    if judged.queries.is_empty() {
        let text = format!("no query of collection `{collection}` has a relevant document");
        let hint = format!("left out: {}", json!(judged.report.left_out));
        return Err(Failure::new(Exit::BadInput, text).hint(hint).into());
    }
    let queries = args.out.join("queries.jsonl");
    let qrels = args.out.join("qrels").join(format!("{}.tsv", args.split));
    write_lines(&queries, |writer| {
        for (id, query) in &judged.queries {
            let line = json!({"_id": id, "text": query.text});
            writeln!(writer, "{line}")?;
        }
        Ok(())
    })?;
    write_lines(&qrels, |writer| {
        writeln!(writer, "query-id\tcorpus-id\tscore")?;
        for (id, query) in &judged.queries {
            for (document, grade) in &query.grades {
                writeln!(writer, "{id}\t{}\t{grade}", quoted(document))?;
            }
        }
        Ok(())
    })?;
    let report = &judged.report;
    let summary =
        json!({"collection": collection, "queries": queries, "qrels": qrels, "report": report});
    output.result(&summary, |_| {
        let mut text = format!(
            "{} queries and {} judged documents from {} clicks and {} judgments; {} and {} written\n",
            report.n_queries, report.n_pairs, report.n_clicks, report.n_judgments, queries.display(), qrels.display()
        );
        let ranks = report.clicks_by_rank.iter();
        let ranks: Vec<String> = ranks.map(|(rank, n)| format!("{n} at {rank}")).collect();
        text += &format!("clicks by rank: {}", ranks.join(", "));
        if report.n_clicks_without_rank > 0 {
            text += &format!(", {} without a rank", report.n_clicks_without_rank);
        }
        text += "\n";
        for (reason, n) in &report.left_out {
            text += &format!("left out: {n} {reason}\n");
        }
        text
    })
}

/// What judgments, a line each with tabs between its fields, cannot hold.
const UNWRITABLE: &str = "with a tab or line feed in the id";

/// Quotes an identifier as BEIR's writer does.
fn quoted(id: &str) -> String {
    match id.contains('"') {
        true => format!("\"{}\"", id.replace('"', "\"\"")),
        false => id.to_owned(),
    }
}

/// Which search: who asked, the id of the request, the place in its batch.
type SearchKey = (Option<String>, String, usize);

/// A search that feedback may name.
#[derive(Debug, PartialEq)]
enum Known {
    Once(LoggedSearch),
    /// Callers choose ids of requests: one that stands for several queries stands for none.
    Ambiguous,
}

/// What was read of the logs.
#[derive(Default)]
struct Gathered {
    searches: HashMap<SearchKey, Known>,
    feedback: Vec<LoggedFeedback>,
    n_searches: u64,
    n_unreadable: u64,
}

/// Judgments of a collection.
struct Judged {
    /// By id, which the text makes.
    queries: BTreeMap<String, JudgedQuery>,
    /// Ids that cannot be written.
    unwritable: BTreeSet<String>,
    report: Report,
}

struct JudgedQuery {
    text: String,
    grades: BTreeMap<String, i32>,
}

/// What became of the feedback.
#[derive(Default, Serialize)]
struct Report {
    #[serde(rename = "searches")]
    n_searches: u64,
    /// Clicks that are behind a relevant document.
    #[serde(rename = "clicks")]
    n_clicks: u64,
    #[serde(rename = "judgments")]
    n_judgments: u64,
    #[serde(rename = "queries")]
    n_queries: usize,
    #[serde(rename = "pairs")]
    n_pairs: usize,
    clicks_by_rank: BTreeMap<usize, u64>,
    #[serde(rename = "clicks_without_rank")]
    n_clicks_without_rank: u64,
    left_out: BTreeMap<&'static str, u64>,
}

/// What was said of a document for a query.
#[derive(Default)]
struct Pair {
    /// Where each click was made.
    ranks: Vec<Option<usize>>,
    /// When, in which line, what.
    judgment: Option<(u64, usize, i32)>,
}

impl Gathered {
    fn read(&mut self, path: &Path) -> std::io::Result<()> {
        for line in BufReader::new(File::open(path)?).split(b'\n') {
            let line = line?;
            match serde_json::from_slice(&line) {
                Ok(LoggedEvent::Search(search)) => self.add(search),
                Ok(LoggedEvent::Feedback(feedback)) => self.feedback.push(feedback),
                // A server that was killed leaves a line without its end.
                Err(_) => self.n_unreadable += u64::from(!line.trim_ascii().is_empty()),
            }
        }
        Ok(())
    }

    fn add(&mut self, search: LoggedSearch) {
        self.n_searches += 1;
        let key = (search.key.clone(), search.request_id.clone(), search.place);
        match self.searches.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Known::Once(search));
            }
            Entry::Occupied(mut entry) => {
                let is_same = |known: &LoggedSearch| {
                    (&known.collection, &known.query) == (&search.collection, &search.query)
                };
                if !matches!(entry.get(), Known::Once(known) if is_same(known)) {
                    entry.insert(Known::Ambiguous);
                }
            }
        }
    }

    /// The collection asked for, or the one that there is feedback of.
    fn collection(&self, asked: Option<&str>) -> anyhow::Result<String> {
        let known: BTreeSet<&str> = self
            .feedback
            .iter()
            .map(|f| f.collection.as_str())
            .collect();
        let known: Vec<&str> = known.into_iter().collect();
        match (asked, known.as_slice()) {
            (Some(asked), _) => Ok(asked.to_owned()),
            (None, [one]) => Ok((*one).to_owned()),
            (None, []) => {
                Err(Failure::new(Exit::BadInput, "there is no feedback in the log").into())
            }
            (None, several) => {
                let text = format!(
                    "there is feedback of several collections: {}",
                    several.join(", ")
                );
                Err(Failure::usage(text)
                    .hint("name one with `--collection`")
                    .into())
            }
        }
    }

    fn judge(self, collection: &str, min_clicks: u64, click_grade: i32) -> Judged {
        let mut report = Report {
            n_searches: self.n_searches,
            ..Report::default()
        };
        let mut left_out = |reason, n: u64| {
            if n > 0 {
                *report.left_out.entry(reason).or_insert(0) += n;
            }
        };
        left_out("unreadable lines", self.n_unreadable);
        let mut pairs: BTreeMap<String, BTreeMap<String, Pair>> = BTreeMap::new();
        let mut clicked: BTreeSet<(SearchKey, String)> = BTreeSet::new();
        let mut unwritable = BTreeSet::new();
        for (line, given) in self.feedback.into_iter().enumerate() {
            if given.collection != collection {
                left_out("of other collections", 1);
                continue;
            }
            if given.id.contains(['\t', '\n']) {
                left_out(UNWRITABLE, 1);
                unwritable.insert(given.id);
                continue;
            }
            let key = given.request_id.map(|id| (given.key, id, given.place));
            let search = match key.as_ref().map(|key| self.searches.get(key)) {
                Some(Some(Known::Once(search))) if search.collection == collection => Some(search),
                Some(Some(Known::Ambiguous)) if given.query.is_none() => {
                    left_out("with the id of several searches", 1);
                    continue;
                }
                Some(_) if given.query.is_none() => {
                    left_out("of searches that are not in the log", 1);
                    continue;
                }
                _ => None,
            };
            let text = given.query.or_else(|| search?.query.clone());
            let Some(text) = text else {
                left_out("of searches without a text", 1);
                continue;
            };
            let text: Vec<&str> = text.split_whitespace().collect();
            let pair = pairs.entry(text.join(" ")).or_default();
            let pair = pair.entry(given.id.clone()).or_default();
            if let Some(grade) = given.grade {
                let judgment = (given.time_ms, line, grade);
                let last = pair.judgment.filter(|before| *before > judgment);
                let is_repeated = pair.judgment.is_some();
                left_out("judgments that another one replaces", is_repeated.into());
                pair.judgment = last.or(Some(judgment));
                continue;
            }
            if let Some(key) = key
                && !clicked.insert((key, given.id.clone()))
            {
                left_out("clicks that repeat", 1);
                continue;
            }
            let logged = || search?.results.iter().find(|hit| hit.id == given.id);
            pair.ranks
                .push(given.rank.or_else(|| logged().map(|hit| hit.rank)));
        }
        let mut queries = BTreeMap::new();
        for (text, pairs) in pairs {
            let mut grades = BTreeMap::new();
            let mut counted = Vec::new();
            for (document, pair) in pairs {
                let n_clicks = pair.ranks.len() as u64;
                match pair.judgment {
                    Some((_, _, grade)) => {
                        report.n_judgments += 1;
                        *report
                            .left_out
                            .entry("clicks on judged documents")
                            .or_insert(0) += n_clicks;
                        grades.insert(document, grade);
                    }
                    None if n_clicks >= min_clicks => {
                        counted.extend(pair.ranks);
                        grades.insert(document, click_grade);
                    }
                    None => {
                        *report
                            .left_out
                            .entry("clicks below --min-clicks")
                            .or_insert(0) += n_clicks
                    }
                }
            }
            if grades.values().all(|grade| *grade <= 0) {
                *report
                    .left_out
                    .entry("queries without a relevant document")
                    .or_insert(0) += 1;
                continue;
            }
            report.n_clicks += counted.len() as u64;
            for rank in counted {
                match rank {
                    Some(rank) => *report.clicks_by_rank.entry(rank).or_insert(0) += 1,
                    None => report.n_clicks_without_rank += 1,
                }
            }
            report.n_pairs += grades.len();
            queries.insert(query_id(&text), JudgedQuery { text, grades });
        }
        report.left_out.retain(|_, n| *n > 0);
        report.n_queries = queries.len();
        Judged {
            queries,
            unwritable,
            report,
        }
    }
}

/// The same for the same text, whenever and wherever it was searched for.
fn query_id(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use server::LoggedResult;

    use super::*;

    fn search(request_id: &str, query: Option<&str>) -> LoggedSearch {
        let results = ["a", "b", "c"].into_iter().zip(1..);
        LoggedSearch {
            time_ms: 1,
            request_id: request_id.to_owned(),
            place: 0,
            key: None,
            collection: "docs".to_owned(),
            generation: "g".to_owned(),
            query: query.map(str::to_owned),
            results: results
                .map(|(id, rank)| LoggedResult {
                    id: id.to_owned(),
                    rank,
                })
                .collect(),
        }
    }

    fn click(request_id: &str, id: &str) -> LoggedFeedback {
        LoggedFeedback {
            time_ms: 2,
            key: None,
            collection: "docs".to_owned(),
            request_id: Some(request_id.to_owned()),
            place: 0,
            query: None,
            id: id.to_owned(),
            grade: None,
            rank: None,
        }
    }

    fn judgment(time_ms: u64, query: &str, id: &str, grade: i32) -> LoggedFeedback {
        LoggedFeedback {
            time_ms,
            request_id: None,
            query: Some(query.to_owned()),
            grade: Some(grade),
            ..click("", id)
        }
    }

    fn judged(feedback: Vec<LoggedFeedback>, min_clicks: u64) -> Judged {
        let mut gathered = Gathered {
            feedback,
            ..Gathered::default()
        };
        for (request_id, query) in [
            ("r1", Some("the sea")),
            ("r2", Some(" the  sea ")),
            ("r3", Some("the sky")),
            ("r4", None),
            ("same", Some("the sea")),
            ("same", Some("the sky")),
        ] {
            gathered.add(search(request_id, query));
        }
        gathered.judge("docs", min_clicks, 1)
    }

    fn grades(judged: &Judged) -> Vec<(&str, Vec<(&str, i32)>)> {
        let mut queries: Vec<_> = judged.queries.values().collect();
        queries.sort_by(|a, b| a.text.cmp(&b.text));
        queries
            .into_iter()
            .map(|query| {
                let grades = query.grades.iter();
                let grades = grades.map(|(id, grade)| (id.as_str(), *grade));
                (query.text.as_str(), grades.collect())
            })
            .collect()
    }

    #[test]
    fn clicks_of_equal_queries_add_up_and_repeated_ones_do_not() {
        let feedback = vec![
            click("r1", "b"),
            click("r1", "b"),
            click("r2", "b"),
            click("r1", "z"),
            click("r3", "a"),
            click("r4", "a"),
            click("same", "a"),
            click("unknown", "a"),
            LoggedFeedback {
                key: Some("other".to_owned()),
                ..click("r1", "a")
            },
        ];
        let one = judged(feedback.clone(), 1);
        let expected = [
            ("the sea", vec![("b", 1), ("z", 1)]),
            ("the sky", vec![("a", 1)]),
        ];
        assert_eq!(grades(&one), expected);
        let ranks = [(1, 1), (2, 2)].into_iter().collect();
        assert_eq!(
            (&one.report.clicks_by_rank, one.report.n_clicks_without_rank),
            (&ranks, 1)
        );
        let left_out = [
            ("clicks that repeat", 1),
            ("of searches that are not in the log", 2),
            ("of searches without a text", 1),
            ("with the id of several searches", 1),
        ];
        assert_eq!(one.report.left_out, left_out.into_iter().collect());
        let two = judged(feedback, 2);
        assert_eq!(grades(&two), [("the sea", vec![("b", 1)])]);
        assert_eq!(two.report.left_out["clicks below --min-clicks"], 2);
    }

    #[test]
    fn the_last_judgment_counts_in_whatever_order_it_is_read() {
        let mut feedback = vec![
            judgment(5, "the sea", "a", 3),
            judgment(7, "the sea", "a", 0),
            judgment(6, "the sea", "a", 2),
            judgment(1, "the sea", "c", 2),
            click("r1", "a"),
            judgment(1, "glass", "a", 0),
        ];
        for _ in 0..2 {
            let found = judged(feedback.clone(), 1);
            assert_eq!(grades(&found), [("the sea", vec![("a", 0), ("c", 2)])]);
            let left_out = [
                ("clicks on judged documents", 1),
                ("judgments that another one replaces", 2),
                ("queries without a relevant document", 1),
            ];
            assert_eq!(found.report.left_out, left_out.into_iter().collect());
            feedback.reverse();
        }
    }

    #[test]
    fn documents_whose_id_no_judgments_can_hold_are_left_out() {
        let feedback = ["a", "a\tb", "a\nb", "a\nb"].map(|id| judgment(1, "the sea", id, 1));
        let found = judged(feedback.to_vec(), 1);
        assert_eq!(grades(&found), [("the sea", vec![("a", 1)])]);
        assert_eq!(found.report.left_out[UNWRITABLE], 3);
        let unwritable: Vec<&str> = found.unwritable.iter().map(String::as_str).collect();
        assert_eq!(unwritable, ["a\tb", "a\nb"]);
    }

    #[test]
    fn identifiers_are_quoted_where_they_have_to_be() {
        for (id, expected) in [("a b", "a b"), ("a\"b", "\"a\"\"b\"")] {
            assert_eq!(quoted(id), expected);
        }
    }
}
