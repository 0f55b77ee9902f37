use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use tantivy::error::DataCorruption;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::Postings;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocSet, Searcher, TERMINATED, TantivyError, Term};

use crate::Bitmap;
use crate::lexical::ORDINAL;
use crate::words::Words;

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

/// Passages that are not in the index, and passages of the index that are not to be found.
#[derive(Clone, Copy)]
pub(crate) struct Changes<'a> {
    /// Ordinal of the first passage that was added.
    pub first_ordinal: u32,
    /// Those that were added, `chunk` at a time.
    pub added: &'a [&'a Words],
    pub chunk: u32,
    /// Ordinals that are not to be found, of either kind.
    pub deleted: &'a Bitmap,
    /// The words of those of the index.
    pub removed: &'a [&'a Words],
}

impl Changes<'_> {
    /// The chunks of what was added, with the ordinal of their first passage.
    fn chunks(&self) -> impl Iterator<Item = (u32, &Words)> {
        let firsts = (self.first_ordinal..).step_by(self.chunk as usize);
        firsts.zip(self.added.iter().copied())
    }

    /// Corrects the number of passages and that of their words.
    fn correct_totals(&self, n_passages: &mut u64, n_tokens: &mut u64) {
        let lengths = |words: &Words| {
            (0..words.len())
                .map(|i| u64::from(words.length(i)))
                .collect::<Vec<_>>()
        };
        for words in self.removed {
            *n_passages -= words.len() as u64;
            *n_tokens -= lengths(words).iter().sum::<u64>();
        }
        for (first, words) in self.chunks() {
            for (ordinal, length) in (first..).zip(lengths(words)) {
                if !self.deleted.contains(ordinal) {
                    *n_passages += 1;
                    *n_tokens += length;
                }
            }
        }
    }

    /// Passages with a word that are in the index, made those that are there.
    fn correct_matches(&self, n_matches: u64, word: &str) -> u64 {
        let n_removed: usize = self
            .removed
            .iter()
            .map(|words| words.postings(word).len())
            .sum();
        let n_added: usize = self
            .chunks()
            .map(|(first, words)| {
                let postings = words.postings(word).iter();
                postings
                    .filter(|(position, _)| !self.deleted.contains(first + position))
                    .count()
            })
            .sum();
        n_matches + n_added as u64 - n_removed as u64
    }
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
/// order with statistics of all passages that are there, so neither segments nor merges nor changes that are not yet in the index
/// move a score, and equal passages tie.
pub(crate) fn search(
    searcher: &Searcher,
    field: Field,
    terms: &BTreeMap<Term, u32>,
    k: usize,
    filter: Option<&Bitmap>,
    changes: &Changes<'_>,
) -> tantivy::Result<Vec<LexicalHit>> {
    let (mut n_passages, mut n_tokens) = (searcher.num_docs(), 0);
    for segment in searcher.segment_readers() {
        n_tokens += segment.inverted_index(field)?.total_num_tokens();
    }
    changes.correct_totals(&mut n_passages, &mut n_tokens);
    let n_passages = n_passages as f32; // N
    let mean_length = n_tokens as f32 / n_passages; // l̄
    let length_factors: [f32; 256] = std::array::from_fn(|norm| {
        K1 * (1.0 - B + B * FieldNormReader::id_to_fieldnorm(norm as u8) as f32 / mean_length)
    });
    let mut weighted_terms = Vec::new();
    for (term, &query_frequency) in terms {
        let n_matches = searcher.doc_freq(term)?;
        let n_matches = changes.correct_matches(n_matches, word(term)) as f32; // n_t
        let idf = (1.0 + (n_passages - n_matches + 0.5) / (n_matches + 0.5)).ln();
        weighted_terms.push((term, query_frequency as f32 * idf * (K1 + 1.0)));
    }

    let mut best = Best {
        k,
        hits: BinaryHeap::new(),
    };
    let passes = |ordinal| {
        filter.is_none_or(|filter| filter.contains(ordinal)) && !changes.deleted.contains(ordinal)
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
                    if passes(ordinal) {
                        best.offer(LexicalHit { ordinal, score });
                    }
                }
            }
        }
    }
    for (first, words) in changes.chunks() {
        let mut scores = vec![0.0_f32; words.len()];
        for (term, weight) in &weighted_terms {
            for &(position, frequency) in words.postings(word(term)) {
                let (position, frequency) = (position as usize, frequency as f32); // f_t
                let norm = FieldNormReader::fieldnorm_to_id(words.length(position));
                scores[position] +=
                    *weight * frequency / (frequency + length_factors[norm as usize]);
            }
        }
        for (ordinal, score) in (first..).zip(scores) {
            if score > 0.0 && score >= best.floor() && passes(ordinal) {
                best.offer(LexicalHit { ordinal, score });
            }
        }
    }
    Ok(best.hits.into_sorted_vec())
}

fn word(term: &Term) -> &str {
    std::str::from_utf8(term.serialized_value_bytes()).expect("a word is text")
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
