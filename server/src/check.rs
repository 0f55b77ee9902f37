//! The known answer: before the server says that it is ready, every model and every collection has answered once.

use std::sync::Arc;
use std::time::Duration;

use encoder::{Role, Text, Tokens};
use index::Metric;
use retriever::{
    Deadline, Include, Mode, ModelError, QueryInput, SearchError, SearchOptions, SearchRequest,
};

use crate::model::{Input, OnBehalf, PairCut, ServedEncoder};
use crate::scheduler::Class;
use crate::state::{ServedCollection, Shared};

/// What a model or a collection did wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A model gave no answer.
    #[error("model `{model}` does not answer")]
    Model {
        /// The model.
        model: String,
        /// Why.
        source: ModelError,
    },
    /// A model answered the same question in two ways.
    #[error("model `{model}` gives one text two vectors")]
    Unstable {
        /// The model.
        model: String,
    },
    /// A collection gave no answer.
    #[error("collection `{collection}` does not answer")]
    Search {
        /// The collection.
        collection: String,
        /// Why.
        source: Box<SearchError>,
    },
    /// The manifest says that vectors are compared in a way that is not known.
    #[error("collection `{collection}` compares vectors by `{metric}`, which is not known")]
    Metric {
        /// The collection.
        collection: String,
        /// What its manifest says.
        metric: String,
    },
    /// A stored passage is not found by its own text.
    #[error(
        "the first passage of collection `{collection}` scores {score} against its own text, expected {expected} or more"
    )]
    Unfamiliar {
        /// The collection.
        collection: String,
        /// The best score of any stored row.
        score: f32,
        /// The score of the passage's vector, made anew, against itself.
        expected: f32,
    },
}

impl CheckError {
    /// Whether the server had too much to do to answer.
    pub(crate) fn is_overload(&self) -> bool {
        let overloaded = |error: &ModelError| {
            matches!(
                error,
                ModelError::Overloaded { .. } | ModelError::WaitedTooLong { .. }
            )
        };
        match self {
            Self::Model { source, .. } => overloaded(source),
            Self::Search { source, .. } => match &**source {
                SearchError::Encode(error) | SearchError::Rerank(error) => overloaded(error),
                _ => false,
            },
            _ => false,
        }
    }
}

const TEXT: &str = "The quick brown fox jumps over the lazy dog.";

/// Score lost at most between a row and its vector made anew, relative to the score: other thread counts and batches move
/// the last bits, a wrong model moves the first.
const TOLERANCE: f32 = 1e-2;

/// As [`Class::Bulk`] it waits for its turn however long that takes; as [`Class::Interactive`] it is refused where requests are, too.
pub(crate) async fn known_answers(app: &Shared, class: Class) -> Result<(), CheckError> {
    for encoder in app.encoders.values() {
        let first = encode(encoder, TEXT.to_owned(), Role::Query, class).await?;
        if first != encode(encoder, TEXT.to_owned(), Role::Query, class).await? {
            return Err(CheckError::Unstable {
                model: encoder.name.clone(),
            });
        }
    }
    for reranker in app.rerankers.values() {
        let (inputs, cut) = (
            Input::pairs(TEXT, vec![TEXT.to_owned()]),
            PairCut::default(),
        );
        let scored = reranker.score(inputs, cut, class, Deadline::NONE).await;
        scored.map_err(|source| CheckError::Model {
            model: reranker.name.clone(),
            source,
        })?;
    }
    for (_, slot) in app.slots() {
        check_collection(&slot.current(), class).await?;
    }
    Ok(())
}

/// Asks a collection for its first passage.
pub(crate) async fn check_collection(
    served: &Arc<ServedCollection>,
    class: Class,
) -> Result<(), CheckError> {
    let Some(encoder) = served.encoder.as_deref() else {
        return Ok(());
    };
    let live = served.retriever.live();
    let first = match live.view().kept() {
        None => (!served.retriever.store().is_empty()).then_some(0),
        Some(kept) => kept.min(),
    };
    let Some(first) = first else {
        return Ok(());
    };
    let failed = |source| CheckError::Search {
        collection: served.name.clone(),
        source: Box::new(source),
    };
    let passage = served
        .retriever
        .store()
        .passage(first)
        .map_err(|e| failed(SearchError::Store(e)))?;
    let manifest = served.retriever.manifest();
    let vector = match manifest.fingerprint["passage"]["pair"].as_bool() {
        Some(true) => {
            let text = served.retriever.render_passage(&passage);
            let pair = [Text::Pair(&passage.title, &text)];
            let tokens = encoder
                .model
                .tokenize(Role::Passage, &pair)
                .map_err(ModelError::from);
            answer(encoder, tokens, class).await?
        }
        _ => {
            encode(
                encoder,
                served.retriever.render_passage(&passage),
                Role::Passage,
                class,
            )
            .await?
        }
    };
    let request = SearchRequest {
        query: QueryInput::Vector(vector.clone()),
        options: SearchOptions {
            mode: Mode::Dense,
            top_k: 1,
            // It reads the vectors, unless others do.
            exact: !served.retriever.searches_remotely(),
            include: Include {
                text: false,
                metadata: false,
            },
            ..SearchOptions::default()
        },
    };
    let on_behalf = OnBehalf {
        model: encoder,
        class,
    };
    let answer = served
        .retriever
        .search(request, &on_behalf, None)
        .await
        .map_err(failed)?;
    let score = answer
        .hits
        .first()
        .map_or(f32::NEG_INFINITY, |hit| hit.score);
    let Ok(metric) = serde_json::from_value::<Metric>(manifest.metric.as_str().into()) else {
        let (collection, metric) = (served.name.clone(), manifest.metric.clone());
        return Err(CheckError::Metric { collection, metric });
    };
    // As the index stores it: cosine compares directions, and not every model brings its vectors to length 1.
    let mut stored = vector;
    if metric == Metric::Cosine {
        index::normalize(&mut stored);
    }
    let expected = index::score(metric, &stored, &stored);
    let allowed = expected - TOLERANCE * expected.abs().max(1.0);
    if score < allowed {
        return Err(CheckError::Unfamiliar {
            collection: served.name.clone(),
            score,
            expected,
        });
    }
    Ok(())
}

async fn encode(
    encoder: &ServedEncoder,
    text: String,
    role: Role,
    class: Class,
) -> Result<Vec<f32>, CheckError> {
    let tokens = encoder
        .model
        .tokenize(role, &[Text::Single(&text)])
        .map_err(ModelError::from);
    answer(encoder, tokens, class).await
}

async fn answer(
    encoder: &ServedEncoder,
    tokens: Result<Vec<Tokens>, ModelError>,
    class: Class,
) -> Result<Vec<f32>, CheckError> {
    let encoded = match tokens {
        Ok(tokens) => {
            encoder
                .encode_tokens(tokens.into(), class, Deadline::NONE, Duration::ZERO)
                .await
        }
        Err(error) => Err(error),
    };
    match encoded {
        Ok(encoded) => Ok(encoded.values),
        Err(source) => Err(CheckError::Model {
            model: encoder.name.clone(),
            source,
        }),
    }
}
