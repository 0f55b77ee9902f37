use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A measure of one query's ranking, such as `ndcg@10`.
///
/// Written as a name, an optional grade from which a passage is relevant, and an optional cutoff: `mrr(rel=2)@10`. Other
/// spellings are read, among them `ndcg_cut_10`, `ndcg_cut.10`, `R@50`, `recip_rank` and `mrr.10`. The last has always
/// cutoff 10 here; OpenMatch prints the reciprocal rank over the whole run under that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Measure {
    /// What is measured.
    pub kind: MeasureKind,
    /// Ranks that count; all of them when absent.
    pub cutoff: Option<usize>,
    /// The grade from which a passage is relevant, where it is not the report's.
    pub relevance_level: Option<i32>,
}

/// What is measured. `relᵢ` is the grade at rank i, 0 if unjudged or negative; `R` is the number of relevant passages,
/// retrieved or not; n is the number of passages retrieved; k is the cutoff, else n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MeasureKind {
    /// `ndcg`: `DCG@k / IDCG@k`, gain = grade, IDCG over all judged passages (Järvelin & Kekäläinen 2002).
    Ndcg,
    /// `ndcg_exp`: the same with gain `2^rel − 1` (Burges et al. 2005).
    NdcgExp,
    /// `ndcg_bin`: the same with gain 1 for a relevant passage, as sentence-transformers reports it.
    NdcgBin,
    /// `dcg`: `Σ_{i≤k} relᵢ / log2(i + 1)`.
    Dcg,
    /// `mrr`: `1 / rank` of the first relevant passage if it is at most k, else 0.
    ReciprocalRank,
    /// `map`: `1/R Σ_{i≤k} [i is relevant]·P@i`.
    AveragePrecision,
    /// `map_cap`: the same over `min(R, k)`, as sentence-transformers reports it.
    AveragePrecisionCapped,
    /// `P`: relevant passages among the first k, over k even if n < k.
    Precision,
    /// `recall`: relevant passages among the first k, over R.
    Recall,
    /// `recall_cap`: the same over `min(R, k)` (BEIR).
    RecallCapped,
    /// `Rprec`: relevant passages among the first R, over R.
    RPrecision,
    /// `success`: 1 if one of the first k is relevant.
    Success,
    /// `bpref`: how few judged non-relevant passages stand before relevant ones (Buckley & Voorhees 2004).
    Bpref,
    /// `hole`: passages among the first k that are judged for no query at all, over k (BEIR).
    Hole,
    /// `unj`: passages among the first k that are not judged for this query, over k; a missing rank counts as judged.
    Unjudged,
    /// `judged`: passages among the first k that are judged for this query, over `min(k, n)`.
    Judged,
    /// `answer`: 1 if the text of one of the first k has an answer in it; see [`crate::evaluate_answers`].
    Answer,
    /// `num_ret`: n; summed over queries.
    NumRetrieved,
    /// `num_rel`: R, also of queries that the run lacks where they count; summed over queries.
    NumRelevant,
    /// `num_rel_ret`: relevant passages retrieved; summed over queries.
    NumRelevantRetrieved,
}

use MeasureKind::{
    Answer, AveragePrecision, AveragePrecisionCapped, Bpref, Dcg, Hole, Judged, Ndcg, NdcgBin,
    NdcgExp, NumRelevant, NumRelevantRetrieved, NumRetrieved, Precision, RPrecision, Recall,
    RecallCapped, ReciprocalRank, Success, Unjudged,
};

/// Whether a name comes with a cutoff.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cutoff {
    Required,
    Optional,
    Refused,
}

/// The names of every measure, the one it is printed with first. Case does not count.
const NAMES: &[(MeasureKind, Cutoff, &[&str])] = &[
    (Ndcg, Cutoff::Optional, &["ndcg"]),
    (Ndcg, Cutoff::Required, &["ndcg_cut"]),
    (NdcgExp, Cutoff::Optional, &["ndcg_exp"]),
    (NdcgBin, Cutoff::Optional, &["ndcg_bin"]),
    (Dcg, Cutoff::Optional, &["dcg"]),
    (
        ReciprocalRank,
        Cutoff::Optional,
        &["mrr", "recip_rank", "rr", "reciprocal_rank"],
    ),
    (ReciprocalRank, Cutoff::Required, &["mrr_cut"]),
    (AveragePrecision, Cutoff::Optional, &["map", "ap"]),
    (AveragePrecision, Cutoff::Required, &["map_cut"]),
    (AveragePrecisionCapped, Cutoff::Required, &["map_cap"]),
    (Precision, Cutoff::Required, &["P", "precision"]),
    (Recall, Cutoff::Required, &["recall", "R"]),
    (RecallCapped, Cutoff::Required, &["recall_cap", "R_cap"]),
    (RPrecision, Cutoff::Refused, &["Rprec"]),
    (
        Success,
        Cutoff::Required,
        &["success", "accuracy", "acc", "hit", "hit_rate"],
    ),
    (Bpref, Cutoff::Refused, &["bpref"]),
    (Hole, Cutoff::Required, &["hole"]),
    (Unjudged, Cutoff::Required, &["unj"]),
    (Judged, Cutoff::Required, &["judged"]),
    (Answer, Cutoff::Required, &["answer"]),
    (NumRetrieved, Cutoff::Refused, &["num_ret"]),
    (NumRelevant, Cutoff::Refused, &["num_rel"]),
    (NumRelevantRetrieved, Cutoff::Refused, &["num_rel_ret"]),
];

/// Why a text is not a measure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// No measure has this name.
    #[error("no measure `{name}`; there are {}", all_names())]
    Unknown {
        /// The text.
        name: String,
    },
    /// The measure has no meaning without a cutoff.
    #[error("measure `{name}` needs a cutoff, as in `{name}@10`")]
    NeedsCutoff {
        /// The text.
        name: String,
    },
    /// The measure has no cutoff.
    #[error("measure `{name}` takes no cutoff")]
    NoCutoff {
        /// The text.
        name: String,
    },
    /// A cutoff that is not a positive integer.
    #[error("cutoff of `{name}` is not a positive integer")]
    BadCutoff {
        /// The text.
        name: String,
    },
    /// A grade in parentheses that cannot be read.
    #[error("`{name}` has no `(rel=N)` between its parentheses")]
    BadLevel {
        /// The text.
        name: String,
    },
    /// A grade in parentheses, of a measure for which no passage is relevant or not.
    #[error("`{name}` takes no `(rel=N)`: it does not ask which passages are relevant")]
    NoLevel {
        /// The text.
        name: String,
    },
    /// Several measures where one is expected.
    #[error("`{name}` names {found} measures instead of one")]
    Several {
        /// The text.
        name: String,
        /// How many.
        found: usize,
    },
}

impl Measure {
    /// A measure of whole rankings.
    pub fn new(kind: MeasureKind) -> Self {
        Self {
            kind,
            cutoff: None,
            relevance_level: None,
        }
    }

    /// A measure of the first `cutoff` ranks.
    pub fn at(kind: MeasureKind, cutoff: usize) -> Self {
        Self {
            kind,
            cutoff: Some(cutoff),
            relevance_level: None,
        }
    }

    /// Reads one measure, or several with the same name: `recall@50,1000`.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub fn parse_list(text: &str) -> Result<Vec<Self>, MeasureError> {
        let name = || text.to_owned();
        let is_cutoff = |c: char| c.is_ascii_digit() || c == ',';
        let (head, cutoffs) = match text.rfind(['@', '.', '_']) {
            Some(at) if !text[at + 1..].is_empty() && text[at + 1..].chars().all(is_cutoff) => {
                (&text[..at], Some(&text[at + 1..]))
            }
            Some(at) if text[at..].starts_with('@') => {
                return Err(MeasureError::BadCutoff { name: name() });
            }
            _ => (text, None),
        };
        let (head, relevance_level) = match head.split_once('(') {
            None => (head, None),
            Some((head, level)) => {
                let level = level
                    .strip_prefix("rel=")
                    .and_then(|level| level.strip_suffix(')'));
                let level = level.and_then(|level| level.parse().ok());
                (
                    head,
                    Some(level.ok_or_else(|| MeasureError::BadLevel { name: name() })?),
                )
            }
        };
        let (kind, cutoff) = NAMES
            .iter()
            .find(|(.., names)| names.iter().any(|name| name.eq_ignore_ascii_case(head)))
            .map(|&(kind, cutoff, _)| (kind, cutoff))
            .ok_or_else(|| MeasureError::Unknown { name: name() })?;
        if relevance_level.is_some() && !kind.has_level() {
            return Err(MeasureError::NoLevel { name: name() });
        }
        match (cutoff, cutoffs) {
            (Cutoff::Required, None) => Err(MeasureError::NeedsCutoff { name: name() }),
            (Cutoff::Refused, Some(_)) => Err(MeasureError::NoCutoff { name: name() }),
            (_, None) => Ok(vec![Self {
                kind,
                cutoff: None,
                relevance_level,
            }]),
            (_, Some(cutoffs)) => cutoffs
                .split(',')
                .map(|cutoff| match cutoff.parse() {
                    Ok(cutoff) if cutoff > 0 => Ok(Self {
                        kind,
                        cutoff: Some(cutoff),
                        relevance_level,
                    }),
                    _ => Err(MeasureError::BadCutoff { name: name() }),
                })
                .collect(),
        }
    }

    /// Whether the values of all queries are summed instead of averaged.
    pub fn is_count(self) -> bool {
        matches!(self.kind, NumRetrieved | NumRelevant | NumRelevantRetrieved)
    }
}

impl MeasureKind {
    /// Whether the measure asks which passages are relevant.
    fn has_level(self) -> bool {
        !matches!(
            self,
            Ndcg | NdcgExp | Dcg | Hole | Unjudged | Judged | Answer | NumRetrieved
        )
    }
}

impl FromStr for Measure {
    type Err = MeasureError;

    fn from_str(text: &str) -> Result<Self, MeasureError> {
        match Self::parse_list(text)?.as_slice() {
            [measure] => Ok(*measure),
            measures => Err(MeasureError::Several {
                name: text.to_owned(),
                found: measures.len(),
            }),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES
            .iter()
            .find(|(kind, ..)| *kind == self.kind)
            .map_or("", |(.., names)| names[0]);
        f.write_str(name)?;
        if let Some(level) = self.relevance_level {
            write!(f, "(rel={level})")?;
        }
        match self.cutoff {
            Some(cutoff) => write!(f, "@{cutoff}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Measure {
    type Error = MeasureError;

    fn try_from(text: String) -> Result<Self, MeasureError> {
        text.parse()
    }
}

impl From<Measure> for String {
    fn from(measure: Measure) -> Self {
        measure.to_string()
    }
}

fn all_names() -> String {
    let mut names: Vec<&str> = NAMES.iter().map(|(.., names)| names[0]).collect();
    names.retain(|name| !name.ends_with("_cut"));
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let found = Measure::parse_list(text)
            .map(|measures| {
                measures
                    .iter()
                    .map(Measure::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text}");
    }

    #[test]
    fn every_spelling_names_one_measure() {
        for (spellings, canonical) in [
            (
                "ndcg@10 ndcg_cut.10 ndcg_cut_10 NDCG@10 ndcg_10 nDCG.10",
                "ndcg@10",
            ),
            (
                "mrr@10 mrr.10 mrr_cut.10 recip_rank@10 RR@10 MRR@10",
                "mrr@10",
            ),
            ("mrr recip_rank RR", "mrr"),
            ("recall@50 recall.50 recall_50 R@50", "recall@50"),
            ("R_cap@5 recall_cap@5", "recall_cap@5"),
            ("map AP", "map"),
            ("map_cut.100 map@100 AP@100", "map@100"),
            ("P@5 P.5 P_5 precision@5 p@5", "P@5"),
            ("success@1 accuracy@1 acc@1 hit_rate@1", "success@1"),
            ("mrr(rel=2)@10 RR(rel=2)@10", "mrr(rel=2)@10"),
            ("unj.5", "unj@5"),
            ("num_rel_ret", "num_rel_ret"),
            ("recall.5,10,15", "recall@5 recall@10 recall@15"),
        ] {
            spellings
                .split(' ')
                .for_each(|text| check(text, Ok(canonical)));
        }
    }

    #[test]
    fn what_is_not_a_measure_says_why() {
        check(
            "recall",
            Err("measure `recall` needs a cutoff, as in `recall@10`"),
        );
        check(
            "ndcg_cut",
            Err("measure `ndcg_cut` needs a cutoff, as in `ndcg_cut@10`"),
        );
        check("Rprec@5", Err("measure `Rprec@5` takes no cutoff"));
        check(
            "ndcg@0",
            Err("cutoff of `ndcg@0` is not a positive integer"),
        );
        check(
            "ndcg@ten",
            Err("cutoff of `ndcg@ten` is not a positive integer"),
        );
        check("ndcg@", Err("cutoff of `ndcg@` is not a positive integer"));
        check(
            "ndcg@5,,6",
            Err("cutoff of `ndcg@5,,6` is not a positive integer"),
        );
        check(
            "ndcg@99999999999999999999999",
            Err("cutoff of `ndcg@99999999999999999999999` is not a positive integer"),
        );
        check(
            "mrr(level)@10",
            Err("`mrr(level)@10` has no `(rel=N)` between its parentheses"),
        );
        for text in ["ndcg(rel=2)@10", "judged(rel=2)@10", "num_ret(rel=2)"] {
            check(
                text,
                Err(&format!(
                    "`{text}` takes no `(rel=N)`: it does not ask which passages are relevant"
                )),
            );
        }
        assert!(matches!(
            Measure::parse_list("é"),
            Err(MeasureError::Unknown { .. })
        ));
        assert!(matches!(
            "ndcg@5,10".parse::<Measure>(),
            Err(MeasureError::Several { found: 2, .. })
        ));
    }

    #[test]
    fn every_printed_name_is_read_again() {
        for &(kind, cutoff, _) in NAMES {
            let measure = if cutoff == Cutoff::Refused {
                Measure::new(kind)
            } else {
                Measure::at(kind, 7)
            };
            assert_eq!(measure.to_string().parse(), Ok(measure));
        }
    }
}
