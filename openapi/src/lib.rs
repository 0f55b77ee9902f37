//! The types that cross the network, and nothing else: requests, answers and errors of the HTTP API.
//!
//! A type's documentation is the text of the OpenAPI document that the server makes of it, so it is written for the
//! people who call the API. Native requests refuse unknown fields; the compatibility routes (embeddings, rerank)
//! ignore them, because the clients they serve send extras.

mod about;
mod aliases;
mod boost;
mod cohere;
mod collections;
mod documents;
mod embeddings;
mod eval;
mod feedback;
mod filter;
mod gate;
mod group;
mod health;
mod models;
mod object;
mod ordered;
mod problem;
mod rerank;
mod search;
mod shadow;
mod tei;

pub use about::{Limits, Version};
pub use aliases::{Alias, AliasRequest, Generation, GenerationList, RollbackRequest};
pub use boost::{Boost, BoostFunction, BoostStage, HitBoost, HitExplanation, Pin, Sort, SortOrder};
pub use cohere::{
    CohereError, CohereMeta, CohereRerankRequest, CohereRerankResponse, CohereTokens, CohereUnits,
    CohereVersion,
};
pub use collections::{
    Collection, CollectionCounts, CollectionDetail, CollectionList, CollectionRequest,
    CollectionShard, CollectionTemplates,
};
pub use documents::{
    Document, DocumentError, DocumentPassage, DocumentsDelete, DocumentsDeleted, DocumentsWritten,
    NewDocument, NewDocuments, Task, TaskList, TaskProgress, TaskState,
};
pub use embeddings::{
    Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage,
    EmbeddingValues, EncodingFormat, InputType, OpenAiError, OpenAiErrorBody,
};
pub use eval::{EvalReport, EvalRequest};
pub use feedback::{Feedback, FeedbackRequest, FeedbackResponse};
pub use filter::{Condition, FieldKey, Filter, Match, Range};
pub use gate::{Gate, GateChange, GateFingerprint, GateLimit, GateRequirements, GateSettings};
pub use group::{GroupScore, GroupScoreMethod, HitDocument, SearchGroup};
pub use health::{Health, HealthStatus};
pub use models::{Model, ModelList, ModelRole};
pub use object::object;
pub use ordered::Ordered;
pub use problem::{ErrorCode, FieldError, Problem};
pub use rerank::{
    RerankDocument, RerankDocumentText, RerankRequest, RerankResponse, RerankResult, RerankUsage,
};
pub use search::{
    BatchSearchRequest, BatchSearchResponse, BatchSearchResult, FusionMethod, HighlightField,
    HighlightOptions, HighlightPiece, HitScores, HybridOptions, HybridWeights, IncludeField,
    OnTimeout, RerankOptions, SearchHighlight, SearchHit, SearchMode, SearchOptions, SearchRequest,
    SearchResponse, SearchTiming, SearchTotal, SearchUsage, TotalRelation,
};
pub use shadow::{Shadow, ShadowLatency, ShadowRequest};
pub use tei::{
    TeiDecodeRequest, TeiEmbedAllRequest, TeiEmbedRequest, TeiError, TeiErrorType, TeiIds, TeiInfo,
    TeiLabels, TeiModelType, TeiPredictInput, TeiPredictRequest, TeiPrediction, TeiPredictions,
    TeiRank, TeiReading, TeiRerankRequest, TeiSide, TeiSimilarityInput, TeiSimilarityRequest,
    TeiTexts, TeiToken, TeiTokenizeRequest,
};
