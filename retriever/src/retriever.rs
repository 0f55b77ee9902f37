use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use collection::{Generation, Manifest};
use compute::accelerator::SharedAccelerator;
use corpus::{Passage, Query, Schema, Template};
use index::{Bitmap, Neighbor, Plan, RowType, SearchParams, VectorIndex};
use serde::Deserialize;
use serde_json::Value;
use store::{LexicalHit, Store, View};

use crate::backend::{open_accelerated, open_index};
use crate::boost::{BoostStage, Scorer};
use crate::candidates::{Candidate, Candidates};
use crate::fingerprint::stride;
use crate::pin::{Pinned, pin};
use crate::selection::Selection;
use crate::{
    BackendError, BackendRequest, Deadline, Encoded, Fragment, Hit, InMilvus, InProcess, Live,
    Milvus, Mode, ModelError, OnTimeout, OpenError, QueryEncoder, QueryInput, RerankRequest,
    Reranker, RowForm, SearchBackend, SearchError, SearchOptions, SearchRequest, SearchResponse,
    TextField, Timing, Usage,
};

/// How a generation is opened.
#[derive(Clone, Debug)]
pub struct OpenConfig {
    /// Reads every byte and compares checksums, as is the default; without it only headers and lengths are checked, and a changed
    /// byte can show as a wrong answer.
    pub verify: bool,
    /// Devices that hold the vectors and search them, exactly; without any, the host does.
    pub devices: Vec<SharedAccelerator>,
}

impl Default for OpenConfig {
    fn default() -> Self {
        Self {
            verify: true,
            devices: Vec::new(),
        }
    }
}

/// One generation of a collection, open for reading.
///
/// Cheap to share: searches take `&self`, and any number may run at once.
pub struct Retriever {
    generation: Generation,
    backend: Box<dyn SearchBackend>,
    store: Arc<Store>,
    schema: Arc<Schema>,
    query_template: Template,
    passage_template: Template,
    row_form: RowForm,
    live: RwLock<Arc<Live>>,
}

impl Retriever {
    /// Opens the vectors and texts of a generation.
    ///
    /// # Errors
    /// [`OpenError`] when a part is missing or damaged, or when the parts do not belong together.
    pub fn open(generation: Generation, config: OpenConfig) -> Result<Self, OpenError> {
        let of_index = match config.verify {
            true => index::Verify::Checksums,
            false => index::Verify::Header,
        };
        Self::open_with(generation, config, of_index, |_, index| {
            Ok(Box::new(InProcess::new(index)))
        })
    }

    /// Opens the texts of a generation whose vectors are searched by a Milvus cluster. The vectors here are mapped, not read: they
    /// answer what a graph cannot, searches that are to be exact or may find few passages only. Devices get none of them.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Milvus`] when the cluster does not hold this generation.
    pub fn open_in_milvus(
        generation: Generation,
        config: OpenConfig,
        milvus: &Milvus,
    ) -> Result<Self, OpenError> {
        let config = OpenConfig {
            devices: Vec::new(),
            ..config
        };
        Self::open_with(
            generation,
            config,
            index::Verify::Header,
            |generation, index| {
                let name = generation.id.to_string();
                let backend = InMilvus::open(milvus, generation, index);
                let backend = backend.map_err(|source| OpenError::Milvus {
                    generation: name,
                    source,
                })?;
                Ok(Box::new(backend))
            },
        )
    }

    fn open_with(
        generation: Generation,
        config: OpenConfig,
        of_index: index::Verify,
        backend: impl FnOnce(
            &Generation,
            Arc<dyn VectorIndex>,
        ) -> Result<Box<dyn SearchBackend>, OpenError>,
    ) -> Result<Self, OpenError> {
        let name = generation.id.to_string();
        let manifest = &generation.manifest;
        let of_store = match config.verify {
            true => store::Verify::Checksums,
            false => store::Verify::Header,
        };
        let opened = if config.devices.is_empty() {
            open_index(&generation, of_index)
        } else {
            open_accelerated(&generation, of_index, &config.devices)
        };
        let index = opened.map_err(|source| OpenError::Index {
            generation: name.clone(),
            source,
        })?;
        let store = Store::open(&generation.path, of_store).map_err(|source| OpenError::Store {
            generation: name.clone(),
            source,
        })?;
        let expected = manifest.counts.passages;
        for (part, found) in [("index", index.len() as u64), ("store", store.len() as u64)] {
            if found != expected {
                return Err(OpenError::Count {
                    generation: name,
                    part,
                    expected,
                    found,
                });
            }
        }
        let (expected, found) = (
            manifest.counts.documents,
            store.n_documents().map_or(0, u64::from),
        );
        if found != expected {
            return Err(OpenError::Documents {
                generation: name,
                expected,
                found,
            });
        }
        let template = |text: &str| {
            Template::parse(text).map_err(|source| OpenError::Template {
                generation: name.clone(),
                source,
            })
        };
        let query_template = template(&manifest.templates.query)?;
        let passage_template = template(&manifest.templates.passage)?;
        let schema = match &manifest.schema {
            Value::Null => Schema::default(),
            schema => Schema::deserialize(schema).map_err(|source| OpenError::Schema {
                generation: name.clone(),
                source,
            })?,
        };
        let row_form = RowForm {
            width: index.width(),
            metric: index.metric(),
            row_type: row_type(manifest),
        };
        let (store, schema) = (Arc::new(store), Arc::new(schema));
        let view = View::new(Arc::clone(&store), Arc::clone(&schema));
        let live = Live::new(view, row_form, manifest.log_position);
        let backend = backend(&generation, index)?;
        Ok(Self {
            generation,
            backend,
            store,
            schema,
            query_template,
            passage_template,
            row_form,
            live: RwLock::new(Arc::new(live)),
        })
    }

    /// The generation that answers.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.generation.manifest
    }

    /// Its texts.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether documents are split into passages, those that are written later, too.
    #[must_use]
    pub fn splits_documents(&self) -> bool {
        stride(&self.manifest().fingerprint["passage"]).is_some()
    }

    /// How its vectors are stored and compared.
    #[must_use]
    pub fn row_form(&self) -> RowForm {
        self.row_form
    }

    /// What searches that begin now will see.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The generation as it was built, with the changes up to `start` left out.
    #[must_use]
    pub fn without_changes(&self, start: u64) -> Live {
        let view = View::new(Arc::clone(&self.store), Arc::clone(&self.schema));
        Live::new(view, self.row_form, start)
    }

    /// Makes searches that begin from here on see other changes, unless others, who were faster, have shown later ones: what
    /// searches see never goes back.
    pub fn set_live(&self, live: Live) {
        let mut shown = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if (live.start(), live.position()) >= (shown.start(), shown.position()) {
            *shown = Arc::new(live);
        }
    }

    /// The metadata fields, by which a filter may select.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Values of one row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.backend.width()
    }

    /// Whether the vectors are searched on other machines.
    #[must_use]
    pub fn searches_remotely(&self) -> bool {
        self.backend.is_remote()
    }

    /// Answers one search.
    ///
    /// # Errors
    /// [`SearchError`]; a passed deadline is an error unless only reranking was left out.
    pub async fn search(
        &self,
        request: SearchRequest,
        encoder: &dyn QueryEncoder,
        reranker: Option<&dyn Reranker>,
    ) -> Result<SearchResponse, SearchError> {
        let mut answers = self
            .search_batch(vec![request.query], &request.options, encoder, reranker)
            .await?;
        answers.pop().ok_or(SearchError::Stopped)
    }

    /// Answers many searches with equal options, in the order given: queries are encoded and searched together.
    ///
    /// # Errors
    /// The first [`SearchError`] of any of them; a batch is all texts or all vectors.
    pub async fn search_batch(
        &self,
        queries: Vec<QueryInput>,
        options: &SearchOptions,
        encoder: &dyn QueryEncoder,
        reranker: Option<&dyn Reranker>,
    ) -> Result<Vec<SearchResponse>, SearchError> {
        let start = Instant::now();
        let live = self.live();
        self.check(&queries, options, reranker)?;
        let scorers = Scorer::resolve(&options.boosts, &self.schema);
        let within = Within {
            scorers: scorers.map_err(SearchError::Boosts)?,
            selection: Selection::make(&live, options).await?,
            live,
        };
        let filter_time = start.elapsed();
        let mut answers = match &options.group {
            Some(grouping) => {
                let groups =
                    self.search_groups(&within, queries, options, grouping, encoder, reranker);
                groups.await?
            }
            None => {
                self.search_within(&within, queries, options, encoder, reranker)
                    .await?
            }
        };
        for answer in &mut answers {
            answer.timing.filter = filter_time;
            answer.timing.total = start.elapsed();
        }
        Ok(answers)
    }

    /// Checks that fields of boosts and order are there and of the right kind, as every search does.
    ///
    /// # Errors
    /// [`SearchError::Boosts`], [`SearchError::Sort`].
    pub fn check_fields(&self, options: &SearchOptions) -> Result<(), SearchError> {
        Scorer::resolve(&options.boosts, &self.schema).map_err(SearchError::Boosts)?;
        let sort = options.sort.as_ref();
        sort.map_or(Ok(()), |sort| sort.check(&self.schema))
            .map_err(SearchError::Sort)
    }

    /// Ranks the passages that pass the filter.
    pub(crate) async fn search_within(
        &self,
        within: &Within<'_>,
        queries: Vec<QueryInput>,
        options: &SearchOptions,
        encoder: &dyn QueryEncoder,
        reranker: Option<&dyn Reranker>,
    ) -> Result<Vec<SearchResponse>, SearchError> {
        let Within {
            live,
            selection,
            scorers,
        } = within;
        let n_queries = queries.len();
        let (texts, vectors) = split(queries)?;

        // Passages that are pinned elsewhere leave their places in the page to others.
        let page_end = options.offset.saturating_add(options.top_k);
        let page_end = page_end.saturating_add(options.pins.len());
        let to_rerank = options.rerank.map_or(0, |rerank| rerank.candidates);
        let to_order = match scorers.is_empty() && options.sort.is_none() {
            true => 0,
            false => options.rank_window,
        };
        let to_fuse = match options.mode {
            Mode::Hybrid(_) => options.candidates,
            Mode::Dense | Mode::Lexical => 0,
        };
        let depth = page_end.max(to_rerank).max(to_order).max(to_fuse);
        let pinned = Pinned::find(&options.pins, live.view(), selection.passages.as_deref())?;

        let encoded = match (&texts, options.mode) {
            (_, Mode::Lexical) => Encoded::default(),
            (Some(texts), _) => {
                let rendered = texts.iter().map(|text| self.render_query(text)).collect();
                let encoded = encoder.encode(rendered, options.prompt.clone(), options.deadline);
                encoded.await.map_err(SearchError::Encode)?
            }
            (None, _) => Encoded {
                values: vectors,
                ..Encoded::default()
            },
        };
        self.check_vectors(&encoded.values, n_queries, options.mode)?;
        if options.deadline.expired() {
            return Err(SearchError::DeadlineExceeded { step: "search" });
        }

        let search_start = Instant::now();
        let params = SearchParams {
            exact: options.exact,
            ef: options.ef,
            ..SearchParams::default()
        };
        let (dense, plan) = match options.mode {
            Mode::Lexical => (vec![Vec::new(); n_queries], None),
            Mode::Dense | Mode::Hybrid(_) => {
                let filter = live.of_generation(selection.passages.as_ref());
                let plan = self.backend.plan(depth, filter.as_deref(), &params);
                let passages = selection.passages.clone();
                let request = BackendRequest {
                    queries: encoded.values,
                    k: depth,
                    passages,
                    filter: options.filter.clone(),
                    params,
                    deadline: options.deadline,
                };
                let lists = self.search_dense(live, request).await?;
                (lists, Some(plan))
            }
        };
        let lexical = match (&texts, options.mode) {
            (Some(texts), Mode::Lexical | Mode::Hybrid(_)) => {
                let filter = selection.passages.clone();
                search_lexical(live, texts.clone(), depth, filter, options.deadline).await?
            }
            _ => vec![Vec::new(); n_queries],
        };
        let n_passages = selection.n_passages;
        let mut found: Vec<Candidates> = dense
            .iter()
            .zip(&lexical)
            .map(|(dense, lexical)| {
                Candidates::first_stage(options.mode, dense, lexical, depth, n_passages)
            })
            .collect();
        for found in &mut found {
            found.boost(
                scorers,
                BoostStage::Retrieval,
                options.rank_window,
                live.view(),
            )?;
        }
        let mut timing = Timing {
            queue: encoded.queue,
            tokenize: encoded.tokenize,
            encode: encoded.compute,
            search: search_start.elapsed(),
            ..Timing::default()
        };
        let mut usage = vec![Usage::default(); n_queries];
        for (usage, length) in usage.iter_mut().zip(&encoded.lengths) {
            usage.query_tokens = length.n_tokens;
            usage.truncated = length.truncated;
        }

        let mut degraded = vec![Vec::new(); n_queries];
        if let (Some(rerank), Some(reranker), Some(texts)) = (options.rerank, reranker, &texts) {
            let rerank_start = Instant::now();
            let outcomes = degraded.iter_mut().zip(&mut usage);
            for ((found, text), (degraded, usage)) in found.iter_mut().zip(texts).zip(outcomes) {
                let outcome = self
                    .rerank(
                        live.view(),
                        &mut found.list,
                        text,
                        rerank,
                        options.deadline,
                        reranker,
                    )
                    .await?;
                match outcome {
                    Some((n_tokens, truncated)) => {
                        found.boost(scorers, BoostStage::Rerank, 0, live.view())?;
                        usage.rerank_tokens += n_tokens;
                        usage.truncated |= truncated;
                    }
                    None => degraded.push("rerank_skipped"),
                }
            }
            timing.rerank = rerank_start.elapsed();
        }

        let fetch_start = Instant::now();
        let mut answers = Vec::with_capacity(n_queries);
        let outcomes = degraded.into_iter().zip(usage).enumerate();
        for (mut found, (query, (mut degraded, usage))) in found.into_iter().zip(outcomes) {
            let text = texts.as_ref().map(|texts| texts[query].as_str());
            match options.score_threshold {
                Some(_) if degraded.contains(&"rerank_skipped") => {
                    degraded.push("score_threshold_skipped");
                }
                Some(threshold) => found.keep_above(threshold, options.rerank.is_some()),
                None => {}
            }
            if let Some(sort) = &options.sort {
                found.sort(sort, options.rank_window, live.view())?;
            }
            pin(&pinned, &mut found.list);
            let hits = page(live.view(), &found.list, options, text)?;
            let exact = options.mode == Mode::Dense && plan.is_some_and(Plan::is_exact);
            answers.push(SearchResponse {
                hits,
                groups: Vec::new(),
                total: found.total,
                facets: selection.facets.clone(),
                timing,
                usage,
                degraded,
                plan,
                exact,
                log_position: live.position(),
            });
        }
        timing.fetch = fetch_start.elapsed();
        for answer in &mut answers {
            answer.timing = timing;
        }
        Ok(answers)
    }

    /// The text the cross-encoder reads of a passage: the template the index was built with.
    #[must_use]
    pub fn render_passage(&self, passage: &Passage) -> String {
        self.passage_template.render(passage).text
    }

    fn render_query(&self, text: &str) -> String {
        let query = Query {
            text: text.to_owned(),
            ..Query::default()
        };
        self.query_template.render_query(&query).text
    }

    fn check(
        &self,
        queries: &[QueryInput],
        options: &SearchOptions,
        reranker: Option<&dyn Reranker>,
    ) -> Result<(), SearchError> {
        let n_texts = queries.iter().filter_map(QueryInput::text).count();
        if n_texts > 0 && n_texts < queries.len() {
            return Err(SearchError::MixedBatch);
        }
        let by_vector = n_texts < queries.len();
        if by_vector {
            let mode = match options.mode {
                Mode::Lexical => Some("lexical"),
                Mode::Hybrid(_) => Some("hybrid"),
                Mode::Dense => options.rerank.map(|_| "reranked"),
            };
            if let Some(mode) = mode {
                return Err(SearchError::TextNeeded { mode });
            }
        }
        if let Mode::Hybrid(fusion) = options.mode
            && !fusion.weights.are_valid()
        {
            return Err(SearchError::Weights(fusion.weights));
        }
        if options.highlight.is_some() && by_vector {
            return Err(SearchError::TextNeeded {
                mode: "highlighted",
            });
        }
        if options.rerank.is_some() && reranker.is_none() {
            return Err(SearchError::NoReranker);
        }
        if let Some(sort) = &options.sort {
            sort.check(&self.schema).map_err(SearchError::Sort)?;
        }
        Ok(())
    }

    fn check_vectors(
        &self,
        values: &[f32],
        n_queries: usize,
        mode: Mode,
    ) -> Result<(), SearchError> {
        if mode == Mode::Lexical {
            return Ok(());
        }
        let expected = self.width();
        if values.len() != n_queries * expected {
            return Err(SearchError::Width {
                given: values.len() / n_queries.max(1),
                expected,
            });
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(position) => Err(SearchError::NotFinite {
                position: position % expected,
            }),
            None => Ok(()),
        }
    }

    async fn search_dense(
        &self,
        live: &Arc<Live>,
        mut request: BackendRequest,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        let added = (!live.has_no_rows()).then(|| request.queries.clone());
        let (depth, passages) = (request.k, request.passages.take());
        let deadline = request.deadline;
        request.passages = live.of_generation(passages.as_ref());
        let lists = self.backend.search(request).await;
        let lists: Result<Vec<Vec<Neighbor>>, BackendError> = lists.into_iter().collect();
        let mut lists = lists.map_err(SearchError::Backend)?;
        if let Some(queries) = added {
            let live = Arc::clone(live);
            let task = tokio::task::spawn_blocking(move || {
                live.search(&queries, depth, passages.as_deref(), deadline)
            });
            let added = task.await.map_err(|_| SearchError::Stopped)?;
            let added = added.map_err(|error| SearchError::Backend(error.into()))?;
            for (list, added) in lists.iter_mut().zip(added) {
                list.extend(added);
                list.sort_unstable();
                list.truncate(depth);
            }
        }
        Ok(lists)
    }

    /// Reorders the first candidates by the cross-encoder and its [`encoder::RankPrior`]; `None` when there was no time and the list is as it was.
    async fn rerank(
        &self,
        view: &View,
        list: &mut [Candidate],
        query: &str,
        request: RerankRequest,
        deadline: Deadline,
        reranker: &dyn Reranker,
    ) -> Result<Option<(usize, bool)>, SearchError> {
        let n_candidates = request.candidates.min(list.len());
        let head = &mut list[..n_candidates];
        if head.is_empty() {
            return Ok(Some((0, false)));
        }
        let ordinals: Vec<u32> = head.iter().map(|candidate| candidate.ordinal).collect();
        let passages = view.passages(&ordinals).map_err(SearchError::Store)?;
        let texts = passages
            .iter()
            .map(|passage| self.render_passage(passage))
            .collect();
        let within = request
            .timeout
            .map_or(Deadline::NONE, Deadline::after)
            .min(deadline);
        let reranked = match reranker.rerank(query.to_owned(), texts, within).await {
            Ok(reranked) => reranked,
            Err(
                ModelError::DeadlineExceeded
                | ModelError::Overloaded { .. }
                | ModelError::WaitedTooLong { .. },
            ) if request.on_timeout == OnTimeout::Skip => {
                return Ok(None);
            }
            Err(error) => return Err(SearchError::Rerank(error)),
        };
        let prior = reranker.rank_prior();
        for ((candidate, score), rank) in head.iter_mut().zip(&reranked.scores).zip(1..) {
            candidate.scores.rerank = Some(*score);
            candidate.rank_prior = Some(prior.at(rank));
            candidate.score = score + prior.at(rank);
        }
        // Stable: equal scores keep the order of the first stage.
        head.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(Some((reranked.n_tokens, reranked.n_truncated > 0)))
    }
}

/// What a search sees: one moment of a generation, the passages that pass the filter, the boosts.
pub(crate) struct Within<'a> {
    pub live: Arc<Live>,
    pub selection: Selection,
    pub scorers: Vec<Scorer<'a>>,
}

async fn search_lexical(
    live: &Arc<Live>,
    texts: Vec<String>,
    depth: usize,
    filter: Option<Arc<Bitmap>>,
    deadline: Deadline,
) -> Result<Vec<Vec<LexicalHit>>, SearchError> {
    let live = Arc::clone(live);
    let task = tokio::task::spawn_blocking(move || {
        let mut lists = Vec::with_capacity(texts.len());
        for text in &texts {
            if deadline.expired() {
                return Err(SearchError::DeadlineExceeded {
                    step: "lexical search",
                });
            }
            let hits = live.view().search_lexical(text, depth, filter.as_deref());
            lists.push(hits.map_err(SearchError::Store)?);
        }
        Ok(lists)
    });
    task.await.map_err(|_| SearchError::Stopped)?
}

fn page(
    view: &View,
    list: &[Candidate],
    options: &SearchOptions,
    query: Option<&str>,
) -> Result<Vec<Hit>, SearchError> {
    let page = list.iter().skip(options.offset).take(options.top_k);
    let mut hits = Vec::with_capacity(page.len());
    for (position, candidate) in page.enumerate() {
        let rank = options.offset + position + 1;
        hits.push(hit(view, candidate, rank, options.explain)?);
    }
    fill(view, hits.iter_mut().collect(), options, query)?;
    Ok(hits)
}

/// A hit without what is read of its passage.
pub(crate) fn hit(
    view: &View,
    candidate: &Candidate,
    rank: usize,
    explain: bool,
) -> Result<Hit, SearchError> {
    let ordinal = candidate.ordinal;
    let part = view.document_part(ordinal).map_err(SearchError::Store)?;
    Ok(Hit {
        ordinal,
        id: view.id(ordinal).map_err(SearchError::Store)?.into(),
        document: part.map(Into::into),
        rank,
        score: candidate.score,
        scores: candidate.scores,
        explanation: explain.then(|| candidate.explanation()),
        pinned: candidate.pinned,
        title: None,
        text: None,
        metadata: None,
        highlights: Vec::new(),
    })
}

/// Puts into hits what was asked for of their passages.
pub(crate) fn fill(
    view: &View,
    hits: Vec<&mut Hit>,
    options: &SearchOptions,
    query: Option<&str>,
) -> Result<(), SearchError> {
    let (include, highlight) = (options.include, options.highlight.as_ref());
    if !include.text && !include.metadata && highlight.is_none() {
        return Ok(());
    }
    let mut highlighter = query.map(|query| view.highlighter(query));
    let ordinals: Vec<u32> = hits.iter().map(|hit| hit.ordinal).collect();
    let passages = view.passages(&ordinals).map_err(SearchError::Store)?;
    for (hit, passage) in hits.into_iter().zip(passages) {
        if let (Some(asked), Some(highlighter)) = (highlight, &mut highlighter) {
            let fragment = |&field| {
                let text = match field {
                    TextField::Title => &passage.title,
                    TextField::Text => &passage.text,
                };
                let pieces = highlighter.fragment(text, asked.max_chars);
                Fragment { field, pieces }
            };
            hit.highlights = asked.fields.iter().map(fragment).collect();
        }
        if include.text {
            (hit.title, hit.text) = (Some(passage.title), Some(passage.text));
        }
        if include.metadata {
            hit.metadata = Some(passage.metadata);
        }
    }
    Ok(())
}

/// How a build stored its rows; as encoders give them where it does not say.
fn row_type(manifest: &Manifest) -> RowType {
    RowType::deserialize(&manifest.build["rows"]).unwrap_or_default()
}

/// The texts of a batch, or its vectors in one row-major piece.
fn split(queries: Vec<QueryInput>) -> Result<(Option<Vec<String>>, Vec<f32>), SearchError> {
    let n_queries = queries.len();
    let (mut texts, mut vectors, mut width) = (Vec::new(), Vec::new(), None);
    for query in queries {
        match query {
            QueryInput::Text(text) => texts.push(text),
            QueryInput::Vector(vector) => {
                let expected = *width.get_or_insert(vector.len());
                if vector.len() != expected {
                    return Err(SearchError::Width {
                        given: vector.len(),
                        expected,
                    });
                }
                vectors.extend(vector);
            }
        }
    }
    match texts.len() {
        n if n == n_queries => Ok((Some(texts), Vec::new())),
        0 => Ok((None, vectors)),
        _ => Err(SearchError::MixedBatch),
    }
}
