//! From the first token's vector to one score, as the `…ForSequenceClassification` classes do it.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use encoder::training::{
    Dropout, Encoder, Engine, Linear, Parameters, TrainingError, dropout, normal,
};
use encoder::{Activation, Checkpoint, Family, LoadError};

/// A layer with an activation, and the classifier with one output.
pub(super) struct Head {
    family: Family,
    hidden: Linear,
    classifier: Linear,
    /// Names of the layers that the checkpoint does not have.
    drawn: Vec<&'static str>,
    engine: Arc<Engine>,
}

/// Names of the two layers.
struct Names {
    hidden: &'static str,
    classifier: &'static str,
    /// What a checkpoint of the bare model may hold as the first layer, behind its own prefix.
    pooler: Option<&'static str>,
}

impl Names {
    fn new(family: Family) -> Self {
        let (hidden, classifier, pooler) = match family {
            Family::Bert => ("bert.pooler.dense", "classifier", Some("pooler.dense")),
            Family::Roberta | Family::Mpnet => ("classifier.dense", "classifier.out_proj", None),
            Family::DistilBert => ("pre_classifier", "classifier", None),
        };
        Self {
            hidden,
            classifier,
            pooler,
        }
    }
}

impl Head {
    /// Reads the head of a cross-encoder; a checkpoint without one starts with weights drawn from `seed` as the classes
    /// draw them: normal with a deviation of 0.02, biases 0. BERT's pooler is kept where there is one.
    pub(super) fn load(
        folder: &Path,
        encoder: &Encoder,
        parameters: &mut Parameters,
        seed: u64,
    ) -> Result<Self, TrainingError> {
        let architecture = encoder.architecture();
        let (width, engine) = (architecture.width, encoder.engine());
        let names = Names::new(architecture.family);
        let checkpoint = Checkpoint::open(folder)?;
        let stored = |name: &str, n_out: usize| -> Result<_, LoadError> {
            let weight = checkpoint.head_tensor(&format!("{name}.weight"), &[n_out, width])?;
            Ok((
                weight,
                checkpoint.head_tensor(&format!("{name}.bias"), &[n_out])?,
            ))
        };
        let holds = |name: &str| checkpoint.contains(&format!("{name}.weight"));
        let mut drawn = Vec::new();
        let mut draw = |name, stream, n_out: usize| {
            drawn.push(name);
            let weight = normal(seed, stream, n_out * width, 0.02);
            (weight, vec![0.0; n_out])
        };
        let hidden = match names.pooler {
            _ if holds(names.hidden) => stored(names.hidden, width)?,
            Some(pooler) if holds(pooler) => stored(pooler, width)?,
            _ => draw(names.hidden, 0, width),
        };
        let classifier = match holds(names.classifier) {
            true => stored(names.classifier, 1)?,
            false => draw(names.classifier, 1, 1),
        };
        let hidden = Linear::new(parameters, names.hidden, hidden, engine)?;
        Ok(Self {
            family: architecture.family,
            hidden: match architecture.family {
                Family::DistilBert => hidden.with_activation(Activation::Relu),
                _ => hidden,
            },
            classifier: Linear::new(parameters, names.classifier, classifier, engine)?,
            drawn,
            engine: engine.clone(),
        })
    }

    /// Whether a parameter belongs to a layer that the checkpoint does not have.
    pub(super) fn is_drawn(&self, name: &str) -> bool {
        let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
        self.drawn.contains(&layer)
    }

    /// Returns the logits of first token vectors, (pairs, H) → (pairs).
    ///
    /// [`Dropout::hidden`] of `masks` stands where the classes have their classifier's dropout: before the classifier,
    /// with RoBERTa and MPNet before the first layer too.
    pub(super) fn forward(&self, first: &Tensor, masks: &Dropout) -> Result<Tensor, TrainingError> {
        let drop = |x: &Tensor, place| dropout(x, masks, place, &self.engine);
        let input = match self.family {
            Family::Roberta | Family::Mpnet => drop(first, 0)?,
            Family::Bert | Family::DistilBert => first.clone(),
        };
        let hidden = self.hidden.forward(&input)?;
        let hidden = match self.family {
            Family::DistilBert => hidden,
            _ => hidden.tanh()?,
        };
        Ok(self.classifier.forward(&drop(&hidden, 1)?)?.flatten_all()?)
    }
}
