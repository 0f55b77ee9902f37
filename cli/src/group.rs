//! Answers by group of passages.

use retriever::{Group, GroupBy, GroupScore, Grouping};

use crate::model::named;
use crate::output;

/// How passages are grouped.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GroupArgs {
    /// Return groups of passages: `document`, those of one document that `index build --stride` split, or a keyword
    /// field. `-k` counts groups, and runs have their ids.
    #[arg(long, value_name = "document|FIELD")]
    group_by: Option<String>,
    /// Passages shown of each group.
    #[arg(long, value_name = "N", requires = "group_by", value_parser = positive)]
    group_size: Option<usize>,
    /// Score of a group: max, that of its best passage; sum or mean of its best passages.
    #[arg(long, value_name = "NAME", requires = "group_by", value_parser = named::<GroupScore>)]
    group_score: Option<GroupScore>,
    /// Passages that count in `--group-score sum` and `mean` (default: 3).
    #[arg(long, value_name = "N", requires = "group_score", value_parser = positive)]
    group_passages: Option<usize>,
}

impl GroupArgs {
    pub fn resolve(&self) -> Option<Grouping> {
        let default = Grouping::default();
        self.group_by.as_deref().map(|by| Grouping {
            by: GroupBy::from(by),
            size: self.group_size.unwrap_or(default.size),
            score: self.group_score.unwrap_or(default.score),
            passages: self.group_passages.unwrap_or(default.passages),
        })
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Groups as a table: rank, score and id of each, then its passages.
pub fn groups_table(groups: &[Group]) -> String {
    let mut rows = Vec::new();
    for group in groups {
        for (position, hit) in group.hits.iter().enumerate() {
            let of_group = |text: String| match position {
                0 => text,
                _ => String::new(),
            };
            let title = hit.title.clone().unwrap_or_default();
            let text = output::beginning(hit.text.as_deref().unwrap_or_default(), 120);
            rows.push(vec![
                of_group(group.rank.to_string()),
                of_group(format!("{:.4}", group.score)),
                of_group(group.id.clone()),
                format!("{:.4}", hit.score),
                hit.id.clone(),
                title,
                text,
            ]);
        }
    }
    let header = [
        "rank",
        "score",
        "group",
        "of passage",
        "passage",
        "title",
        "text",
    ];
    output::table(&header, &["rank", "score", "of passage"], rows)
}
