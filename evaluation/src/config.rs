use std::str::FromStr;

use corpus::Qrels;
use serde::{Deserialize, Serialize};

use crate::{Measure, MeasureKind};

/// What is measured, and by which conventions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// The measures, in the order of the report.
    pub measures: Vec<Measure>,
    /// Which queries a mean is over.
    pub averaging: Averaging,
    /// The grade from which a passage is relevant, for all measures but those with graded gains.
    pub relevance_level: i32,
    /// With how many bits scores are compared.
    pub score_precision: ScorePrecision,
    /// How passages of equal score are ordered.
    pub ties: Ties,
    /// Leaves out passages that have the id of their query, before ranking.
    pub ignore_identical_ids: bool,
    /// Leaves out passages that are not judged for their query, after ranking; the ranks close (`trec_eval -J`).
    pub judged_only: bool,
}

impl Default for EvaluationConfig {
    /// nDCG@10, MRR@10, recall@100 and MAP, averaged over all judged queries, with trec_eval's ties.
    fn default() -> Self {
        Self {
            measures: vec![
                Measure::at(MeasureKind::Ndcg, 10),
                Measure::at(MeasureKind::ReciprocalRank, 10),
                Measure::at(MeasureKind::Recall, 100),
                Measure::new(MeasureKind::AveragePrecision),
            ],
            averaging: Averaging::Complete,
            relevance_level: 1,
            score_precision: ScorePrecision::F32,
            ties: Ties::Trec,
            ignore_identical_ids: false,
            judged_only: false,
        }
    }
}

/// Which queries a mean is over. A judged query without a relevant passage is among them, with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Averaging {
    /// All judged queries; one that the run lacks has an empty ranking, and with it zeros in all but `num_rel`
    /// (`trec_eval -c`).
    Complete,
    /// The judged queries that the run has (`trec_eval`, `pytrec_eval`).
    Intersection,
    /// As BEIR and SimLM do: MRR, success, hole and capped recall over all judged queries, the rest over the
    /// intersection.
    Mixed,
}

impl Averaging {
    /// Whether a measure's mean is over all judged queries.
    pub(crate) fn is_complete_for(self, measure: Measure) -> bool {
        use MeasureKind::{Hole, RecallCapped, ReciprocalRank, Success};
        match self {
            Self::Complete => true,
            Self::Intersection => false,
            Self::Mixed => matches!(measure.kind, ReciprocalRank | Success | Hole | RecallCapped),
        }
    }
}

/// With how many bits scores are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScorePrecision {
    /// As `trec_eval` 9 and `pytrec_eval`.
    F32,
    /// As `trec_eval` 10 and evaluators in Python.
    F64,
}

/// How passages of equal score are ordered. Ids are compared by their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// By id, descending (`trec_eval`).
    #[serde(rename = "score_desc_docid_desc")]
    Trec,
    /// As in the file.
    #[serde(rename = "score_desc_file_order")]
    File,
    /// By id, ascending.
    #[serde(rename = "score_desc_docid_asc")]
    DocidAsc,
}

/// The measures and conventions of a known evaluator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// `trec_eval` without options.
    Trec,
    /// TREC Deep Learning: binary measures from grade 2, nDCG over grades, all judged queries.
    TrecDl,
    /// The MS MARCO passage scorer.
    Msmarco,
    /// BEIR's `evaluate`, with MRR beside it; leaves out identical ids. BEIR orders ties by file for MRR only; here they
    /// are `trec_eval`'s for all.
    Beir,
    /// SimLM's metrics. It evaluates scores rounded to four digits; ours are not.
    Simlm,
    /// OpenMatch with `mrr_cut.10`.
    Openmatch,
    /// The retrieval evaluator of sentence-transformers.
    St,
}

/// A text that names no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no profile `{0}`; there are trec, trec-dl, msmarco, beir, simlm, openmatch, st")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        Ok(match text {
            "trec" => Self::Trec,
            "trec-dl" => Self::TrecDl,
            "msmarco" => Self::Msmarco,
            "beir" => Self::Beir,
            "simlm" => Self::Simlm,
            "openmatch" => Self::Openmatch,
            "st" => Self::St,
            _ => return Err(UnknownProfile(text.to_owned())),
        })
    }
}

impl Profile {
    /// Returns the profile's measures and conventions for these judgments: SimLM's MRR takes grade 2 as relevant when
    /// there is a grade of 3 or more.
    pub fn config(self, qrels: &Qrels) -> EvaluationConfig {
        let base = EvaluationConfig::default();
        match self {
            Self::Trec => EvaluationConfig {
                measures: measures(
                    "num_ret num_rel num_rel_ret map Rprec bpref mrr ndcg P@5,10,20,100 recall@100,1000 ndcg@10,20",
                ),
                averaging: Averaging::Intersection,
                ..base
            },
            Self::TrecDl => EvaluationConfig {
                measures: measures("ndcg@10 ndcg@100 map mrr P@10 recall@100,1000 judged@10"),
                relevance_level: 2,
                ..base
            },
            Self::Msmarco => EvaluationConfig {
                measures: measures("mrr@10,100 recall@10,50,100,500,1000"),
                score_precision: ScorePrecision::F64,
                ties: Ties::File,
                ..base
            },
            Self::Beir => EvaluationConfig {
                measures: measures(
                    "ndcg@1,3,5,10,100,1000 map@1,3,5,10,100,1000 recall@1,3,5,10,100,1000 P@1,3,5,10,100,1000 \
                     mrr@1,3,5,10,100,1000",
                ),
                averaging: Averaging::Mixed,
                ignore_identical_ids: true,
                ..base
            },
            Self::Simlm => {
                let max_grade = qrels
                    .queries()
                    .flat_map(|(_, passages)| passages.values())
                    .max();
                let mrr = if max_grade.is_some_and(|&grade| grade >= 3) {
                    "mrr(rel=2)@10"
                } else {
                    "mrr@10"
                };
                let cut =
                    "ndcg@10,50,100,200,1000 map@10,50,100,200,1000 recall@10,50,100,200,1000";
                EvaluationConfig {
                    measures: measures(&format!("{mrr} {cut}")),
                    averaging: Averaging::Mixed,
                    ..base
                }
            }
            Self::Openmatch => EvaluationConfig {
                measures: measures("mrr@10 ndcg@10 recall@100"),
                averaging: Averaging::Intersection,
                score_precision: ScorePrecision::F64,
                ties: Ties::File,
                ..base
            },
            Self::St => EvaluationConfig {
                measures: measures(
                    "success@1,3,5,10 P@1,3,5,10 recall@1,3,5,10 mrr@10 ndcg_bin@10 map_cap@100",
                ),
                ..base
            },
        }
    }
}

fn measures(text: &str) -> Vec<Measure> {
    text.split(' ')
        .flat_map(|list| Measure::parse_list(list).expect("the profiles name measures that exist"))
        .collect()
}
