//! Groups of passages, asked for and answered.

use openapi::{GroupScoreMethod, SearchGroup};
use retriever::{GroupBy, GroupScore, Grouping};

use crate::Limits;
use crate::faults::Faults;

/// The grouping that a request asks for.
pub(crate) fn resolve_grouping(
    body: &openapi::SearchRequest,
    limits: &Limits,
    faults: &mut Faults,
) -> Option<Grouping> {
    let Some(by) = &body.group_by else {
        for (pointer, is_given) in [
            ("/group_size", body.group_size.is_some()),
            ("/group_score", body.group_score.is_some()),
        ] {
            if is_given {
                faults.add(pointer, "conflict", "has an effect with `group_by` only");
            }
        }
        return None;
    };
    let score = body.group_score.unwrap_or_default();
    let size = body.group_size.unwrap_or(1);
    let max = limits.top_k;
    faults.range("/group_size", size, 1, max, "limits.top_k");
    faults.range(
        "/group_score/passages",
        score.passages,
        1,
        max,
        "limits.top_k",
    );
    Some(Grouping {
        by: GroupBy::from(by.as_str()),
        size,
        score: match score.method {
            GroupScoreMethod::Max => GroupScore::Max,
            GroupScoreMethod::Sum => GroupScore::Sum,
            GroupScoreMethod::Mean => GroupScore::Mean,
        },
        passages: score.passages,
    })
}

/// A group as the answer shows it.
pub(crate) fn write_group(
    group: retriever::Group,
    hit: fn(retriever::Hit) -> openapi::SearchHit,
) -> SearchGroup {
    SearchGroup {
        id: group.id,
        rank: group.rank,
        score: group.score,
        pinned: group.pinned,
        hits: group.hits.into_iter().map(hit).collect(),
    }
}
