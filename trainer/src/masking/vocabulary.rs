use encoder::TextTokenizer;

use crate::data::DataError;

/// What masking knows of BERT's word pieces: their texts, which of them continue a word, which are special.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    pieces: Vec<String>,
    kinds: Vec<Kind>,
    special: SpecialIds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Begins a word.
    Start,
    /// `##` and more.
    Continuation,
    Special,
}

/// Ids of BERT's five special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// `[PAD]`
    pub pad: u32,
    /// `[UNK]`
    pub unk: u32,
    /// `[CLS]`
    pub cls: u32,
    /// `[SEP]`
    pub sep: u32,
    /// `[MASK]`
    pub mask: u32,
}

impl Vocabulary {
    /// Reads the vocabulary of a tokenizer.
    ///
    /// # Errors
    /// [`DataError::NotWordPieces`] for a tokenizer that is not BERT's.
    pub fn of(tokenizer: &TextTokenizer) -> Result<Self, DataError> {
        Self::new(tokenizer.pieces())
    }

    /// Makes a vocabulary of the text of each id.
    ///
    /// # Errors
    /// [`DataError::NotWordPieces`] when a special token is not among them.
    pub fn new(pieces: Vec<String>) -> Result<Self, DataError> {
        let find = |token: &'static str| {
            let id = pieces.iter().position(|piece| piece == token);
            id.map(|id| id as u32)
                .ok_or(DataError::NotWordPieces { token })
        };
        let special = SpecialIds {
            pad: find("[PAD]")?,
            unk: find("[UNK]")?,
            cls: find("[CLS]")?,
            sep: find("[SEP]")?,
            mask: find("[MASK]")?,
        };
        let mut kinds: Vec<Kind> = pieces
            .iter()
            .map(|piece| match piece.starts_with("##") {
                true => Kind::Continuation,
                false => Kind::Start,
            })
            .collect();
        for id in special.all() {
            kinds[id as usize] = Kind::Special;
        }
        Ok(Self {
            pieces,
            kinds,
            special,
        })
    }

    /// V, the number of ids.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Returns the first id that is not below V: the other functions panic on such.
    pub fn unknown(&self, ids: &[u32]) -> Option<u32> {
        let n_ids = self.len();
        ids.iter().copied().find(|&id| id as usize >= n_ids)
    }

    /// Says which id of a line is not below V.
    pub(crate) fn check(&self, ids: &[u32]) -> Result<(), String> {
        match self.unknown(ids) {
            None => Ok(()),
            Some(id) => Err(format!(
                "token {id} is not one of the tokenizer's {}",
                self.len()
            )),
        }
    }

    /// The text of an id, with its `##`.
    pub fn piece(&self, id: u32) -> &str {
        &self.pieces[id as usize]
    }

    /// Whether the id is one of the five special ones.
    pub fn is_special(&self, id: u32) -> bool {
        self.kinds[id as usize] == Kind::Special
    }

    /// Whether the id begins with `##`.
    pub fn continues_word(&self, id: u32) -> bool {
        self.kinds[id as usize] == Kind::Continuation
    }
}

impl SpecialIds {
    fn all(self) -> [u32; 5] {
        [self.pad, self.unk, self.cls, self.sep, self.mask]
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::vocabulary;
    use super::*;

    #[test]
    fn pieces_are_told_apart() {
        let vocabulary = vocabulary("the ##fish # ##");
        let kinds = |of: fn(&Vocabulary, u32) -> bool| {
            let ids = 0..vocabulary.len() as u32;
            ids.filter(|&id| of(&vocabulary, id)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(Vocabulary::is_special), [0, 1, 2, 3, 4]);
        assert_eq!(kinds(Vocabulary::continues_word), [6, 8]);
        assert_eq!(vocabulary.unknown(&[0, 8, 9, 10]), Some(9));
        assert_eq!(vocabulary.unknown(&[0, 8]), None);
    }

    #[test]
    fn another_tokenizer_is_refused() {
        let pieces = ["<s>", "</s>", "[UNK]", "[PAD]"].map(str::to_owned);
        let error = Vocabulary::new(pieces.to_vec()).expect_err("it has no [CLS]");
        assert!(error.to_string().contains("`[CLS]`"), "{error}");
    }
}
