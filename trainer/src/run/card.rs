/// What a reader of a model card wants to know.
#[derive(Clone, Debug, Default)]
pub struct ModelCard<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it does, and in which layout it is.
    pub kind: ModelKind,
    /// The model that training began with.
    pub base: &'a str,
    /// Its licence, as an SPDX identifier.
    pub license: Option<&'a str>,
    /// What it was trained on, a line each.
    pub data: &'a [String],
    /// Steps, examples and so on: name and value.
    pub training: &'a [(String, String)],
    /// Dev figures: name, before and after training.
    pub figures: &'a [(String, Option<f64>, f64)],
    /// The configuration of the run.
    pub config: &'a str,
}

/// What a model does, by which a reader knows how to load it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelKind {
    /// Vectors.
    #[default]
    BiEncoder,
    /// Vectors, of queries and of passages by a model each.
    Towers,
    /// Vectors of a decoder's first step, of one model or two.
    OpenMatch,
    /// Scores of pairs.
    CrossEncoder,
    /// A pre-trained encoder with the head that says what is hidden.
    MaskedLanguageModel,
}

impl ModelKind {
    fn usage(self) -> String {
        let python = |class: &str, lines: &str| {
            format!("```python\nfrom sentence_transformers import {class}\n{lines}\n```")
        };
        match self {
            Self::BiEncoder => python(
                "SentenceTransformer",
                "model = SentenceTransformer(\"path/to/this/folder\")\nmodel.encode([\"text\"])",
            ),
            Self::Towers => python(
                "SentenceTransformer",
                "queries = SentenceTransformer(\"path/to/this/folder/query\")\n\
                 passages = SentenceTransformer(\"path/to/this/folder/passage\")\n\
                 queries.encode([\"query\"]) @ passages.encode([\"passage\"]).T",
            ),
            Self::OpenMatch => {
                "The layout is OpenMatch's: `openmatch_config.json` beside the weights of each tower.".to_owned()
            }
            Self::MaskedLanguageModel => {
                "```python\nfrom transformers import AutoModelForMaskedLM, AutoTokenizer\n\
                 model = AutoModelForMaskedLM.from_pretrained(\"path/to/this/folder\")\n\
                 tokenizer = AutoTokenizer.from_pretrained(\"path/to/this/folder\")\n```\n\n\
                 A masked language model, pre-trained for retrieval: fine-tune it with `pooling = \"cls\"` \
                 and `normalize = true` or `false` before searching with it."
                    .to_owned()
            }
            Self::CrossEncoder => python(
                "CrossEncoder",
                "model = CrossEncoder(\"path/to/this/folder\")\nmodel.predict([(\"query\", \"passage\")])",
            ),
        }
    }
}

impl ModelCard<'_> {
    /// The card as Markdown with the header that the hub reads.
    pub fn render(&self) -> String {
        let mut card = String::from("---\n");
        if let Some(license) = self.license {
            card += &format!("license: {license}\n");
        }
        let (pipeline, tags) = match self.kind {
            ModelKind::CrossEncoder => ("text-ranking", "- sentence-transformers\n- cross-encoder"),
            ModelKind::MaskedLanguageModel => ("fill-mask", "- fill-mask"),
            ModelKind::OpenMatch => ("feature-extraction", "- feature-extraction"),
            ModelKind::BiEncoder | ModelKind::Towers => (
                "sentence-similarity",
                "- sentence-transformers\n- feature-extraction",
            ),
        };
        card += &format!(
            "pipeline_tag: {pipeline}\ntags:\n{tags}\n---\n\n# {}\n\nTrained by trawl {} from `{}`.\n\n{}\n\n",
            self.name,
            env!("CARGO_PKG_VERSION"),
            self.base,
            self.kind.usage(),
        );
        card += "## Data\n\n";
        for line in self.data {
            card += &format!("- {line}\n");
        }
        card += "\n## Training\n\n";
        for (name, value) in self.training {
            card += &format!("- {name}: {value}\n");
        }
        if !self.figures.is_empty() {
            card += "\n## Dev figures\n\n| measure | before | after |\n|---|---|---|\n";
            for (name, before, after) in self.figures {
                let before = before.map_or("–".to_owned(), |value| format!("{value:.4}"));
                card += &format!("| {name} | {before} | {after:.4} |\n");
            }
        }
        card + &format!("\n## Configuration\n\n```toml\n{}```\n", self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_tells_what_a_reader_asks() {
        let data = ["medquad, train split, CC BY 4.0".to_owned()];
        let card = ModelCard {
            name: "tiny",
            base: "tiny-bert",
            license: Some("apache-2.0"),
            data: &data,
            training: &[("steps".to_owned(), "10".to_owned())],
            figures: &[("ndcg@10".to_owned(), Some(0.25), 0.5)],
            config: "[run]\nseed = 42\n",
            ..ModelCard::default()
        };
        let card = card.render();
        for part in [
            "---\nlicense: apache-2.0\n",
            "- medquad, train",
            "- steps: 10",
            "| ndcg@10 | 0.2500 | 0.5000 |",
            "seed = 42",
            "SentenceTransformer(",
        ] {
            assert!(card.contains(part), "{part} is not in\n{card}");
        }
        assert!(ModelKind::Towers.usage().contains("this/folder/passage"));
        // Fine-tuning refuses an export of pre-training without both.
        let usage = ModelKind::MaskedLanguageModel.usage();
        for key in ["`pooling = \"cls\"`", "`normalize = true` or `false`"] {
            assert!(usage.contains(key), "{key} is not in\n{usage}");
        }
    }
}
