use serde::{Deserialize, Serialize};

/// What a language model wrote about one passage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeacherLine {
    /// The passage's id.
    pub id: String,
    /// Queries that it asked; none of a passage without text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<Vec<String>>,
    /// Texts that it continued the passage with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuations: Option<Vec<String>>,
}

/// Which of the two a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherText {
    /// Queries.
    Queries,
    /// Continuations.
    Continuations,
}

impl TeacherLine {
    pub(super) fn new(kind: TeacherText, id: String, texts: Vec<String>) -> Self {
        let mut line = Self {
            id,
            ..Self::default()
        };
        match kind {
            TeacherText::Queries => line.queries = Some(texts),
            TeacherText::Continuations => line.continuations = Some(texts),
        }
        line
    }

    pub(super) fn texts(self, kind: TeacherText) -> Result<Vec<String>, String> {
        let (name, texts) = match kind {
            TeacherText::Queries => ("queries", self.queries),
            TeacherText::Continuations => ("continuations", self.continuations),
        };
        texts.ok_or_else(|| format!("the line has no `{name}`"))
    }
}
