//! The part of a text that has the words of a query.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tantivy::tokenizer::TextAnalyzer;

/// Finds the words of one query in texts, as lexical search reads both: in any case and inflection, without stop words.
pub struct Highlighter {
    analyzer: TextAnalyzer,
    terms: HashSet<String>,
}

/// A piece of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text as it stands in the passage; `…` at an end where more of it follows or precedes.
    pub text: String,
    /// Whether it is a word of the query.
    pub is_match: bool,
}

/// A word of the query in a text.
struct Found {
    bytes: Range<usize>,
    term: String,
}

const ELLIPSIS: &str = "…";

impl Highlighter {
    pub(crate) fn new(mut analyzer: TextAnalyzer, query: &str) -> Self {
        let mut terms = HashSet::new();
        analyzer.token_stream(query).process(&mut |token| {
            terms.insert(token.text.clone());
        });
        Self { analyzer, terms }
    }

    /// Returns the fragment of at most `max_chars` characters that has the most different words of the query, then the most
    /// words of it, then stands first; where none is, the beginning of the text. Joined, the pieces are the fragment.
    ///
    /// Fragments begin and end between words, and a word longer than `max_chars` is cut.
    pub fn fragment(&mut self, text: &str, max_chars: usize) -> Vec<Piece> {
        let found = self.find(text);
        let starts: Vec<usize> = text.char_indices().map(|(start, _)| start).collect();
        let window = widen(text, &starts, best(&found, &starts, max_chars), max_chars);
        let inside = found
            .into_iter()
            .map(|found| found.bytes)
            .filter(|bytes| window.start <= bytes.start && bytes.end <= window.end);
        let mut pieces = Vec::new();
        let mut push = |text: &str, is_match| {
            if !text.is_empty() {
                pieces.push(Piece {
                    text: text.to_owned(),
                    is_match,
                });
            }
        };
        push(if window.start > 0 { ELLIPSIS } else { "" }, false);
        let mut end = window.start;
        for bytes in inside {
            push(&text[end..bytes.start], false);
            push(&text[bytes.clone()], true);
            end = bytes.end;
        }
        push(&text[end..window.end], false);
        push(
            if window.end < text.len() {
                ELLIPSIS
            } else {
                ""
            },
            false,
        );
        join_plain(pieces)
    }

    fn find(&mut self, text: &str) -> Vec<Found> {
        let Self { analyzer, terms } = self;
        let mut found = Vec::new();
        analyzer.token_stream(text).process(&mut |token| {
            if terms.contains(&token.text) {
                found.push(Found {
                    bytes: token.offset_from..token.offset_to,
                    term: token.text.clone(),
                });
            }
        });
        found
    }
}

/// The span, in characters, of the words that the fragment is to have.
fn best(found: &[Found], starts: &[usize], max_chars: usize) -> Range<usize> {
    let character = |byte: usize| starts.partition_point(|&start| start < byte);
    let (mut first, mut inside) = (0, HashMap::new());
    let (mut best, mut most) = (0..0, (0, 0));
    for (last, Found { bytes, term }) in found.iter().enumerate() {
        *inside.entry(term).or_insert(0) += 1;
        let end = character(bytes.end);
        while end - character(found[first].bytes.start) > max_chars && first < last {
            let left = &found[first].term;
            if let Some(n) = inside.get_mut(left) {
                *n -= 1;
                if *n == 0 {
                    inside.remove(left);
                }
            }
            first += 1;
        }
        let value = (inside.len(), last + 1 - first);
        if value > most {
            (best, most) = (character(found[first].bytes.start)..end, value);
        }
    }
    best
}

/// The bytes of a span and as much around it as fits, a third of that before it, cut between words.
fn widen(text: &str, starts: &[usize], span: Range<usize>, max_chars: usize) -> Range<usize> {
    let n_chars = starts.len();
    let byte = |character: usize| starts.get(character).copied().unwrap_or(text.len());
    let spare = max_chars.saturating_sub(span.len());
    let before = (spare / 3).max(spare.saturating_sub(n_chars - span.end));
    let mut start = byte(span.start.saturating_sub(before));
    if span.start > before {
        // From the character before on, so that a word that begins here stays whole.
        let left_out = byte(span.start - before - 1);
        let cut = text[left_out..byte(span.start)].find(char::is_whitespace);
        start = cut.map_or(byte(span.start), |cut| left_out + cut);
        start += text[start..].len() - text[start..].trim_start().len();
    }
    let last = starts.partition_point(|&other| other < start) + max_chars;
    let mut end = byte(last);
    if end < text.len() {
        let from = byte(span.end).clamp(start, end);
        let cut = text[from..byte(last + 1)].rfind(char::is_whitespace);
        end = match cut {
            Some(cut) => from + cut,
            None if from > start => from,
            None => end,
        };
        end = start + text[start..end].trim_end().len();
    }
    start..end
}

/// Joins neighbours that are no words of the query.
fn join_plain(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if !last.is_match && !piece.is_match => last.text.push_str(&piece.text),
            _ => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Language;

    /// Words of the query are in brackets.
    #[track_caller]
    fn check(query: &str, text: &str, max_chars: usize, expected: &str) {
        let mut highlighter = Highlighter::new(Language::English.analyzer(), query);
        let pieces = highlighter.fragment(text, max_chars);
        let marked = |piece: &Piece| match piece.is_match {
            true => format!("[{}]", piece.text),
            false => piece.text.clone(),
        };
        let written: String = pieces.iter().map(marked).collect();
        assert_eq!(written, expected);
    }

    #[test]
    fn words_are_found_in_any_case_and_inflection() {
        check(
            "the Bee's flights",
            "Bees fly. A flight of the BEE.",
            99,
            "[Bees] fly. A [flight] of the [BEE].",
        );
        check("café", "Cafes: le café.", 99, "[Cafes]: le [café].");
        check("the of", "The end of it", 99, "The end of it");
        check("", "", 99, "");
    }

    #[test]
    fn the_fragment_has_the_most_different_words() {
        let text =
            "sun sun sun and nothing else for a while, then the moon with the sun, and the end";
        check("sun moon", text, 30, "…the [moon] with the [sun], and the…");
        check("sun", text, 14, "[sun] [sun] [sun]…");
        check("absent", text, 14, "sun sun sun…");
        check("end", text, 14, "…and the [end]");
    }

    #[test]
    fn cuts_fall_between_characters() {
        check("x", "ééééééééé", 4, "éééé…");
        check("zürich", "Nach Zürich über Österreich", 8, "…[Zürich]…");
        check("internationalization", "internationalization", 5, "inter…");
    }

    #[test]
    fn pieces_are_a_part_of_the_text_and_no_longer_than_asked() {
        let text = "Löwen und Bären: a lion, two bears — and the sea.\n Lions again; no bear at all, at the end of it.";
        for max_chars in 1..text.len() {
            for query in ["lion bears", "sea end", "löwen", "again", "nothing"] {
                let mut highlighter = Highlighter::new(Language::English.analyzer(), query);
                let pieces = highlighter.fragment(text, max_chars);
                let whole: String = pieces.into_iter().map(|piece| piece.text).collect();
                let inner = whole.trim_matches('…');
                assert!(text.contains(inner), "`{inner}`");
                assert!(inner.chars().count() <= max_chars, "{max_chars}: `{inner}`");
            }
        }
    }
}
