//! `[objective]`: what is trained, told apart by its `name`.

use std::path::PathBuf;

use encoder::Pooling;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Table, Value};
use trainer::masking::{KeywordWeights, MasterMasks};
use trainer::objective::pretraining::{
    CondenserConfig, CotMaeConfig, CotMaeMasks, MasterConfig, MlmConfig, RetroMaeConfig,
    RetroMaeMasks, SimLmConfig, SimLmMasks, TextMasks,
};
use trainer::objective::{BiEncoderConfig, CrossEncoderConfig};
use trainer::run::ModelKind;

/// `[objective]`.
#[derive(Clone, Debug)]
pub enum ObjectiveSection {
    BiEncoder(BiEncoderConfig),
    CrossEncoder(CrossEncoderConfig),
    Pretraining(PretrainingSection),
}

/// `[objective]` of pre-training.
#[derive(Clone, Debug)]
pub struct PretrainingSection {
    pub method: MethodSection,
    /// Probability of all dropout, in place of config.json's.
    pub dropout: Option<f32>,
    /// Whether the export has the decoders in a file beside the weights.
    pub keep_decoders: bool,
}

/// A method, and its `masks`: what it hides.
#[derive(Clone, Debug)]
pub enum MethodSection {
    Mlm(MlmConfig, TextMasks),
    Condenser(CondenserConfig, TextMasks),
    RetroMae(RetroMaeConfig, RetroMaeMasks),
    DupMae(RetroMaeConfig, RetroMaeMasks),
    CotMae(CotMaeConfig, CotMaeMasks),
    SimLm(SimLmConfig, SimLmMasks),
    Master(MasterConfig, MasterMasks, Keywords),
}

/// What MASTER's keywords are drawn by.
#[derive(Clone, Debug)]
pub struct Keywords {
    /// The file of word counts; they are counted in the texts without one.
    pub dictionary: Option<PathBuf>,
    /// What the counts are made of, and what a word weighs.
    pub weights: KeywordWeights,
}

/// Names of objectives.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    BiEncoder,
    CrossEncoder,
    Mlm,
    Condenser,
    RetroMae,
    DupMae,
    CotMae,
    SimLm,
    Master,
}

impl ObjectiveSection {
    /// What is trained, for the model card.
    pub fn kind(&self) -> ModelKind {
        match self {
            Self::BiEncoder(config) if config.pooling == Some(Pooling::Decoder) => {
                ModelKind::OpenMatch
            }
            Self::BiEncoder(config) if config.untied => ModelKind::Towers,
            Self::BiEncoder(_) => ModelKind::BiEncoder,
            Self::CrossEncoder(_) => ModelKind::CrossEncoder,
            Self::Pretraining(_) => ModelKind::MaskedLanguageModel,
        }
    }

    /// Whether it needs a teacher's scores.
    pub fn distils(&self) -> bool {
        match self {
            Self::BiEncoder(config) => config.distillation.is_some(),
            Self::CrossEncoder(config) => config.distillation.is_some(),
            Self::Pretraining(_) => false,
        }
    }

    pub fn parse(section: Spanned<DeValue<'_>>) -> Result<Self, toml::de::Error> {
        let span = section.span();
        let DeValue::Table(mut table) = section.into_inner() else {
            return Err(toml::de::Error::custom("`objective` is no table"));
        };
        let name = take(&mut table, "name")?.ok_or_else(|| {
            let text = "`[objective]` has no `name`; there are `bi_encoder` and `cross_encoder`, and for pre-training `mlm`, \
                        `condenser`, `retro_mae`, `dup_mae`, `cot_mae`, `sim_lm` and `master`";
            toml::de::Error::custom(text)
        })?;
        let rest = |table| toml::Deserializer::from(Spanned::new(span, table));
        match name {
            Name::BiEncoder => Ok(Self::BiEncoder(BiEncoderConfig::deserialize(rest(table))?)),
            Name::CrossEncoder => {
                let config = CrossEncoderConfig::deserialize(rest(table))?;
                Ok(Self::CrossEncoder(config))
            }
            _ => {
                let dropout = take(&mut table, "dropout")?;
                let keep_decoders = take(&mut table, "keep_decoders")?.unwrap_or_default();
                let method = MethodSection::parse(name, table, rest)?;
                Ok(Self::Pretraining(PretrainingSection {
                    method,
                    dropout,
                    keep_decoders,
                }))
            }
        }
    }

    /// The section with all defaults.
    pub fn resolved(&self) -> Result<Table, toml::ser::Error> {
        let (name, rest) = match self {
            Self::BiEncoder(config) => (Name::BiEncoder, Table::try_from(config)?),
            Self::CrossEncoder(config) => (Name::CrossEncoder, Table::try_from(config)?),
            Self::Pretraining(section) => section.resolved()?,
        };
        let mut table = Table::from_iter([("name".to_owned(), Value::try_from(name)?)]);
        table.extend(rest);
        Ok(table)
    }
}

impl PretrainingSection {
    /// Whether a document is compared with the others of its batch, as in coCondenser.
    pub fn tells_documents_apart(&self) -> bool {
        matches!(&self.method, MethodSection::Condenser(config, _) if config.contrastive)
    }

    fn resolved(&self) -> Result<(Name, Table), toml::ser::Error> {
        use MethodSection::{Condenser, CotMae, DupMae, Master, Mlm, RetroMae, SimLm};
        fn both(
            config: &impl Serialize,
            masks: &impl Serialize,
        ) -> Result<Table, toml::ser::Error> {
            let mut table = Table::try_from(config)?;
            table.insert("masks".to_owned(), Value::try_from(masks)?);
            Ok(table)
        }
        let (name, mut table) = match &self.method {
            Mlm(config, masks) => (Name::Mlm, both(config, masks)?),
            Condenser(config, masks) => (Name::Condenser, both(config, masks)?),
            RetroMae(config, masks) => (Name::RetroMae, both(config, masks)?),
            DupMae(config, masks) => (Name::DupMae, both(config, masks)?),
            CotMae(config, masks) => (Name::CotMae, both(config, masks)?),
            SimLm(config, masks) => (Name::SimLm, both(config, masks)?),
            Master(config, masks, keywords) => {
                let mut table = both(config, masks)?;
                if let Some(path) = &keywords.dictionary {
                    table.insert("dictionary".to_owned(), Value::try_from(path)?);
                }
                // Runs of before had no such key.
                if keywords.weights != KeywordWeights::default() {
                    let weights = Value::try_from(keywords.weights)?;
                    table.insert("keyword_weights".to_owned(), weights);
                }
                (Name::Master, table)
            }
        };
        if let Some(dropout) = self.dropout {
            table.insert("dropout".to_owned(), Value::try_from(dropout)?);
        }
        table.insert("keep_decoders".to_owned(), self.keep_decoders.into());
        Ok((name, table))
    }
}

impl MethodSection {
    fn parse<'de>(
        name: Name,
        mut table: DeTable<'de>,
        rest: impl FnOnce(DeTable<'de>) -> toml::Deserializer<'de>,
    ) -> Result<Self, toml::de::Error> {
        fn masks<T: DeserializeOwned + Default>(
            table: &mut DeTable<'_>,
        ) -> Result<T, toml::de::Error> {
            Ok(take(table, "masks")?.unwrap_or_default())
        }
        let t = &mut table;
        Ok(match name {
            Name::Mlm => {
                let masks = masks(t)?;
                Self::Mlm(Deserialize::deserialize(rest(table))?, masks)
            }
            Name::Condenser => {
                let masks = masks(t)?;
                Self::Condenser(Deserialize::deserialize(rest(table))?, masks)
            }
            Name::RetroMae => {
                let masks = masks(t)?;
                Self::RetroMae(Deserialize::deserialize(rest(table))?, masks)
            }
            Name::DupMae => {
                let masks = masks(t)?;
                // The keys are RetroMAE's, the defaults are not.
                let own = RetroMaeConfig::dup_mae();
                let says = |key| t.contains_key(key);
                let (has_stream, has_weight) = (says("query_stream"), says("bow_loss_weight"));
                let mut config = RetroMaeConfig::deserialize(rest(table))?;
                if !has_stream {
                    config.query_stream = own.query_stream;
                }
                if !has_weight {
                    config.bow_loss_weight = own.bow_loss_weight;
                }
                Self::DupMae(config, masks)
            }
            Name::CotMae => {
                let masks = masks(t)?;
                Self::CotMae(Deserialize::deserialize(rest(table))?, masks)
            }
            Name::SimLm => {
                let masks = masks(t)?;
                Self::SimLm(Deserialize::deserialize(rest(table))?, masks)
            }
            Name::Master => {
                let masks = masks(t)?;
                let keywords = Keywords {
                    dictionary: take(t, "dictionary")?,
                    weights: take(t, "keyword_weights")?.unwrap_or_default(),
                };
                Self::Master(Deserialize::deserialize(rest(table))?, masks, keywords)
            }
            Name::BiEncoder | Name::CrossEncoder => unreachable!("these are no methods"),
        })
    }
}

/// Takes a key out of a table.
fn take<T: DeserializeOwned>(
    table: &mut DeTable<'_>,
    key: &str,
) -> Result<Option<T>, toml::de::Error> {
    let value = table.remove(key).map(ValueDeserializer::from);
    value.map(T::deserialize).transpose()
}
