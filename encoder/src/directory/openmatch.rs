//! Checkpoints that OpenMatch has trained, with their `openmatch_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Directory, Step, contradict, read_json, refuse_extra_heads};
use crate::error::LoadError;
use crate::options::{ModelOptions, Pooling, Preset, Similarity};

/// Most tokens of a query and of a passage, where nobody says otherwise: what OpenMatch trains with.
const DEFAULT_TOKENS: (usize, usize) = (32, 128);

#[derive(Deserialize)]
struct OpenMatchConfig {
    #[serde(default = "yes")]
    tied: bool,
    plm_backbone: BackboneEntry,
    #[serde(default = "first")]
    pooling: String,
    #[serde(default)]
    linear_head: bool,
    #[serde(default)]
    normalize: bool,
    /// Written by our export; OpenMatch leaves lengths and prompts to its command line.
    max_tokens: Option<usize>,
    #[serde(default)]
    prompts: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct BackboneEntry {
    /// A class of transformers.
    #[serde(rename = "type", default)]
    class: String,
    feature: Option<String>,
}

fn yes() -> bool {
    true
}

fn first() -> String {
    "first".to_owned()
}

/// Reads a folder with an `openmatch_config.json`. The whole of a T5 gives the decoder's vector whatever `pooling` says.
pub(super) fn read(
    path: &Path,
    config_path: &Path,
    options: &ModelOptions,
) -> Result<Directory, LoadError> {
    let config: OpenMatchConfig = read_json(config_path)?;
    let refuse = |reason: String| LoadError::Config {
        path: config_path.to_path_buf(),
        reason,
    };
    if !config.tied {
        return Err(refuse(
            "tied is false; of such a model each tower is loaded by itself".into(),
        ));
    }
    if config.linear_head {
        return Err(refuse(
            "linear_head is true; heads are read from sentence-transformers directories only"
                .into(),
        ));
    }
    refuse_extra_heads(path)?;
    if let Some(feature) = config
        .plm_backbone
        .feature
        .filter(|name| name != "last_hidden_state")
    {
        return Err(refuse(format!(
            "feature is `{feature}`; supported is last_hidden_state"
        )));
    }
    let pooling = match (&*config.plm_backbone.class, &*config.pooling) {
        (
            "T5Model" | "MT5Model" | "T5ForConditionalGeneration" | "MT5ForConditionalGeneration",
            _,
        ) => Pooling::Decoder,
        (_, "first") => Pooling::Cls,
        (_, "mean") => Pooling::Mean,
        (_, other) => {
            return Err(refuse(format!(
                "pooling is `{other}`; supported are first and mean"
            )));
        }
    };
    let preset = options.preset.unwrap_or(Preset::Openmatch);
    contradict(
        config_path,
        "preset",
        Some(preset),
        &Preset::Openmatch,
        |&preset| preset,
    )?;
    contradict(
        config_path,
        "pooling",
        options.pooling,
        &pooling,
        |&pooling| pooling,
    )?;
    contradict(
        config_path,
        "normalize",
        options.normalize,
        &config.normalize,
        |&normalize| normalize,
    )?;
    let similarity = match config.normalize {
        true => Similarity::Cosine,
        false => Similarity::InnerProduct,
    };
    let default = |tokens| config.max_tokens.is_none().then_some(tokens);
    let prompt = |name: &str| config.prompts.get(name).cloned().unwrap_or_default();
    Ok(Directory {
        transformer: path.to_path_buf(),
        pooling: vec![pooling],
        pools_prompt: true,
        steps: config
            .normalize
            .then_some(Step::Normalize)
            .into_iter()
            .collect(),
        similarity: options.similarity.unwrap_or(similarity),
        truncate_width: None,
        query_prompt: options
            .query_prompt
            .clone()
            .unwrap_or_else(|| prompt("query")),
        passage_prompt: options
            .passage_prompt
            .clone()
            .unwrap_or_else(|| prompt("document")),
        prompts: config.prompts,
        default_prompt_name: None,
        max_tokens: config.max_tokens,
        query_tokens: options.query_tokens.or(default(DEFAULT_TOKENS.0)),
        passage_tokens: options.passage_tokens.or(default(DEFAULT_TOKENS.1)),
        lower_case: false,
    })
}
