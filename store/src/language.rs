use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tantivy::tokenizer::{
    AsciiFoldingFilter, LowerCaser, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
};

macro_rules! languages {
    ($($(#[$attribute:meta])* $variant:ident $name:literal),* $(,)?) => {
        /// Language of the passages; it chooses stop words and the Snowball stemmer. English by default.
        ///
        /// Arabic, Greek, Romanian, Tamil and Turkish have a stemmer and no list of stop words.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Language {
            $(
                #[doc = concat!("`", $name, "`.")]
                $(#[$attribute])*
                $variant,
            )*
        }

        impl Language {
            /// Every language, by name.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the English name in lower case, as `--language` takes it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            fn stemmer(self) -> tantivy::tokenizer::Language {
                match self { $(Self::$variant => tantivy::tokenizer::Language::$variant),* }
            }
        }
    };
}

languages! {
    Arabic "arabic", Danish "danish", Dutch "dutch", #[default] English "english", Finnish "finnish", French "french",
    German "german", Greek "greek", Hungarian "hungarian", Italian "italian", Norwegian "norwegian",
    Portuguese "portuguese", Romanian "romanian", Russian "russian", Spanish "spanish", Swedish "swedish",
    Tamil "tamil", Turkish "turkish",
}

impl Language {
    /// Words of letters and digits → lower case → without stop words → stemmed → accents folded to ASCII.
    ///
    /// Folding comes last, as stop words and stemmers expect the accents of their language.
    pub(crate) fn analyzer(self) -> TextAnalyzer {
        let words = TextAnalyzer::builder(SimpleTokenizer::default())
            .filter(LowerCaser)
            .dynamic();
        match StopWordFilter::new(self.stemmer()) {
            Some(stop_words) => words.filter_dynamic(stop_words),
            None => words,
        }
        .filter_dynamic(Stemmer::new(self.stemmer()))
        .filter_dynamic(AsciiFoldingFilter)
        .build()
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no [`Language`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown language `{0}`")]
pub struct UnknownLanguage(pub String);

impl FromStr for Language {
    type Err = UnknownLanguage;

    fn from_str(name: &str) -> Result<Self, UnknownLanguage> {
        let found = Self::ALL
            .iter()
            .find(|language| language.as_str().eq_ignore_ascii_case(name));
        found
            .copied()
            .ok_or_else(|| UnknownLanguage(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for &language in Language::ALL {
            assert_eq!(language.as_str().parse(), Ok(language));
            assert_eq!(serde_json::to_value(language).unwrap(), language.as_str());
        }
        assert_eq!("English".parse(), Ok(Language::English));
        assert_eq!(
            "klingon".parse::<Language>(),
            Err(UnknownLanguage("klingon".into()))
        );
    }

    fn check_terms(language: Language, text: &str, expected: &[&str]) {
        let mut terms = Vec::new();
        language
            .analyzer()
            .token_stream(text)
            .process(&mut |token| terms.push(token.text.clone()));
        assert_eq!(terms, expected);
    }

    #[test]
    fn analyzer_stops_stems_and_folds() {
        check_terms(
            Language::English,
            "The Running of the naïve dogs, 1973!",
            &["run", "naiv", "dog", "1973"],
        );
        check_terms(
            Language::German,
            "die Häuser und die Straße",
            &["haus", "strass"],
        );
        check_terms(Language::Turkish, "kitaplar", &["kitap"]);
        check_terms(Language::English, "", &[]);
    }
}
