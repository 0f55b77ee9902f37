//! English sentences by rule.

/// Abbreviations after which a sentence goes on, without their last full stop, in lower case.
const ABBREVIATIONS: [&str; 58] = [
    "a.m", "adm", "al", "approx", "apr", "assoc", "aug", "ave", "bros", "capt", "cf", "co", "col",
    "corp", "dec", "dept", "dr", "e.g", "ed", "eds", "eq", "esp", "est", "etc", "feb", "fig",
    "figs", "gen", "gov", "i.e", "inc", "jan", "jr", "lt", "ltd", "maj", "mr", "mrs", "ms", "mt",
    "nov", "oct", "p.m", "pp", "prof", "rep", "rev", "sec", "sen", "sept", "sgt", "sr", "st",
    "u.k", "u.s", "viz", "vol", "vs",
];
/// What ends a sentence where no space follows, in Chinese and Japanese.
const FULL_WIDTH_ENDS: [char; 3] = ['。', '！', '？'];
/// What may follow the end of a sentence and still belongs to it.
const CLOSING: [char; 8] = ['"', '\'', ')', ']', '}', '”', '’', '»'];

/// Splits a text into sentences, without the white space between them; none is empty.
///
/// A sentence ends at an empty line; at `。`, `！`, `？`; and at `.`, `!`, `?` or `…`, with closing quotes and brackets, where
/// white space follows, then no lower-case letter. A full stop ends none after one letter (`J. Smith`) or a common
/// abbreviation, unless an empty line follows.
///
/// Deviation: the published code splits with NLTK's trained Punkt model. These rules need no model; they know English.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut rest = text.char_indices().peekable();
    while let Some((at, letter)) = rest.next() {
        let ends = match letter {
            '\n' => text[at + 1..]
                .trim_start_matches([' ', '\t', '\r'])
                .starts_with('\n'),
            letter if FULL_WIDTH_ENDS.contains(&letter) => true,
            '.' | '!' | '?' | '…' => {
                let marks = ['.', '!', '?', '…'];
                while rest.next_if(|(_, next)| marks.contains(next)).is_some() {}
                while rest.next_if(|(_, next)| CLOSING.contains(next)).is_some() {}
                let after = rest.peek().map_or("", |&(next, _)| &text[next..]);
                begins_sentence(after) && !(letter == '.' && is_abbreviated(&text[start..at]))
            }
            _ => false,
        };
        if ends {
            let end = rest.peek().map_or(text.len(), |&(next, _)| next);
            sentences.push(text[start..end].trim());
            start = end;
        }
    }
    sentences.push(text[start..].trim());
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// Whether what follows a full stop is the end of the text, or white space and no lower-case letter.
fn begins_sentence(after: &str) -> bool {
    let next = after.trim_start();
    next.is_empty() || next.len() < after.len() && !next.starts_with(char::is_lowercase)
}

/// Whether the last word before a full stop is shortened, so that the stop need not be the sentence's.
fn is_abbreviated(before: &str) -> bool {
    let word = before
        .rsplit(char::is_whitespace)
        .next()
        .unwrap_or_default();
    let word = word.trim_start_matches(|letter: char| !letter.is_alphanumeric());
    let is_initial =
        word.chars().count() == 1 && word.starts_with(char::is_uppercase) && word != "I";
    is_initial || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(expected: &[&str]) {
        assert_eq!(sentences(&expected.join(" ")), expected);
    }

    #[test]
    fn sentences_end_where_a_reader_would_stop() {
        check(&["It rains.", "It pours!", "Does it?", "Yes…", "3 days."]);
        check(&["He said “stop.”", "(She did.)", "So?!", "\"Well.\""]);
        check(&[
            "Dr. J. Smith, e.g., met Mr. Jones at 5.30 p.m. in St. Louis.",
            "He left.",
        ]);
        check(&["The U.S. Senate v. no. one, etc. and so on.", "Then I."]);
        check(&["It was I.", "He knew."]);
        check(&["Version 1.2.3 of example.com is out.", "Get it."]);
        check(&["no capital. or two. is one sentence"]);
        assert_eq!(
            sentences("今日は雨。明日は？晴れ"),
            ["今日は雨。", "明日は？", "晴れ"]
        );
        assert_eq!(
            sentences("A heading\n\nText of\ntwo lines"),
            ["A heading", "Text of\ntwo lines"]
        );
        assert_eq!(sentences("at p.m.\n \r\n\nx"), ["at p.m.", "x"]);
        assert_eq!(sentences("..."), ["..."]);
        assert!(sentences(" \n\n ").is_empty());
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_is_lost(text in "[a-zA-Z.!? \n\"'()。é]{0,200}") {
            let letters = |text: &str| text.split_whitespace().collect::<String>();
            let found = sentences(&text);
            prop_assert_eq!(letters(&found.concat()), letters(&text));
            prop_assert!(found.iter().all(|one| !one.is_empty() && one.trim() == *one));
        }
    }
}
