use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use tantivy::error::DataCorruption;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::Postings;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocSet, Searcher, TERMINATED, TantivyError, Term};

use crate::Bitmap;
use crate::lexical::ORDINAL;

const K1: f32 = 1.2;
const B: f32 = 0.75;
/// Documents scored at a time; their scores stay in the first-level cache.
const WINDOW: usize = 4096;

/// A passage found by its words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LexicalHit {
    /// Ordinal of the passage.
    pub ordinal: u32,
    /// BM25 score, above zero.
    pub score: f32,
}

/// Orders hits best first: by score descending, then by ordinal ascending.
impl Ord for LexicalHit {
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(self.ordinal.cmp(&other.ordinal))
    }
}

impl PartialOrd for LexicalHit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for LexicalHit {}

/// Okapi BM25 over a disjunction of terms, Robertson & Zaragoza 2009, eq. 3.15.
///
/// `Σ_t q_t · ln(1 + (N − n_t + ½)/(n_t + ½)) · f_t·(k₁ + 1) / (f_t + k₁·(1 − b + b·l/l̄))`
///
/// N passages, n_t of them with the term t, q_t and f_t its frequency in query and passage, l the passage's length in
/// terms and l̄ the mean length.
///
/// Deviations: 1 is added under the logarithm, so that no term counts against a passage; l is rounded to tantivy's
/// one-byte norms.
///
/// Exhaustive over the postings of the terms: O(Σ n_t) time, O(k) memory. Every passage sums its terms in the same
/// order with statistics of the whole index, so neither segments nor merges change a score, and equal passages tie.
pub(crate) fn search(
    searcher: &Searcher,
    field: Field,
    terms: &BTreeMap<Term, u32>,
    k: usize,
    filter: Option<&Bitmap>,
) -> tantivy::Result<Vec<LexicalHit>> {
    let n_passages = searcher.num_docs() as f32; // N
    let mut n_tokens = 0;
    for segment in searcher.segment_readers() {
        n_tokens += segment.inverted_index(field)?.total_num_tokens();
    }
    let mean_length = n_tokens as f32 / n_passages; // l̄
    let length_factors: [f32; 256] = std::array::from_fn(|norm| {
        K1 * (1.0 - B + B * FieldNormReader::id_to_fieldnorm(norm as u8) as f32 / mean_length)
    });
    let mut weighted_terms = Vec::new();
    for (term, &query_frequency) in terms {
        let n_matches = searcher.doc_freq(term)? as f32; // n_t
        let idf = (1.0 + (n_passages - n_matches + 0.5) / (n_matches + 0.5)).ln();
        weighted_terms.push((term, query_frequency as f32 * idf * (K1 + 1.0)));
    }

    let mut best = Best {
        k,
        hits: BinaryHeap::new(),
    };
    let mut scores = vec![0.0; WINDOW];
    for segment in searcher.segment_readers() {
        let inverted_index = segment.inverted_index(field)?;
        let norms = segment.get_fieldnorms_reader(field)?;
        let ordinals = segment.fast_fields().u64(ORDINAL)?;
        let mut postings = Vec::new();
        for (term, weight) in &weighted_terms {
            if let Some(list) = inverted_index.read_postings(term, IndexRecordOption::WithFreqs)? {
                postings.push((list, *weight));
            }
        }
        loop {
            let start = postings
                .iter()
                .map(|(list, _)| list.doc())
                .min()
                .unwrap_or(TERMINATED);
            if start == TERMINATED {
                break;
            }
            for (list, weight) in &mut postings {
                while list.doc() != TERMINATED && ((list.doc() - start) as usize) < WINDOW {
                    let frequency = list.term_freq() as f32; // f_t
                    let length_factor = length_factors[norms.fieldnorm_id(list.doc()) as usize];
                    scores[(list.doc() - start) as usize] +=
                        *weight * frequency / (frequency + length_factor);
                    list.advance();
                }
            }
            for (document, score) in (start..).zip(&mut scores) {
                let score = std::mem::take(score);
                if score > 0.0 && score >= best.floor() {
                    let ordinal = ordinals.first(document).ok_or_else(no_ordinal)? as u32;
                    if filter.is_none_or(|filter| filter.contains(ordinal)) {
                        best.offer(LexicalHit { ordinal, score });
                    }
                }
            }
        }
    }
    Ok(best.hits.into_sorted_vec())
}

fn no_ordinal() -> TantivyError {
    TantivyError::DataCorruption(DataCorruption::comment_only("a document has no ordinal"))
}

/// The k best hits so far, the worst of them on top of the heap.
struct Best {
    k: usize,
    hits: BinaryHeap<LexicalHit>,
}

impl Best {
    /// Score below which no hit can enter.
    fn floor(&self) -> f32 {
        if self.hits.len() < self.k {
            0.0
        } else {
            self.hits.peek().map_or(f32::INFINITY, |worst| worst.score)
        }
    }

    fn offer(&mut self, hit: LexicalHit) {
        self.hits.push(hit);
        if self.hits.len() > self.k {
            self.hits.pop();
        }
    }
}
