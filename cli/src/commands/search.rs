use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use collection::{Collection, Manifest};
use corpus::{Qrels, QrelsFormat, Query, Run, Scored, check_query_id, check_run_id};
use encoder::Arithmetic;
use openapi::Ordered;
use retriever::{
    DirectEncoder, DirectReranker, FilterError, Fusion, Group, Grouping, Hit, Include, Mode,
    OpenConfig, QueryEncoder, QueryInput, Relation, RerankRequest, Reranker, Retriever,
    SearchError, SearchOptions, SearchRequest, SearchResponse, Total, Usage, Weights,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::documents;
use crate::failure::{Exit, Failure};
use crate::filter;
use crate::fusion::{FusionName, weights};
use crate::group::{GroupArgs, groups_table};
use crate::model::{self, ModelArgs};
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::query_vectors::{QueryVectorArgs, QueryVectors};
use crate::ranking::{RankingArgs, explained};

/// Queries encoded and searched together.
const BATCH: usize = 256;

/// Arguments of `trawl search`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl search data/docs \"why is the sky blue\" -k 5
  trawl search data/docs \"reset a password\" --hybrid --rerank trawl-reranker-small
  trawl search data/docs \"reset a password\" --hybrid --fusion weighted --weights 0.7,0.3
  trawl search data/docs \"reset a password\" --filter 'lang=en year>=2020' --filter 'lang!=de' --facets lang,year
  trawl search data/docs \"reset a password\" --filter '{\"should\": [{\"key\": \"lang\", \"match\": {\"any\": [\"en\", \"de\"]}}]}'
  trawl search data/docs \"reset a password\" --boost 'published:exp_decay origin=now scale=30d weight=0.2' --explain
  trawl search data/docs \"reset a password\" --score-threshold 0.4 --sort published:desc --pin 1:welcome
  trawl search data/books \"who sailed west\" --group-by document --group-size 3
  trawl search data/docs --queries queries.jsonl -k 100 --run-out run.trec
  trawl search data/docs --vectors queries.npy --ids queries.ids -k 100 --run-out run.trec")]
pub struct SearchArgs {
    /// Folder of the collection, or a bundle.
    collection: PathBuf,
    /// The query.
    #[arg(required_unless_present_any = ["queries", "vectors"], conflicts_with = "queries")]
    query: Option<String>,
    /// File of queries (JSON lines with `_id` and `text`, or TSV); needs `--run-out`.
    #[arg(long, value_name = "FILE", requires = "run_out")]
    queries: Option<PathBuf>,
    /// Judgments: only queries that occur in this file are searched.
    #[arg(long, value_name = "FILE", requires = "run_out")]
    qrels: Option<PathBuf>,
    /// TREC run to write.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["query", "facets", "explain"])]
    run_out: Option<PathBuf>,
    /// Leave the passage that has the id of the query out of the run, whose list is then one shorter.
    #[arg(long, requires = "run_out")]
    ignore_identical_ids: bool,
    /// Metadata fields whose values are counted in the passages that pass the filter: keyword, integer, boolean (separated by
    /// commas, may repeat).
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    facets: Vec<String>,
    #[command(flatten)]
    query_vectors: QueryVectorArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// How a collection is searched.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Search")]
pub struct HowArgs {
    /// Search the generation as it was built, without the documents written since.
    #[arg(long)]
    pub drop_live: bool,
    /// Hits to return.
    #[arg(short = 'k', long, default_value_t = 10, value_name = "N")]
    pub top_k: usize,
    /// BM25 in place of vectors; needs no model.
    #[arg(long, conflicts_with_all = ["hybrid", "exact", "ef"])]
    lexical: bool,
    /// Vectors and BM25, fused.
    #[arg(long)]
    hybrid: bool,
    /// How the two become one ranking: by ranks (`rrf`) or by scores between the worst and best of each (`weighted`).
    #[arg(long, value_name = "NAME", default_value = "rrf", requires = "hybrid")]
    fusion: FusionName,
    /// How much vectors and BM25 count.
    #[arg(long, value_name = "DENSE,BM25", default_value = "1,1", value_parser = weights, requires = "hybrid")]
    weights: Weights,
    /// The constant of `--fusion rrf`: a passage at rank r gains weight / (k + r) (default: 60).
    #[arg(long, value_name = "K", requires = "hybrid", value_parser = clap::value_parser!(u32).range(1..))]
    rrf_k: Option<u32>,
    /// Search only passages with such metadata: terms (`=`, `!=`, `<`, `<=`, `>`, `>=`; values with spaces in double quotes) that
    /// all hold, or the JSON filter of the HTTP API; may repeat, and all hold.
    #[arg(long, value_name = "EXPR")]
    filter: Vec<String>,
    /// Leave out hits with a lower score: that of the reranker where there is one, else the fused one or the source's.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    score_threshold: Option<f32>,
    #[command(flatten)]
    ranking: RankingArgs,
    #[command(flatten)]
    group: GroupArgs,
    /// Cross-encoder (directory or name) that reorders the first hits; `trawl-reranker-small` is in this binary.
    #[arg(long, value_name = "DIR|NAME")]
    pub rerank: Option<PathBuf>,
    /// Hits that the cross-encoder reads.
    #[arg(long, default_value_t = 100, value_name = "N", requires = "rerank")]
    rerank_candidates: usize,
    /// Search exhaustively even where an approximate index exists.
    #[arg(long)]
    exact: bool,
    /// Candidates that a walk through a graph keeps: more find more and take longer.
    #[arg(long, value_name = "N", conflicts_with = "exact")]
    ef: Option<usize>,
    /// Alias or generation to search.
    #[arg(long, default_value = "live", value_name = "NAME")]
    pub generation: String,
    /// Search without reading every byte of the generation first and comparing checksums: a changed byte can then show as a
    /// wrong answer.
    #[arg(long)]
    no_verify: bool,
}

impl HowArgs {
    /// The first hits by vector from the live generation, in the order of a reranker that reads 20.
    pub fn reranked(top_k: usize, reranker: &str) -> Self {
        Self {
            drop_live: false,
            top_k,
            lexical: false,
            hybrid: false,
            fusion: FusionName::Rrf,
            weights: Weights::default(),
            rrf_k: None,
            filter: Vec::new(),
            score_threshold: None,
            ranking: RankingArgs::default(),
            group: GroupArgs::default(),
            rerank: Some(reranker.into()),
            rerank_candidates: 20,
            exact: false,
            ef: None,
            generation: collection::LIVE.to_owned(),
            no_verify: false,
        }
    }

    /// Everything but the filter, which the fields of the collection decide.
    fn options(&self) -> anyhow::Result<SearchOptions> {
        if self.rrf_k.is_some() && self.fusion != FusionName::Rrf {
            let text = "--rrf-k has an effect with `--fusion rrf` only";
            return Err(Failure::usage(text).into());
        }
        let mode = match (self.lexical, self.hybrid) {
            (true, _) => Mode::Lexical,
            (_, true) => Mode::Hybrid(Fusion {
                method: self.fusion.method(self.rrf_k.unwrap_or(60)),
                weights: self.weights,
            }),
            _ => Mode::Dense,
        };
        let rerank = self.rerank.as_ref().map(|_| RerankRequest {
            candidates: self.rerank_candidates,
            timeout: None,
            on_timeout: retriever::OnTimeout::Fail,
        });
        let mut options = SearchOptions {
            mode,
            score_threshold: self.score_threshold,
            group: self.group.resolve(),
            top_k: self.top_k,
            rerank,
            exact: self.exact,
            ef: self.ef,
            ..SearchOptions::default()
        };
        self.ranking.apply(&mut options)?;
        Ok(options)
    }
}

/// A generation, the models that belong to it, and how to ask.
pub struct Session {
    pub retriever: Retriever,
    encoder: Box<dyn QueryEncoder>,
    reranker: Option<Box<dyn Reranker>>,
    pub options: SearchOptions,
    runtime: tokio::runtime::Runtime,
}

impl Session {
    /// Opens what `how` and `model` name. The encoder must be the one the generation was built with.
    pub fn open(collection: &Path, how: &HowArgs, model: &ModelArgs) -> anyhow::Result<Self> {
        Self::open_for(Asked::Texts, collection, how, model)
    }

    fn open_for(
        asked: Asked,
        collection: &Path,
        how: &HowArgs,
        model: &ModelArgs,
    ) -> anyhow::Result<Self> {
        let options = how.options()?; // What is wrong with it is told before anything is read.
        let context = || format!("cannot open collection `{}`", collection.display());
        let bundle = model::bundle(collection)?;
        let (mut model, mut rerank) = (model.clone(), how.rerank.clone());
        if let Some(bundle) = &bundle {
            model.model = model.model.or_else(|| bundle.encoder.clone());
            rerank = rerank.map(|name| bundle.model(&name));
        }
        let model = &model;
        let root = bundle
            .as_ref()
            .map_or(collection, |bundle| &bundle.collection);
        let files = Collection::open(root).with_context(context)?;
        let generation = files.resolve(&how.generation).with_context(context)?;
        let config = OpenConfig {
            verify: !how.no_verify,
            devices: model.kernel.devices()?,
        };
        let retriever = Retriever::open(generation, config).with_context(context)?;
        if !how.drop_live {
            documents::replay(&files, &retriever, model).with_context(context)?;
        }
        let filter = filter::resolve(&how.filter, &retriever)?;
        let options = SearchOptions { filter, ..options };
        retriever.check_fields(&options).map_err(placed)?;
        let encoder: Box<dyn QueryEncoder> = match (asked, options.mode) {
            (Asked::Vectors, _) | (_, Mode::Lexical) => Box::new(NoEncoder),
            (Asked::Texts, Mode::Dense | Mode::Hybrid(_)) => {
                let encoder = model::encoder_of(retriever.manifest(), model)?;
                Box::new(DirectEncoder(encoder))
            }
        };
        let reranker = match &rerank {
            None => None,
            Some(name) => {
                let reranker = DirectReranker(model::load_reranker(
                    name,
                    &model.encoder_config(Arithmetic::Auto)?,
                )?);
                Some(Box::new(reranker) as Box<dyn Reranker>)
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            retriever,
            encoder,
            reranker,
            options,
            runtime,
        })
    }

    /// Answers by document where documents were split into passages and no other grouping was asked for: judgments are of
    /// documents.
    pub fn by_document(mut self) -> Self {
        if self.retriever.splits_documents() && self.options.group.is_none() {
            self.options.group = Some(Grouping::default());
        }
        self
    }

    /// Answers one query text.
    pub fn search(&self, query: &str) -> anyhow::Result<SearchResponse> {
        let request = SearchRequest {
            query: QueryInput::Text(query.to_owned()),
            options: self.options.clone(),
        };
        let search = self
            .retriever
            .search(request, &*self.encoder, self.reranker.as_deref());
        Ok(self.runtime.block_on(search).map_err(placed)?)
    }

    /// Answers many queries with ids and scores only.
    fn search_many(&self, queries: Vec<QueryInput>) -> anyhow::Result<Vec<SearchResponse>> {
        let include = Include {
            text: false,
            metadata: false,
        };
        let options = SearchOptions {
            include,
            ..self.options.clone()
        };
        let search = self.retriever.search_batch(
            queries,
            &options,
            &*self.encoder,
            self.reranker.as_deref(),
        );
        Ok(self.runtime.block_on(search)?)
    }

    /// Searches every query and returns the run, which `run_out` is to hold where it is given.
    pub fn run(
        &self,
        queries: &[Query],
        run_out: Option<&Path>,
        output: &Output,
    ) -> anyhow::Result<Run> {
        let texts = queries.iter().map(|query| {
            let text = QueryInput::Text(query.text.clone());
            (query.id.clone(), text)
        });
        self.run_all(&texts.collect::<Vec<_>>(), run_out, output)
    }

    fn run_all(
        &self,
        queries: &[(String, QueryInput)],
        run_out: Option<&Path>,
        output: &Output,
    ) -> anyhow::Result<Run> {
        let progress = Progress::new(output);
        let is_by_score = self.options.sort.is_none() && self.options.pins.is_empty();
        let mut run = Run::new("trawl");
        progress.update("search", "queries", 0, queries.len() as u64);
        for (position, batch) in queries.chunks(BATCH).enumerate() {
            let inputs = batch.iter().map(|(_, input)| input.clone()).collect();
            for ((id, _), answer) in batch.iter().zip(self.search_many(inputs)?) {
                let hits = scored(run_hits(answer), is_by_score);
                if let Some(path) = run_out {
                    let mut ids = hits.iter().map(|hit| &hit.id);
                    ids.try_for_each(|id| check_run_id(id)).with_context(|| {
                        let path = path.display();
                        format!("cannot write the results of query `{id}` to run `{path}`")
                    })?;
                }
                run.insert(id.clone(), hits);
            }
            let done = (position * BATCH + batch.len()) as u64;
            progress.update("search", "queries", done, queries.len() as u64);
        }
        progress.finish();
        Ok(run)
    }
}

/// What queries are.
#[derive(Clone, Copy)]
enum Asked {
    Texts,
    Vectors,
}

/// The hits of an answer, or its groups as if they were hits: their best passage with id and score of the group.
fn run_hits(answer: SearchResponse) -> Vec<Hit> {
    let of_group = |mut group: Group| {
        let hit = (!group.hits.is_empty()).then(|| group.hits.swap_remove(0))?;
        Some(Hit {
            id: group.id,
            rank: group.rank,
            score: group.score,
            ..hit
        })
    };
    let groups = answer.groups.into_iter().filter_map(of_group);
    answer.hits.into_iter().chain(groups).collect()
}

/// The hits of an answer with scores that fall as their ranks rise: where they are ordered by a field, some are pinned, or boosts
/// left passages that they did not see behind lower scores, those are −1, −2, −3, ….
///
/// After reranking, the passages that the cross-encoder did not read follow those it did, but their scores are of the
/// first stage and may be higher. A run has one column of scores, and whoever reads it sorts by that: these passages
/// get the last reranked score less 1, 2, 3, ….
fn scored(hits: Vec<Hit>, is_by_score: bool) -> Vec<Scored> {
    let n_reranked = hits
        .iter()
        .take_while(|hit| hit.scores.rerank.is_some())
        .count();
    let last = hits[..n_reranked].last().map(|hit| f64::from(hit.score));
    let score = |position: usize, hit: &Hit| match last {
        Some(last) if position >= n_reranked => last - (position - n_reranked + 1) as f64,
        _ => f64::from(hit.score),
    };
    let mut scores: Vec<f64> = hits
        .iter()
        .enumerate()
        .map(|(position, hit)| score(position, hit))
        .collect();
    if !is_by_score || !scores.is_sorted_by(|a, b| a >= b) {
        scores = (1..=hits.len()).map(|rank| -(rank as f64)).collect();
    }
    let ids = hits.into_iter().map(|hit| hit.id);
    ids.zip(scores)
        .map(|(id, score)| Scored { id, score })
        .collect()
}

/// The place of a fault as the command line has it, where no list has a number: the entry of a boost, if its field does not say
/// it.
fn placed(error: SearchError) -> SearchError {
    let of_entry = |FilterError { pointer, fault }| {
        let entry = pointer.rsplit('/').next();
        let entry = entry.filter(|entry| ["origin", "scale", "offset", "weight"].contains(entry));
        let pointer = entry.unwrap_or_default().to_owned();
        FilterError { pointer, fault }
    };
    match error {
        SearchError::Facets(error) => SearchError::Facets(of_entry(error)),
        SearchError::Boosts(error) => SearchError::Boosts(of_entry(error)),
        SearchError::Sort(error) => SearchError::Sort(of_entry(error)),
        error => error,
    }
}

/// The run without passages that have the id of their query: where the queries are passages, each finds itself.
fn without_identical_ids(run: &Run) -> Run {
    let mut others = Run::new("trawl");
    for (query, hits) in run.queries() {
        let hits = hits.iter().filter(|hit| hit.id != query);
        others.insert(query, hits.cloned().collect());
    }
    others
}

pub fn run(args: SearchArgs, output: &Output) -> anyhow::Result<()> {
    if args
        .query
        .as_deref()
        .is_some_and(|query| query.trim().is_empty())
    {
        return Err(Failure::usage("the query is blank").into());
    }
    if let Some(path) = &args.run_out {
        output::check_folder(path)?;
    }
    let asked = match args.query_vectors.given() {
        true => Asked::Vectors,
        false => Asked::Texts,
    };
    let mut session = Session::open_for(asked, &args.collection, &args.how, &args.model)?;
    session.options.facets.clone_from(&args.facets);
    match (&args.query, &args.run_out) {
        (Some(query), _) => {
            let answer = session.search(query)?;
            show(&session.retriever, &answer, output)
        }
        (None, Some(run_out)) => {
            let queries = queries(&args, session.retriever.manifest())?;
            if queries.is_empty() {
                return Err(Failure::new(Exit::BadInput, "no query to search").into());
            }
            let start = Instant::now();
            let mut run = session.run_all(&queries, Some(run_out), output)?;
            if args.ignore_identical_ids {
                run = without_identical_ids(&run);
            }
            run.write(run_out)
                .with_context(|| format!("cannot write run `{}`", run_out.display()))?;
            let (n_queries, seconds) = (queries.len(), start.elapsed().as_secs_f64());
            let summary = json!({
                "queries": n_queries, "seconds": seconds, "run": run_out,
                "generation": session.retriever.generation().id.to_string(),
            });
            output.result(&summary, |_| {
                format!(
                    "{n_queries} queries in {seconds:.1} s, run written to {}",
                    run_out.display()
                )
            })
        }
        _ => Err(Failure::usage("give a query, or --queries with --run-out").into()),
    }
}

/// What `--json` prints of an answer.
#[derive(Serialize)]
struct Shown<'a> {
    results: &'a [Hit],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [Group],
    #[serde(skip_serializing_if = "Ordered::is_empty")]
    facets: Ordered<Ordered<u64>>,
    total: Total,
    degraded: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'static str>,
    exact: bool,
    usage: Usage,
    timing_ms: Value,
    generation: String,
    log_position: u64,
    model_fingerprint: &'a str,
}

/// Ids and queries of `--vectors` or `--queries`, those in `--qrels` alone; a run can hold all of the ids.
fn queries(args: &SearchArgs, manifest: &Manifest) -> anyhow::Result<Vec<(String, QueryInput)>> {
    let qrels = args.qrels.as_deref().map(|path| {
        Qrels::read(path, QrelsFormat::Auto)
            .with_context(|| format!("cannot read judgments `{}`", path.display()))
    });
    let qrels = qrels.transpose()?;
    let is_asked = |id: &str| qrels.as_ref().is_none_or(|qrels| qrels.get(id).is_some());
    let vectors = args.query_vectors.read(manifest.width, &manifest.metric)?;
    if let (Some(QueryVectors(rows)), Some(ids)) = (vectors, &args.query_vectors.ids) {
        let mut queries = Vec::new();
        for ((id, row), line) in rows.into_iter().zip(1..) {
            if is_asked(&id) {
                check_query_id(&id, ids, line)?;
                queries.push((id, QueryInput::Vector(row)));
            }
        }
        return Ok(queries);
    }
    let path = args.queries.as_deref();
    let path = path.ok_or_else(|| Failure::usage("give --queries or --vectors with --run-out"))?;
    let queries = corpus::read_queries(path)
        .with_context(|| format!("cannot read queries `{}`", path.display()))?;
    let asked = queries.into_iter().filter(|query| is_asked(&query.id));
    let text = |query: Query| -> anyhow::Result<_> {
        check_query_id(&query.id, path, query.line)?;
        Ok((query.id, QueryInput::Text(query.text)))
    };
    asked.map(text).collect()
}

/// Prints the answer to one query.
pub fn show(retriever: &Retriever, answer: &SearchResponse, output: &Output) -> anyhow::Result<()> {
    let timing = answer.timing;
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    let shown = Shown {
        results: &answer.hits,
        groups: &answer.groups,
        facets: server::write_facets(answer.facets.clone()),
        total: answer.total,
        degraded: &answer.degraded,
        plan: answer.plan.map(|plan| plan.as_str()),
        exact: answer.exact,
        usage: answer.usage,
        timing_ms: json!({
            "tokenize": ms(timing.tokenize), "encode": ms(timing.encode), "filter": ms(timing.filter),
            "search": ms(timing.search), "rerank": ms(timing.rerank), "fetch": ms(timing.fetch),
            "total": ms(timing.total),
        }),
        generation: retriever.generation().id.to_string(),
        log_position: answer.log_position,
        model_fingerprint: &retriever.manifest().fingerprint_digest,
    };
    output.result(&shown, |shown| {
        let mut text = match answer.groups.as_slice() {
            [] => hits_table(answer),
            groups => groups_table(groups),
        } + &of_how_many(answer);
        let of_groups = answer.groups.iter().flat_map(|group| &group.hits);
        text += &explained(answer.hits.iter().chain(of_groups));
        if !answer.degraded.is_empty() {
            text += &format!("left out: {}\n", answer.degraded.join(", "));
        }
        for (field, counts) in &shown.facets.0 {
            let counts = counts.0.iter().map(|(value, count)| format!("{value} {count}"));
            text += &format!("{field}: {}\n", counts.collect::<Vec<_>>().join(", "));
        }
        if answer.usage.truncated {
            text += "the query, or a reranked pair, was cut at the model's limit\n";
        }
        text + &format!(
            "tokenize {:.1} ms, encode {:.1} ms, filter {:.1} ms, search {:.1} ms, rerank {:.1} ms, total {:.1} ms\n",
            ms(timing.tokenize), ms(timing.encode), ms(timing.filter), ms(timing.search), ms(timing.rerank),
            ms(timing.total),
        )
    })
}

fn of_how_many(answer: &SearchResponse) -> String {
    let Total { value, relation } = answer.total;
    let least = match relation {
        Relation::Eq => "",
        Relation::Gte => "at least ",
    };
    let hits = answer.hits.iter().map(|hit| hit.pinned);
    let groups = answer.groups.iter().map(|group| group.pinned);
    // The ranking, which the total counts, need not have them.
    let pinned = match hits.chain(groups).filter(|&pinned| pinned).count() {
        0 => String::new(),
        n_pinned => format!(", {n_pinned} pinned"),
    };
    match answer.groups.len() {
        0 => format!("{} of {least}{value} passages{pinned}\n", answer.hits.len()),
        n_groups => format!("{n_groups} groups of {least}{value} passages{pinned}\n"),
    }
}

/// The hits of an answer as a table: rank, score, id, title and the beginning of the text.
pub fn hits_table(answer: &SearchResponse) -> String {
    let rows = answer.hits.iter().map(|hit| {
        let title = hit.title.clone().unwrap_or_default();
        let text = output::beginning(hit.text.as_deref().unwrap_or_default(), 160);
        vec![
            hit.rank.to_string(),
            format!("{:.4}", hit.score),
            hit.id.clone(),
            title,
            text,
        ]
    });
    output::table(
        &["rank", "score", "id", "title", "text"],
        &["rank", "score"],
        rows.collect(),
    )
}

/// Lexical search asks for no vectors.
struct NoEncoder;

impl QueryEncoder for NoEncoder {
    fn encode(
        &self,
        _: Vec<String>,
        _: Option<String>,
        _: retriever::Deadline,
    ) -> futures::future::BoxFuture<'_, Result<retriever::Encoded, retriever::ModelError>> {
        Box::pin(async { Ok(retriever::Encoded::default()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_keeps_the_order_of_an_answer_that_was_reranked_in_part() {
        let hit = |id: &str, score: f32, rerank: Option<f32>| Hit {
            ordinal: 0,
            id: id.to_owned(),
            rank: 0,
            score,
            scores: retriever::Scores {
                rerank,
                ..retriever::Scores::default()
            },
            explanation: None,
            pinned: false,
            document: None,
            title: None,
            text: None,
            metadata: None,
            highlights: Vec::new(),
        };
        let hits = vec![
            hit("a", 2.0, Some(2.0)),
            hit("b", -0.5, Some(-0.5)),
            hit("c", 0.9, None),
            hit("d", 0.8, None),
        ];
        let of = |hits, is_by_score| -> Vec<f64> {
            let scored = scored(hits, is_by_score).into_iter();
            scored.map(|hit| hit.score).collect()
        };
        assert_eq!(of(hits.clone(), false), [-1.0, -2.0, -3.0, -4.0]);
        assert_eq!(of(hits, true), [2.0, -0.5, -1.5, -2.5]);
        let plain = vec![hit("c", 0.9, None), hit("d", 0.8, None)];
        assert_eq!(of(plain, true), [f64::from(0.9f32), f64::from(0.8f32)]);
        let boosted_in_part = vec![hit("a", -1.0, None), hit("b", 0.9, None)];
        assert_eq!(of(boosted_in_part, true), [-1.0, -2.0]);
    }
}
