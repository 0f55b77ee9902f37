//! Answers by document, or by the value of a field, in place of passages.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use corpus::FieldKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::View;

use crate::candidates::Candidate;
use crate::memory::{RememberedEncoder, RememberedReranker};
use crate::pin::{Pinned, place};
use crate::retriever::{Within, fill, hit};
use crate::{
    Hit, Include, Live, Mode, QueryEncoder, QueryInput, Relation, Reranker, Retriever, SearchError,
    SearchOptions, SearchResponse,
};

/// The most passages that are ranked to find groups.
const MAX_CANDIDATES: usize = 10_000;
/// The fewest.
const MIN_CANDIDATES: usize = 100;
/// How many times more are asked for when they held too few groups.
const GROWTH: usize = 4;

/// What passages are grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The document that they are parts of; themselves where no document was split.
    Document,
    /// The value of a keyword field. A passage with several values is in several groups, one without any in none.
    Field(String),
}

impl From<&str> for GroupBy {
    /// `document` is the document, anything else a field.
    fn from(name: &str) -> Self {
        match name {
            "document" => Self::Document,
            field => Self::Field(field.to_owned()),
        }
    }
}

/// What becomes of the scores of a group's best passages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupScore {
    /// The best one is the group's.
    #[default]
    Max,
    /// They are added up.
    Sum,
    /// Their mean, over as many as there are.
    Mean,
}

/// How passages are grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// What a group has in common.
    pub by: GroupBy,
    /// Passages shown of each group, its best.
    pub size: usize,
    /// The score of a group.
    pub score: GroupScore,
    /// Passages of a group whose scores count, its best; [`GroupScore::Max`] reads one.
    pub passages: usize,
}

impl Default for Grouping {
    fn default() -> Self {
        Self {
            by: GroupBy::Document,
            size: 1,
            score: GroupScore::Max,
            passages: 3,
        }
    }
}

/// Passages that have a document, or the value of a field, in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Id of the document, or the value.
    pub id: String,
    /// Its place in the answer, from 1; groups skipped by `offset` count.
    pub rank: usize,
    /// Its score.
    pub score: f32,
    /// Whether it has its rank by a pin.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Its best passages, best first; those with one value of a field in the order of [`SearchOptions::sort`], where there is one.
    /// Their ranks are those among all passages, 0 where a pin brought what the ranking did not.
    pub hits: Vec<Hit>,
}

impl Group {
    fn new(id: String) -> Self {
        Self {
            id,
            rank: 0,
            score: 0.0,
            pinned: false,
            hits: Vec::new(),
        }
    }
}

impl Retriever {
    /// Answers searches by group: `top_k` and `offset` count groups.
    ///
    /// Passages are ranked as without groups, more and more of them until enough groups are found, none is left, or
    /// 10,000 are ranked. Groups are ordered by score, ties by their best passage. After reranking, groups whose best
    /// passage the cross-encoder read come first, and only passages that it read count in them. With boosts the same is true of
    /// passages in their window. With [`SearchOptions::sort`] the passages that it sees are grouped, and groups are in the order
    /// of their first ones.
    ///
    /// [`SearchResponse::degraded`] says `groups_missing` where too few groups were found among the passages ranked, and
    /// `group_scores_partial` where passages that were not ranked might have counted in a sum or a mean.
    pub(crate) async fn search_groups(
        &self,
        within: &Within<'_>,
        queries: Vec<QueryInput>,
        options: &SearchOptions,
        grouping: &Grouping,
        encoder: &dyn QueryEncoder,
        reranker: Option<&dyn Reranker>,
    ) -> Result<Vec<SearchResponse>, SearchError> {
        self.check_grouping(grouping)?;
        let live = &within.live;
        let passing = within.selection.passages.as_deref();
        let pinned = Pinned::find(&options.pins, live.view(), passing)?;
        let encoder = RememberedEncoder::new(encoder);
        let reranker = reranker.map(RememberedReranker::new);
        let reranker = reranker.as_ref().map(|reranker| reranker as &dyn Reranker);
        // Groups that are pinned elsewhere leave their places in the page to others.
        let n_wanted = options.offset.saturating_add(options.top_k);
        let n_wanted = n_wanted.saturating_add(pinned.len());
        let of_group = grouping.size.max(grouping.n_counted());
        let mut depth = n_wanted
            .saturating_mul(of_group)
            .saturating_mul(2)
            .clamp(MIN_CANDIDATES, MAX_CANDIDATES);
        // The best passage of a group may be the last in the order of a field, and there are no others than these.
        let n_sorted = options.sort.as_ref().map(|_| options.rank_window);
        // A fusion may lift passages over a threshold that the other source has not brought yet.
        let may_rise = matches!(options.mode, Mode::Hybrid(_))
            && options.score_threshold.is_some()
            && options.rerank.is_none();
        depth = depth.max(n_sorted.unwrap_or(0)).min(MAX_CANDIDATES);
        // An answer stays as it was when it had groups enough, so that it does not depend on the others of its batch.
        let mut finished: Vec<Option<SearchResponse>> = vec![None; queries.len()];
        while finished.iter().any(Option::is_none) {
            let ranking = SearchOptions {
                top_k: depth,
                offset: 0,
                include: Include {
                    text: false,
                    metadata: false,
                },
                highlight: None,
                group: None,
                pins: Vec::new(),
                // It tells which passages boosts saw.
                explain: options.explain || !options.boosts.is_empty(),
                ..options.clone()
            };
            let answers = self
                .search_within(within, queries.clone(), &ranking, &encoder, reranker)
                .await?;
            let answers = answers.into_iter().zip(&queries);
            for ((mut answer, query), finished) in answers.zip(&mut finished) {
                if finished.is_some() {
                    continue;
                }
                let hits = std::mem::take(&mut answer.hits);
                let is_all = hits.len() < depth && !may_rise
                    || n_sorted.is_some_and(|n_sorted| hits.len() >= n_sorted)
                    || answer.total.relation == Relation::Eq
                        && answer.total.value == hits.len() as u64;
                answer.groups = group(live, hits, grouping, options.sort.is_some()).await?;
                let is_enough = is_all || answer.groups.len() >= n_wanted;
                if !is_enough && depth < MAX_CANDIDATES {
                    continue;
                }
                if !is_enough {
                    answer.degraded.push("groups_missing");
                }
                if !is_all && grouping.score != GroupScore::Max {
                    answer.degraded.push("group_scores_partial");
                }
                pin_groups(live, &mut answer.groups, &pinned, grouping, options.explain).await?;
                finish_groups(live.view(), &mut answer, options, grouping, query.text())?;
                *finished = Some(answer);
            }
            depth = depth.saturating_mul(GROWTH).min(MAX_CANDIDATES);
        }
        Ok(finished.into_iter().flatten().collect())
    }

    fn check_grouping(&self, grouping: &Grouping) -> Result<(), SearchError> {
        if let GroupBy::Field(name) = &grouping.by {
            let kind = self.schema().fields.get(name).map(|field| field.kind);
            if kind != Some(FieldKind::Keyword) {
                return Err(SearchError::GroupField {
                    field: name.clone(),
                    kind,
                });
            }
        }
        Ok(())
    }
}

/// Groups a ranking, best group first. Keeps the hits of a group that are shown or count.
async fn group(
    live: &Arc<Live>,
    hits: Vec<Hit>,
    grouping: &Grouping,
    is_sorted: bool,
) -> Result<Vec<Group>, SearchError> {
    let keys = keys(live, &hits, &grouping.by).await?;
    let of_group = grouping.size.max(grouping.n_counted());
    let mut groups: Vec<Group> = Vec::new();
    let mut positions: HashMap<String, usize> = HashMap::new();
    for (hit, keys) in hits.into_iter().zip(keys) {
        for id in keys {
            let position = match positions.entry(id.clone()) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    groups.push(Group::new(id));
                    *entry.insert(groups.len() - 1)
                }
            };
            let kept = &mut groups[position].hits;
            if is_sorted || kept.len() < of_group {
                kept.push(hit.clone());
            }
        }
    }
    if is_sorted {
        for group in &mut groups {
            let mut best = group.hits.clone();
            best.sort_by(|a, b| {
                let by_stage = stage(a).cmp(&stage(b));
                by_stage.then(b.score.total_cmp(&a.score))
            });
            group.score = grouping.score_of(&best);
            // All passages of a document have its value.
            if grouping.by == GroupBy::Document {
                group.hits = best;
            }
            group.hits.truncate(of_group);
        }
        return Ok(groups);
    }
    for group in &mut groups {
        group.score = grouping.score_of(&group.hits);
    }
    // Stable: equal scores keep the order of their best passages.
    groups.sort_by(|a, b| {
        let by_stage = stage(&a.hits[0]).cmp(&stage(&b.hits[0]));
        by_stage.then(b.score.total_cmp(&a.score))
    });
    Ok(groups)
}

/// What gave a hit its score. Scores of one stage do not compare with those of another; an earlier one stands for better hits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Reranked,
    Boosted,
    Plain,
}

fn stage(hit: &Hit) -> Stage {
    if hit.scores.rerank.is_some() {
        return Stage::Reranked;
    }
    match &hit.explanation {
        Some(explanation) if !explanation.boosts.is_empty() => Stage::Boosted,
        _ => Stage::Plain,
    }
}

/// Gives groups of pinned documents their ranks: of each the first one that a passage of it belongs to, or a new one with its first
/// passage where none is ranked.
async fn pin_groups(
    live: &Arc<Live>,
    groups: &mut Vec<Group>,
    pinned: &[Pinned],
    grouping: &Grouping,
    explain: bool,
) -> Result<(), SearchError> {
    let mut items: Vec<(usize, Group)> = Vec::with_capacity(pinned.len());
    for Pinned { rank, ordinals } in pinned {
        let mut hits = Vec::with_capacity(ordinals.len());
        for &ordinal in ordinals {
            hits.push(hit(live.view(), &Candidate::unranked(ordinal), 0, explain)?);
        }
        let keys = keys(live, &hits, &grouping.by).await?;
        let is_one = |group: &Group| keys.iter().flatten().any(|key| *key == group.id);
        if items.iter().any(|(_, group)| is_one(group)) {
            continue;
        }
        let group = match groups.iter().position(is_one) {
            Some(position) => groups.remove(position),
            None => {
                let of_group = hits.into_iter().zip(keys);
                let keyed = |(hit, keys): (Hit, Vec<String>)| Some((hit, keys.into_iter().next()?));
                let Some((hit, id)) = of_group.filter_map(keyed).next() else {
                    continue;
                };
                Group {
                    hits: vec![hit],
                    ..Group::new(id)
                }
            }
        };
        let pinned = true;
        items.push((*rank, Group { pinned, ..group }));
    }
    *groups = place(items, std::mem::take(groups));
    Ok(())
}

/// The groups that each hit belongs to.
async fn keys(
    live: &Arc<Live>,
    hits: &[Hit],
    by: &GroupBy,
) -> Result<Vec<Vec<String>>, SearchError> {
    let name = match by {
        GroupBy::Document => {
            let id = |hit: &Hit| match &hit.document {
                Some(part) => part.id.clone(),
                None => hit.id.clone(),
            };
            return Ok(hits.iter().map(|hit| vec![id(hit)]).collect());
        }
        GroupBy::Field(name) => name.clone(),
    };
    let live = Arc::clone(live);
    let ordinals: Vec<u32> = hits.iter().map(|hit| hit.ordinal).collect();
    let task = tokio::task::spawn_blocking(move || {
        let passages = live
            .view()
            .passages(&ordinals)
            .map_err(SearchError::Store)?;
        let keys = passages
            .iter()
            .map(|passage| values(passage.metadata.get(&name)));
        Ok(keys.collect())
    });
    task.await.map_err(|_| SearchError::Stopped)?
}

/// Keeps the groups and hits that were asked for and reads what they shall show.
fn finish_groups(
    view: &View,
    answer: &mut SearchResponse,
    options: &SearchOptions,
    grouping: &Grouping,
    query: Option<&str>,
) -> Result<(), SearchError> {
    let start = Instant::now();
    let groups = std::mem::take(&mut answer.groups).into_iter();
    let page = groups
        .zip(1..)
        .skip(options.offset)
        .take(options.top_k)
        .map(|(mut group, rank)| {
            group.hits.truncate(grouping.size);
            group.rank = rank;
            group
        });
    answer.groups = page.collect();
    let hits = answer.groups.iter_mut().flat_map(|group| &mut group.hits);
    let mut hits: Vec<&mut Hit> = hits.collect();
    if !options.explain {
        hits.iter_mut().for_each(|hit| hit.explanation = None);
    }
    fill(view, hits, options, query)?;
    answer.timing.fetch += start.elapsed();
    Ok(())
}

impl Grouping {
    /// Passages of a group whose scores count.
    fn n_counted(&self) -> usize {
        match self.score {
            GroupScore::Max => 1,
            GroupScore::Sum | GroupScore::Mean => self.passages.max(1),
        }
    }

    /// The score of a group from its hits, best first. Scores of different stages do not mix.
    fn score_of(&self, hits: &[Hit]) -> f32 {
        let of = stage(&hits[0]);
        let counted: Vec<f64> = hits
            .iter()
            .filter(|hit| stage(hit) == of)
            .take(self.n_counted())
            .map(|hit| f64::from(hit.score))
            .collect();
        let sum: f64 = counted.iter().sum();
        match self.score {
            GroupScore::Max | GroupScore::Sum => sum as f32,
            GroupScore::Mean => (sum / counted.len() as f64) as f32,
        }
    }
}

/// The values of a keyword field, each once.
fn values(value: Option<&Value>) -> Vec<String> {
    let values = match value {
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    let mut found: Vec<String> = Vec::new();
    for value in values.iter().filter_map(Value::as_str) {
        if !found.iter().any(|known| known == value) {
            found.push(value.to_owned());
        }
    }
    found
}
