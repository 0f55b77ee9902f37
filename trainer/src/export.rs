//! Model directories as sentence-transformers and transformers read them, and OpenMatch's of decoders.
//!
//! An objective says what its model is; [`BiEncoderExport`] and [`CrossEncoderExport`] write the files around it. All
//! weights are f32 under the names of the Hugging Face classes.

use std::fs;
use std::path::{Path, PathBuf};

use encoder::training::{Kind, Parameters, TrainingError};
use encoder::{OutputActivation, Pooling, RankPrior, Similarity};
use serde_json::{Value, json};

use crate::json::read_json;

/// The version that files name: newer readers take it, older ones do not warn.
const SENTENCE_TRANSFORMERS: &str = "3.0.0";

/// Folder of the tower that encodes queries, in the export of a model with two.
pub const QUERY_TOWER: &str = "query";

/// Folder of the tower that encodes passages, in the export of a model with two.
pub const PASSAGE_TOWER: &str = "passage";

/// Files of a tokenizer, of which a model has some.
const TOKENIZER_FILES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
];

/// A bi-encoder, or one of its towers, as a sentence-transformers directory; with [`Pooling::Decoder`], which
/// sentence-transformers does not have, as OpenMatch's.
pub struct BiEncoderExport<'a> {
    /// Folder of the transformer that training began with: its `config.json` and tokenizer.
    pub source: &'a Path,
    /// Weights of the transformer.
    pub weights: Tensors,
    /// Whether texts are lower-cased before the tokenizer's own normalization.
    pub lower_case: bool,
    /// Most tokens of a text, special tokens included.
    pub max_tokens: usize,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// Whether tokens of the prompt count in the pooling.
    pub pools_prompt: bool,
    /// A linear layer behind the pooling: its weight (out, in), its bias (out).
    pub dense: Option<DenseExport>,
    /// Whether vectors are brought to length 1.
    pub normalize: bool,
    /// How they are compared.
    pub similarity: Similarity,
    /// Put before each query.
    pub query_prompt: &'a str,
    /// Put before each passage.
    pub passage_prompt: &'a str,
}

/// A linear layer behind the pooling.
pub struct DenseExport {
    /// Values that come in.
    pub n_in: usize,
    /// Values that go out.
    pub n_out: usize,
    /// (out, in), row-major.
    pub weight: Vec<f32>,
    /// (out), where there is one.
    pub bias: Option<Vec<f32>>,
    /// What follows the product.
    pub activation: OutputActivation,
}

/// A cross-encoder of one score as a `…ForSequenceClassification` directory.
pub struct CrossEncoderExport<'a> {
    /// As in [`BiEncoderExport`].
    pub source: &'a Path,
    /// Weights of the transformer, with the prefix of its class, and of the head.
    pub weights: Tensors,
    /// As in [`BiEncoderExport`].
    pub lower_case: bool,
    /// Most tokens of a pair, special tokens included.
    pub max_tokens: usize,
    /// What the order of the first stage adds to the scores.
    pub rank_prior: Option<RankPrior>,
}

/// An encoder with the head of masked language modelling as a directory of `BertForMaskedLM` or `ElectraForMaskedLM`, without
/// a pooler.
pub struct MaskedLmExport<'a> {
    /// As in [`BiEncoderExport`].
    pub source: &'a Path,
    /// Weights of encoder and head.
    pub weights: Tensors,
}

impl MaskedLmExport<'_> {
    /// Writes the directory.
    ///
    /// # Errors
    /// [`TrainingError::Write`], [`TrainingError::Load`].
    pub fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        make(folder)?;
        let mut config = read_config(self.source)?;
        config["architectures"] = json!([class(&config, "ForMaskedLM")]);
        write_json(&folder.join("config.json"), &config)?;
        self.weights.write(folder)?;
        copy_tokenizer(self.source, folder)
    }
}

/// Tensors by name.
#[derive(Default)]
pub struct Tensors(Parameters);

impl Tensors {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the values of parameters; `name` gives the name in the file, or `None` for what does not belong there.
    ///
    /// # Errors
    /// When a name repeats.
    pub fn extend(
        &mut self,
        parameters: &Parameters,
        name: impl Fn(&str) -> Option<String>,
    ) -> Result<(), TrainingError> {
        for parameter in parameters.iter() {
            if let Some(name) = name(parameter.name()) {
                self.insert(&name, parameter.shape(), parameter.values()?)?;
            }
        }
        Ok(())
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// When the name repeats or the values do not fit the shape.
    pub fn insert(
        &mut self,
        name: &str,
        shape: &[usize],
        values: Vec<f32>,
    ) -> Result<(), TrainingError> {
        self.0.insert(name, shape, values, Kind::Plain)?;
        Ok(())
    }

    fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        self.0.save(&folder.join("model.safetensors"))
    }
}

impl BiEncoderExport<'_> {
    /// Writes the directory.
    ///
    /// # Errors
    /// [`TrainingError::Write`], [`TrainingError::Load`].
    pub fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        make(folder)?;
        let mut config = read_config(self.source)?;
        let (is_t5, decodes) = (is_t5(&config), self.pooling == Pooling::Decoder);
        let class = class(
            &config,
            if is_t5 && !decodes {
                "EncoderModel"
            } else {
                "Model"
            },
        );
        config["architectures"] = json!([class]);
        if is_t5 {
            config["is_encoder_decoder"] = Value::from(decodes);
        }
        let names = ["hidden_size", "dim", "d_model"];
        let width = names.into_iter().find_map(|name| config[name].as_u64());
        write_json(&folder.join("config.json"), &config)?;
        self.weights.write(folder)?;
        copy_tokenizer(self.source, folder)?;
        if decodes {
            return self.write_openmatch(folder, &class);
        }
        write_sentence_config(folder, self.max_tokens, self.lower_case)?;

        let mut modules = Vec::new();
        let mut module = |path: &str, kind: &str| -> Result<PathBuf, TrainingError> {
            let index = modules.len();
            let path = if path.is_empty() {
                String::new()
            } else {
                format!("{index}_{path}")
            };
            modules.push(json!({
                "idx": index,
                "name": index.to_string(),
                "path": path,
                "type": format!("sentence_transformers.models.{kind}"),
            }));
            make(&folder.join(&path))?;
            Ok(folder.join(path))
        };
        module("", "Transformer")?;
        let path = module("Pooling", "Pooling")?;
        write_json(&path.join("config.json"), &self.pooling(width))?;
        if let Some(dense) = &self.dense {
            let path = module("Dense", "Dense")?;
            dense.write(&path)?;
        }
        if self.normalize {
            module("Normalize", "Normalize")?;
        }
        write_json(&folder.join("modules.json"), &Value::from(modules))?;
        let similarity = match self.similarity {
            Similarity::Cosine => "cosine",
            Similarity::InnerProduct => "dot",
            Similarity::L2 => "euclidean",
        };
        let config = json!({
            "model_type": "SentenceTransformer",
            "__version__": { "sentence_transformers": SENTENCE_TRANSFORMERS },
            "prompts": { "query": self.query_prompt, "document": self.passage_prompt },
            "default_prompt_name": null,
            "similarity_fn_name": similarity,
        });
        write_json(&folder.join("config_sentence_transformers.json"), &config)
    }

    /// What OpenMatch writes and, after it, what it leaves to its command line.
    fn write_openmatch(&self, folder: &Path, class: &str) -> Result<(), TrainingError> {
        let config = json!({
            "tied": true,
            "plm_backbone": { "type": class, "feature": "last_hidden_state" },
            "pooling": "first",
            "linear_head": false,
            "normalize": self.normalize,
            "max_tokens": self.max_tokens,
            "prompts": { "query": self.query_prompt, "document": self.passage_prompt },
        });
        write_json(&folder.join("openmatch_config.json"), &config)
    }

    fn pooling(&self, width: Option<u64>) -> Value {
        let mut config =
            json!({ "word_embedding_dimension": width, "include_prompt": self.pools_prompt });
        for (pooling, name) in [
            (Pooling::Cls, "cls_token"),
            (Pooling::Mean, "mean_tokens"),
            (Pooling::Max, "max_tokens"),
            (Pooling::MeanSqrtLength, "mean_sqrt_len_tokens"),
            (Pooling::WeightedMean, "weightedmean_tokens"),
            (Pooling::Last, "lasttoken"),
        ] {
            config[format!("pooling_mode_{name}")] = Value::from(pooling == self.pooling);
        }
        config
    }
}

impl DenseExport {
    fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        let config = json!({
            "in_features": self.n_in,
            "out_features": self.n_out,
            "bias": self.bias.is_some(),
            "activation_function": self.activation.class(),
        });
        write_json(&folder.join("config.json"), &config)?;
        let mut tensors = Tensors::new();
        tensors.insert(
            "linear.weight",
            &[self.n_out, self.n_in],
            self.weight.clone(),
        )?;
        if let Some(bias) = &self.bias {
            tensors.insert("linear.bias", &[self.n_out], bias.clone())?;
        }
        tensors.write(folder)
    }
}

impl CrossEncoderExport<'_> {
    /// Writes the directory. Scores are the logits: sentence-transformers would put a sigmoid behind one label.
    ///
    /// # Errors
    /// [`TrainingError::Write`], [`TrainingError::Load`].
    pub fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        make(folder)?;
        let mut config = read_config(self.source)?;
        let class = class(&config, "ForSequenceClassification");
        config["architectures"] = json!([class]);
        config["id2label"] = json!({ "0": "LABEL_0" });
        config["label2id"] = json!({ "LABEL_0": 0 });
        config["problem_type"] = Value::Null;
        config["sentence_transformers"] = json!({
            "activation_fn": OutputActivation::Identity.class(),
            "version": SENTENCE_TRANSFORMERS,
        });
        if let Some(prior) = self.rank_prior {
            config["trawl"]["rank_prior"] = json!(prior);
        }
        write_json(&folder.join("config.json"), &config)?;
        self.weights.write(folder)?;
        copy_tokenizer(self.source, folder)?;
        if self.lower_case {
            write_sentence_config(folder, self.max_tokens, true)?;
        }
        // transformers and sentence-transformers cut pairs at what the tokenizer says.
        let path = folder.join("tokenizer_config.json");
        let mut tokenizer = match path.exists() {
            true => read_json(&path)?,
            false => json!({}),
        };
        tokenizer["model_max_length"] = Value::from(self.max_tokens);
        write_json(&path, &tokenizer)
    }
}

fn write_sentence_config(
    folder: &Path,
    max_tokens: usize,
    lower_case: bool,
) -> Result<(), TrainingError> {
    let config = json!({ "max_seq_length": max_tokens, "do_lower_case": lower_case });
    write_json(&folder.join("sentence_bert_config.json"), &config)
}

fn model_type(config: &Value) -> &str {
    config["model_type"].as_str().unwrap_or_default()
}

fn is_t5(config: &Value) -> bool {
    matches!(model_type(config), "t5" | "mt5")
}

/// The class of a model type in transformers, such as `BertModel`.
fn class(config: &Value, end: &str) -> String {
    let stem = match model_type(config) {
        "roberta" => "Roberta",
        "xlm-roberta" => "XLMRoberta",
        "distilbert" => "DistilBert",
        "mpnet" => "MPNet",
        "electra" => "Electra",
        "t5" => "T5",
        "mt5" => "MT5",
        _ => "Bert",
    };
    format!("{stem}{end}")
}

fn read_config(source: &Path) -> Result<Value, TrainingError> {
    let mut config: Value = read_json(&source.join("config.json"))?;
    if let Some(config) = config.as_object_mut() {
        config.remove("_name_or_path");
        config.remove("torch_dtype");
        config.insert("dtype".to_owned(), Value::from("float32"));
    }
    Ok(config)
}

fn copy_tokenizer(source: &Path, folder: &Path) -> Result<(), TrainingError> {
    for name in TOKENIZER_FILES {
        let (from, to) = (source.join(name), folder.join(name));
        if from.exists() {
            fs::copy(&from, &to).map_err(|source| TrainingError::Write { path: to, source })?;
        }
    }
    Ok(())
}

fn make(folder: &Path) -> Result<(), TrainingError> {
    fs::create_dir_all(folder).map_err(|source| TrainingError::Write {
        path: folder.to_owned(),
        source,
    })
}

fn write_json(path: &Path, value: &Value) -> Result<(), TrainingError> {
    let mut text = serde_json::to_string_pretty(value).expect("a value is JSON");
    text.push('\n');
    fs::write(path, text).map_err(|source| TrainingError::Write {
        path: path.to_owned(),
        source,
    })
}
