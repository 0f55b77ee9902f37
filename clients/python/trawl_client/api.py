"""Made of openapi/openapi.json by generate.py; changes here are lost."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, Union, Unpack

from .transport import Transport, entity_tag, quote


class Alias(TypedDict):
    """What an alias names."""

    alias: str
    """The alias."""

    collection: str
    """The collection."""

    generation: str
    """The generation it names; also in the header `ETag`."""

    previous: NotRequired[Union[str, None]]
    """The generation it named before its last change: what a rollback goes back to."""

    served: bool
    """Whether this server answers from that generation now."""


class AliasRequest(TypedDict):
    """Makes an alias name another generation."""

    drop_live: NotRequired[bool]
    """Leaves out of the generation what was written to the collection until now; without, it is applied to it.
    Another generation still gets it.
    """

    gate: NotRequired[Gate]
    """Whether it is compared with the one that the alias names, and refused when it is worse; or what is asked
    then.
    """

    generation: str
    """The generation."""


class BatchSearchRequest(TypedDict):
    """Many searches of one collection."""

    searches: list[SearchRequest]
    """The searches, at least one; each may have options of its own, and those with equal options are answered
    together. Limit: `limits.batch_queries`.
    """


class BatchSearchResponse(TypedDict):
    """The answers to many searches, all from one generation."""

    collection: str
    """The collection that was searched."""

    generation: str
    """The generation that answered."""

    model_fingerprint: str
    """Fingerprint of the model and texts that the generation was built with."""

    request_id: str
    """As in the header `x-request-id`."""

    results: list[BatchSearchResult]
    """One for each search, in the order asked."""


class Boost(TypedDict):
    """Adds `weight · f(x)` to the scores of passages, where x is the value that they have in a field. Of several
    values the one with the greatest f counts; a passage without a value gains nothing.
    """

    decay: NotRequired[Union[float, None]]
    """Of a decay: between 0 and 1, 0.5 unless given."""

    field: str
    """An integer or float field; for a decay, also a date field."""

    function: BoostFunction
    """What becomes of a value."""

    offset: NotRequired[Any]
    """Of a decay: values so near to the origin have the full 1. As `scale`, 0 unless given."""

    origin: NotRequired[Any]
    """Of a decay: where it is 1. A number; for dates `2026-11-20`, RFC 3339, or `now`."""

    scale: NotRequired[Any]
    """Of a decay: the distance at which it is `decay`. A number above 0; for dates a duration such as `30d` (s,
    m, h, d, w).
    """

    stage: NotRequired[BoostStage]
    """Which scores it is added to."""

    weight: NotRequired[float]
    """How much it counts; below zero, it takes away."""


class Collection(TypedDict):
    """A collection in short."""

    encoder: NotRequired[Union[str, None]]
    """The model that encodes queries; none where vectors were brought by the user."""

    generation: str
    """The generation that answers."""

    metric: str
    """How vectors are compared: `inner_product`, `cosine` or `l2`."""

    model_fingerprint: str
    """Fingerprint of the model and texts that the generation was built with."""

    name: str
    """The name to search it by."""

    passages: int
    """Passages indexed."""

    reranker: NotRequired[Union[str, None]]
    """The cross-encoder that reranks, if one is there."""

    width: int
    """Values of a vector."""


class CollectionCounts(TypedDict):
    """How much a build read and wrote."""

    bad_lines: int
    """Lines of the corpus that were skipped as bad."""

    missing_fields: int
    """Template fields that a passage did not have."""

    passages: int
    """Passages indexed."""

    tokens: int
    """Tokens encoded."""

    truncated: int
    """Passages longer than the model reads."""


class CollectionDetail(TypedDict):
    """A collection in full."""

    encoder: NotRequired[Union[str, None]]
    """The model that encodes queries; none where vectors were brought by the user."""

    generation: str
    """The generation that answers."""

    metric: str
    """How vectors are compared: `inner_product`, `cosine` or `l2`."""

    model_fingerprint: str
    """Fingerprint of the model and texts that the generation was built with."""

    name: str
    """The name to search it by."""

    passages: int
    """Passages indexed."""

    reranker: NotRequired[Union[str, None]]
    """The cross-encoder that reranks, if one is there."""

    width: int
    """Values of a vector."""

    batch_invariant: bool
    """Whether a text's vector does not depend on what it was batched with."""

    bytes: int
    """Bytes of all files of the generation."""

    content_digest: str
    """Digest of vectors, ids and records: equal digests, equal content."""

    corpus_digest: str
    """Digest of the corpus that was read."""

    counts: CollectionCounts
    """How much was read and written."""

    created: str
    """When the generation was finished, RFC 3339, UTC."""

    fingerprint: Any
    """The fingerprint entry by entry."""

    schema: Any
    """Metadata fields and their types."""

    shards: list[CollectionShard]
    """Its shards, in the order of the passages they hold."""

    templates: CollectionTemplates
    """How texts are made of records."""


class CollectionList(TypedDict):
    """The collections that this server answers for, by name."""

    collections: list[Collection]
    """Sorted by name."""


class CollectionRequest(TypedDict):
    """A collection that is to be made."""

    encoder: NotRequired[Union[str, None]]
    """The model that encodes passages and queries; may be left out where one is loaded."""

    graph: NotRequired[bool]
    """Whether generations get a graph for approximate search."""

    language: NotRequired[Union[str, None]]
    """Language of the words: stop words and stemmer (default: `english`)."""

    metric: NotRequired[Union[str, None]]
    """How vectors that are brought are compared: `cosine` (default), `inner_product` or `l2`."""

    passage_template: NotRequired[Union[str, None]]
    """Text of a passage that is encoded (default: `<title> <text>`)."""

    query_template: NotRequired[Union[str, None]]
    """Text of a query that is encoded (default: `<text>`)."""

    reranker: NotRequired[Union[str, None]]
    """The cross-encoder that reranks."""

    rows: NotRequired[Union[str, None]]
    """How vectors are stored: `f32` (default), `f16`, `bf16` or `int8`."""

    schema: NotRequired[Any]
    """Metadata fields and their kinds; others are kept and not filtered by."""

    stride: NotRequired[Union[int, None]]
    """Splits long texts into passages; tokens from the beginning of one to that of the next, at least."""

    width: NotRequired[Union[int, None]]
    """Values of the vectors that documents bring, in place of an encoder."""


class CollectionShard(TypedDict):
    """One contiguous range of passages."""

    arithmetic: str
    """The encoder's arithmetic: `f32`, `fixed16`, `bf16x3`, `bf16` or `int8`."""

    first_ordinal: int
    """Ordinal of its first passage."""

    passages: int
    """Passages it holds."""


class CollectionTemplates(TypedDict):
    """How texts are made of records."""

    passage: str
    """Template of a passage's text."""

    query: str
    """Template of a query's text."""


class Condition(TypedDict):
    """One condition: `key` with `match` or `range`; or `is_empty`; or `exists`; or a filter with `must`,
    `should`, `must_not`.
    """

    exists: NotRequired[Union[FieldKey, None]]

    is_empty: NotRequired[Union[FieldKey, None]]

    key: NotRequired[Union[str, None]]
    """A metadata field."""

    match: NotRequired[Union[Match, None]]

    must: NotRequired[Union[list[Condition], None]]
    """As in a filter."""

    must_not: NotRequired[Union[list[Condition], None]]
    """As in a filter."""

    range: NotRequired[Union[Range, None]]

    should: NotRequired[Union[list[Condition], None]]
    """As in a filter."""


class Document(TypedDict):
    """A document of a collection."""

    generation: str
    """The generation it was looked for in."""

    id: str
    """Its id."""

    log_position: int
    """The position of the write log up to which it was looked for."""

    metadata: dict[str, Any]
    """Every other field."""

    passages: list[DocumentPassage]
    """Its text: one passage, or the passages that it was split into."""

    title: str
    """Its title."""


class DocumentError(TypedDict):
    """A document that was refused."""

    line: int
    """Line of the body, from 1; in a JSON array the place of the document."""

    message: str
    """What is wrong."""


class DocumentPassage(TypedDict):
    """A passage of a document."""

    id: str
    """Its id, as searches return it."""

    text: str
    """Its text."""


class DocumentsDelete(TypedDict):
    """Documents that are to go: exactly one of `ids` and `filter` is given."""

    filter: NotRequired[Union[Filter, None]]

    ids: NotRequired[Union[list[str], None]]
    """Their ids; one that is not there is no error. Limit: `limits.documents`."""


class DocumentsDeleted(TypedDict):
    """What became of documents that were to go."""

    collection: str
    """The collection."""

    documents: int
    """Documents that were there and are deleted."""

    durability: str
    """As of [`DocumentsWritten`]."""

    log_position: int
    """Position of the write log after which they are gone."""


class DocumentsWritten(TypedDict):
    """What became of documents that were sent."""

    collection: str
    """The collection."""

    documents: int
    """Documents that were written; every search that begins now sees them."""

    durability: str
    """What they survive: `fsync`, a machine that stops; `os`, a process that is killed."""

    errors: list[DocumentError]
    """Documents that were refused."""

    generation: str
    """The generation that they were made for."""

    log_position: int
    """Position of the write log that holds them."""

    passages: int
    """Passages that they have."""


class Embedding(TypedDict):
    """The vector of one text."""

    embedding: EmbeddingValues
    """The vector."""

    index: int
    """Position of the text."""

    object: str
    """Always `embedding`."""


class EmbeddingRequest(TypedDict):
    """Texts to turn into vectors, as OpenAI's clients ask for them. Unknown fields are ignored."""

    dimensions: NotRequired[Union[int, None]]
    """Values of a vector: the model's own width, or one of those that its setting `dimensions` names because it
    was trained for them (Matryoshka). Nothing says that another piece of its vectors would still be a good
    one.
    """

    encoding_format: NotRequired[EncodingFormat]
    """How vectors are written."""

    input: EmbeddingInput
    """One text, many texts, the token ids of one text, or of many. Limit: `limits.embedding_inputs`."""

    input_type: NotRequired[InputType]
    """What the texts are: the model's prompt and length for queries, or those for documents, apply."""

    model: str
    """Name of a loaded encoder, as `GET /v1/collections` shows it."""


class EmbeddingResponse(TypedDict):
    """Vectors in the order of the texts."""

    data: list[Embedding]
    """One entry a text, in the order of the texts."""

    model: str
    """The model that answered."""

    object: str
    """Always `list`."""

    usage: EmbeddingUsage
    """What it cost."""


class EmbeddingUsage(TypedDict):
    """What the vectors cost."""

    prompt_tokens: int
    """Tokens read, prompts and special tokens included."""

    total_tokens: int
    """The same."""


class EvalReport(TypedDict):
    """How well a generation answers queries."""

    degraded: int
    """Those of them whose answers lack a part, as where reranking took longer than its `timeout_ms`."""

    generation: str
    """The generation that was searched."""

    measures: dict[str, float]
    """The mean of each measure; of one that counts, the sum."""

    model_fingerprint: str
    """Fingerprint of its model and texts."""

    queries: int
    """Queries with judgments: the means are over all of them."""


class EvalRequest(TypedDict):
    """Queries with judgments, and how a collection is searched for them."""

    boosts: NotRequired[list[Boost]]
    """As in a search."""

    collection: str
    """Name of the collection; `name@alias` or `name@generation` is another generation of it."""

    filter: NotRequired[Union[Filter, None]]

    hybrid: NotRequired[Union[HybridOptions, None]]

    measures: NotRequired[list[str]]
    """What is measured, as `trawl eval` and trec_eval name it."""

    mode: NotRequired[SearchMode]
    """As in a search."""

    qrels: dict[str, dict[str, int]]
    """The judgments: grades by the id of the query, then by that of the document; above 0 is relevant. Limit on
    the queries: `limits.eval_queries`.
    """

    queries: dict[str, str]
    """The texts of the queries, by id. Those without judgments are not searched."""

    rerank: NotRequired[Union[RerankOptions, None]]

    search: NotRequired[SearchOptions]
    """As in a search."""

    top_k: NotRequired[Union[int, None]]
    """Passages that each search finds, documents where these were split into passages. Unless given, as many as
    the measures look at; one that looks at all counts as 100. Limit: `limits.top_k`.
    """


class Feedback(TypedDict):
    """A click on a document, or with a `grade` a judgment of it, for the query of a search or for a text."""

    grade: NotRequired[Union[int, None]]
    """How relevant it is: 0 is not at all, at most 10. Without a grade somebody clicked on it."""

    id: str
    """The document, or one of its passages."""

    place: NotRequired[int]
    """Which search of a batch, from 0."""

    query: NotRequired[Union[str, None]]
    """The text that was searched for. Only where texts are kept (`query_log.text`). Limit: `limits.query_bytes`."""

    rank: NotRequired[Union[int, None]]
    """Where it was shown, from 1; unless given, its rank in the answer."""

    request_id: NotRequired[Union[str, None]]
    """The `request_id` of the search that found the document; this or `query` has to be there."""


class FeedbackRequest(TypedDict):
    """What callers thought of what was found."""

    feedback: list[Feedback]
    """Clicks and judgments, at least one. Limit: `limits.feedback`."""


class FeedbackResponse(TypedDict):
    """That feedback was taken."""

    accepted: int
    """Clicks and judgments, all there were."""

    request_id: str
    """As in the header `x-request-id`."""


class FieldError(TypedDict):
    """A field at fault."""

    code: str
    """`unknown_field`, `unknown_value`, `duplicate`, `wrong_type`, `missing`, `too_large`, `too_small`,
    `wrong_width`, `not_finite`, `zero`, `blank`, `conflict`, `unsupported`.
    """

    given: NotRequired[Union[int, None]]
    """What was given."""

    limit: NotRequired[Union[int, None]]
    """The most, or least, that is allowed."""

    message: str
    """What is wrong, for people."""

    pointer: str
    """Where it is in the body (RFC 6901); empty for the body as a whole."""

    setting: NotRequired[Union[str, None]]
    """The server's setting that holds the limit."""


class FieldKey(TypedDict):
    """Names a metadata field."""

    key: str
    """The field."""


class Filter(TypedDict):
    """Which passages may be found, by their metadata. The grammar is Qdrant's.

    A passage passes when every condition of `must` holds, at least one of `should` (where there is any), and
    none of `must_not`; a filter without conditions passes all. Where a field has an array, a condition holds
    when it holds for one of its values. Limits: `limits.filter_depth`, `limits.filter_conditions`,
    `limits.filter_values`.
    """

    must: NotRequired[list[Condition]]
    """All of them hold."""

    must_not: NotRequired[list[Condition]]
    """None of them holds."""

    should: NotRequired[list[Condition]]
    """At least one of them holds."""


class GateLimit(TypedDict):
    """The limits of a measure."""

    max: NotRequired[Union[float, None]]
    """It must not be more."""

    max_drop: NotRequired[Union[GateChange, None]]

    max_rise: NotRequired[Union[GateChange, None]]

    min: NotRequired[Union[float, None]]
    """It must not be less."""


class GateRequirements(TypedDict):
    """What each measure has to be."""

    bytes: NotRequired[Union[GateLimit, None]]

    latency_p95_ms: NotRequired[Union[GateLimit, None]]

    mrr: NotRequired[Union[GateLimit, None]]

    ndcg: NotRequired[Union[GateLimit, None]]

    overlap: NotRequired[Union[GateLimit, None]]

    passages: NotRequired[Union[GateLimit, None]]

    recall: NotRequired[Union[GateLimit, None]]

    score_drift: NotRequired[Union[GateLimit, None]]


class GateSettings(TypedDict):
    """What a generation has to reach; the names are those of `gate.toml`. What is left out is as usual."""

    fingerprint: NotRequired[Union[GateFingerprint, None]]

    k: NotRequired[Union[int, None]]
    """Hits of each that are looked at. 10 unless given. Limit: `limits.top_k`."""

    n_queries: NotRequired[Union[int, None]]
    """Questions at most: titles, or first words, of passages that both have. 200 unless given."""

    require: NotRequired[Union[GateRequirements, None]]

    sample_rows: NotRequired[Union[int, None]]
    """Rows that are made anew and compared with the stored ones. 256 unless given."""

    seed: NotRequired[Union[int, None]]
    """Decides which are drawn. 1 unless given."""


class Generation(TypedDict):
    """One generation."""

    aliases: list[str]
    """The aliases that name it."""

    bytes: NotRequired[Union[int, None]]
    """Bytes of all files."""

    content_digest: NotRequired[Union[str, None]]
    """Digest of vectors, ids and records."""

    created: NotRequired[Union[str, None]]
    """When it was finished, RFC 3339, UTC; none when its manifest is damaged."""

    gate: NotRequired[Any]
    """The report of the gate that it passed, if it was asked."""

    generation: str
    """Its name."""

    model_fingerprint: NotRequired[Union[str, None]]
    """Fingerprint of the model and texts that it was built with."""

    passages: NotRequired[Union[int, None]]
    """Passages indexed."""

    served: bool
    """Whether this server answers from it now."""


class GenerationList(TypedDict):
    """The generations of a collection."""

    generations: list[Generation]
    """Oldest first."""


class GroupScore(TypedDict):
    """How a group is scored."""

    method: NotRequired[GroupScoreMethod]
    """What becomes of the scores of its best passages."""

    passages: NotRequired[int]
    """How many of them count in a sum or mean."""


class Health(TypedDict):
    """Whether the server lives, or is ready for requests."""

    status: HealthStatus
    """The state."""


class HighlightOptions(TypedDict):
    """Which fragments are returned. Words are those that lexical search would find, whatever the mode."""

    fields: NotRequired[list[HighlightField]]
    """Of which texts, in the order in which the fragments are returned."""

    max_chars: NotRequired[int]
    """Characters (Unicode scalar values) of a fragment at most. Limit: `limits.highlight_chars`."""


class HighlightPiece(TypedDict):
    """A piece of a fragment."""

    match: NotRequired[bool]
    """Whether it is a word of the query; absent where it is not."""

    text: str
    """The text, as it stands in the passage."""


class HitBoost(TypedDict):
    """What a boost added to a score."""

    contribution: float
    """That times the weight."""

    field: str
    """The field."""

    function: str
    """The function."""

    input: NotRequired[Union[float, None]]
    """The value that counted, dates as seconds since 1970; absent where the passage has none."""

    stage: BoostStage
    """Which score it was added to."""

    value: float
    """What the function made of it."""


class HitDocument(TypedDict):
    """The part of a document that a passage is."""

    end: int
    """The character after its last."""

    id: str
    """Id of the document."""

    passage: int
    """Place of the passage among those of the document, from 0."""

    start: int
    """Its first character (Unicode scalar value) in the document's text."""


class HitExplanation(TypedDict):
    """What a score is made of: that of the cross-encoder, its rank prior and the boosts of stage `rerank` where
    it read the passage; else that of the first stage and the boosts of stage `retrieval`. It is rounded to 32
    bits after each stage.
    """

    boosts: list[HitBoost]
    """What each boost added; none where the passage is behind the first `rank_window`."""

    first_stage: NotRequired[Union[float, None]]
    """The score of the first stage (or of its fusion) before boosts; absent where the ranking did not bring the
    passage.
    """

    rank_prior: NotRequired[Union[float, None]]
    """What the cross-encoder leaves to the order of the first stage."""


class HitScores(TypedDict):
    """The score of every stage that saw a passage."""

    bm25: NotRequired[Union[float, None]]
    """BM25."""

    dense: NotRequired[Union[float, None]]
    """Inner product, cosine, or negated squared distance, as the collection compares vectors."""

    fused: NotRequired[Union[float, None]]
    """Fusion of the two."""

    rerank: NotRequired[Union[float, None]]
    """The cross-encoder's score, without what it leaves to the order of the first stage."""


class HybridOptions(TypedDict):
    """Options of hybrid search. What is not given is as the server has it for the collection
    (`collections.NAME.hybrid`).
    """

    fusion: NotRequired[Union[FusionMethod, None]]

    k: NotRequired[Union[int, None]]
    """The constant of reciprocal rank fusion: a passage at rank r of a source gains w / (k + r). 60 unless the
    server says otherwise.
    """

    weights: NotRequired[Union[HybridWeights, None]]


class HybridWeights(TypedDict):
    """How much each source of a hybrid search counts: numbers from 0 on, one of them above. 1 unless the server
    says otherwise.
    """

    bm25: NotRequired[Union[float, None]]
    """The ranking by words."""

    dense: NotRequired[Union[float, None]]
    """The ranking by vectors."""


class Limits(TypedDict):
    """What requests may ask for at most."""

    settings: dict[str, int]
    """Limits by the names that errors give as `setting`; times are in milliseconds, sizes in bytes."""


class Model(TypedDict):
    """A loaded model."""

    created: int
    """When the server loaded it, in seconds since 1970."""

    dimensions: NotRequired[list[int]]
    """Widths that `dimensions` may ask for beside `width`."""

    fingerprint: NotRequired[Union[str, None]]
    """Fingerprint of an encoder, with default templates; vectors of one fingerprint can be compared."""

    id: str
    """The name that requests give as `model`."""

    max_tokens: int
    """Most tokens of a text (of a pair, for rerankers)."""

    object: str
    """Always `model`."""

    owned_by: str
    """Always `trawl`."""

    role: ModelRole
    """What it is for."""

    width: NotRequired[Union[int, None]]
    """Values of a vector, for encoders."""


class ModelList(TypedDict):
    """The loaded models, as OpenAI's clients read them."""

    data: list[Model]
    """Encoders, then rerankers, each by name."""

    object: str
    """Always `list`."""


class NewDocument(TypedDict):
    """A document to add; fields beside these are metadata."""

    _id: str
    """Its id; the document takes the place of the one that has it."""

    text: str
    """Its text."""

    title: NotRequired[str]
    """Its title."""

    vector: NotRequired[list[float]]
    """Its vector, where the collection's vectors are brought."""


class Pin(TypedDict):
    """Gives a document a rank, wherever the ranking has it, if at all."""

    id: str
    """The document; where documents were split, its best passage is pinned. With `group_by` its group is. One
    that is not there, or does not pass the filters of request and key, has no effect.
    """

    rank: int
    """Its rank, from 1; behind the end of the ranking it comes last. Limit: `limits.window`."""


class Problem(TypedDict):
    """Why a request failed (RFC 9457, `application/problem+json`)."""

    code: ErrorCode
    """The kind of error, for programs."""

    detail: str
    """This error, for people."""

    errors: NotRequired[list[FieldError]]
    """The fields at fault."""

    gate: NotRequired[Union[dict[str, Any], None]]
    """With `gate_failed`: what the gate found, with the questions that lost most side by side."""

    instance: str
    """The path of the request."""

    request_id: str
    """As in the header `x-request-id`; the server's log has the cause under it."""

    retry_after_ms: NotRequired[Union[int, None]]
    """When to try again; the header `Retry-After` says it in whole seconds."""

    retryable: bool
    """Whether the same request may succeed later."""

    status: int
    """The HTTP status."""

    title: str
    """The kind of error, for people."""

    type: str
    """The code as a URI; it names the kind of error and leads nowhere."""


class Range(TypedDict):
    """Bounds of a number, or of a date (`2026-11-20` or RFC 3339, compared as moments); all that are given hold
    for one value.
    """

    gt: NotRequired[Any]
    """Greater than."""

    gte: NotRequired[Any]
    """Greater than or equal to."""

    lt: NotRequired[Any]
    """Less than."""

    lte: NotRequired[Any]
    """Less than or equal to."""


class RerankDocumentText(TypedDict):
    """A document's text in an object."""

    text: str
    """The text."""


class RerankOptions(TypedDict):
    """Options of reranking."""

    candidates: NotRequired[int]
    """The first so many passages are scored; the rest follow in their order. Limit: `limits.rerank_candidates`."""

    on_timeout: NotRequired[OnTimeout]
    """What happens when it takes longer."""

    timeout_ms: NotRequired[Union[int, None]]
    """The most time reranking may take, inside the request's own time."""


class RerankRequest(TypedDict):
    """Documents to order by how well they answer a query, as Jina's and Cohere's clients ask. Unknown fields are
    ignored.
    """

    documents: list[RerankDocument]
    """The documents. Limit: `limits.rerank_documents`."""

    model: NotRequired[Union[str, None]]
    """Name of a loaded cross-encoder; may be left out when exactly one is loaded."""

    query: str
    """The query."""

    return_documents: NotRequired[bool]
    """Whether results carry their document."""

    top_n: NotRequired[Union[int, None]]
    """Results returned; all when left out."""


class RerankResponse(TypedDict):
    """The documents, best first; equal scores keep the order given."""

    id: str
    """The request's id."""

    model: str
    """The model that answered."""

    results: list[RerankResult]
    """Best first."""

    usage: RerankUsage
    """What it cost."""


class RerankResult(TypedDict):
    """One document's score."""

    document: NotRequired[Union[RerankDocumentText, None]]

    index: int
    """Position of the document in the request."""

    relevance_score: float
    """The cross-encoder's score; higher is better."""


class RerankUsage(TypedDict):
    """What reranking cost."""

    total_tokens: int
    """Tokens of all pairs."""


class RollbackRequest(TypedDict):
    """Makes an alias name what it named before."""

    drop_live: NotRequired[bool]
    """As of [`AliasRequest`]."""


class SearchGroup(TypedDict):
    """Passages of one document, or with one value of a field."""

    hits: list[SearchHit]
    """Its best passages, best first; `rank` is their place among all passages, 0 where a pin brought what the
    ranking did not.
    """

    id: str
    """Id of the document, or the value."""

    pinned: NotRequired[bool]
    """Whether it has its rank by a pin."""

    rank: int
    """Its place, from 1; groups skipped by `offset` count."""

    score: float
    """Its score."""


class SearchHighlight(TypedDict):
    """A fragment of a passage: the part that has the most different words of the query, or else its beginning."""

    field: HighlightField
    """Where it is from."""

    pieces: list[HighlightPiece]
    """Its text, in pieces that are words of the query and pieces that are not; `…` stands where the passage goes
    on.
    """


class SearchHit(TypedDict):
    """One passage."""

    document: NotRequired[Union[HitDocument, None]]

    explanation: NotRequired[Union[HitExplanation, None]]

    highlights: NotRequired[list[SearchHighlight]]
    """Fragments, with `highlight`."""

    id: str
    """Its id in the corpus."""

    metadata: NotRequired[Union[dict[str, Any], None]]
    """Metadata, with `"include": ["metadata"]`."""

    pinned: NotRequired[bool]
    """Whether it has its rank by a pin. Its score is 0 where the ranking did not bring it."""

    rank: int
    """Its place, from 1; hits skipped by `offset` count."""

    score: float
    """The score that the last stage gave it; higher is better."""

    scores: HitScores
    """The score of every stage that saw it."""

    text: NotRequired[Union[str, None]]
    """Text, with `"include": ["text"]`."""

    title: NotRequired[Union[str, None]]
    """Title, with `"include": ["text"]`."""


class SearchOptions(TypedDict):
    """Options of the vector search."""

    ef: NotRequired[Union[int, None]]
    """How many candidates a walk through a graph keeps: more find more and take longer. Collections without
    graphs have no use for it. Limit: `limits.ef`.
    """

    exact: NotRequired[bool]
    """Search exhaustively even where a faster, approximate index exists."""


class SearchRequest(TypedDict):
    """A search by text or by vector: exactly one of `query` and `vector` is given."""

    boosts: NotRequired[list[Boost]]
    """What is added to scores for the values of fields: recency, popularity. Limit: `limits.boosts`."""

    explain: NotRequired[bool]
    """Says of each hit what its score is made of."""

    facets: NotRequired[list[str]]
    """Metadata fields (keyword, integer, boolean) whose values are counted in the passages that pass the filter.
    Limit: `limits.facets`.
    """

    filter: NotRequired[Union[Filter, None]]

    group_by: NotRequired[Union[str, None]]
    """Returns `groups` in place of `results`, and counts them by `top_k` and `offset`: `document` puts the
    passages together that a document was split into, the name of a keyword field those with a value in
    common.
    """

    group_score: NotRequired[Union[GroupScore, None]]

    group_size: NotRequired[Union[int, None]]
    """Passages shown of each group, 1 unless given. Limit: `limits.top_k`."""

    highlight: NotRequired[Union[HighlightOptions, None]]

    hybrid: NotRequired[Union[HybridOptions, None]]

    include: NotRequired[list[IncludeField]]
    """What to return of each passage beside its id and scores."""

    mode: NotRequired[SearchMode]
    """The ranking before reranking."""

    offset: NotRequired[int]
    """Hits skipped before the first one returned. Limit on `offset + top_k`: `limits.window`."""

    pins: NotRequired[list[Pin]]
    """Documents that have given ranks. Limit: `limits.pins`."""

    query: NotRequired[Union[str, None]]
    """Query text; the collection's query template and the model's query prompt are applied to it."""

    rank_window: NotRequired[Union[int, None]]
    """Passages of the ranking that `boosts` and `sort` see, its first ones. With boosts the rest follow in their
    order; with `sort` they are left out. It does not depend on the page, so that pages fit together. 1000
    unless given. Limit: `limits.window`.
    """

    rerank: NotRequired[Union[RerankOptions, None]]

    score_threshold: NotRequired[Union[float, None]]
    """Leaves out hits whose `score` is lower. After reranking that is the cross-encoder's score, and passages it
    did not read are left out; before, the fused one with `"mode": "hybrid"`, else that of vectors or words.
    """

    search: NotRequired[SearchOptions]
    """Options of the vector search."""

    sort: NotRequired[Union[Sort, None]]

    timeout_ms: NotRequired[Union[int, None]]
    """When the answer is of no more use, counted from the arrival of the request; `x-timeout-ms` says the same.
    Default: `server.default_timeout`; limit: `server.max_timeout`.
    """

    top_k: NotRequired[int]
    """Hits returned, at least 1. Limit: `limits.top_k`."""

    vector: NotRequired[Union[list[float], None]]
    """Query vector of the collection's width; finite, and not zero where vectors are compared by cosine."""


class SearchResponse(TypedDict):
    """The passages found, best first, and how they were found."""

    collection: str
    """The collection that was searched."""

    degraded: list[str]
    """What was left out for lack of time: `rerank_skipped`, and with it `score_threshold_skipped`, because a
    threshold for scores of the cross-encoder says nothing about others. With `group_by`: `groups_missing`
    where there may be more groups than were found among 10,000 passages, `group_scores_partial` where
    passages that were not ranked might count in a sum or mean.
    """

    exact: bool
    """Whether the ranking by vectors is exact over the stored rows; `false` where no vectors were searched."""

    facets: NotRequired[Union[dict[str, dict[str, int]], None]]
    """For each field asked for, how many of the passages that pass the filter have each value: at most 100
    values, by count descending, then by value. A passage with several values counts once for each.
    """

    generation: str
    """The generation that answered; every part of the answer comes from it."""

    groups: NotRequired[Union[list[SearchGroup], None]]
    """The groups, best first, with `group_by`."""

    log_position: NotRequired[int]
    """The last position of the collection's write log that was searched."""

    model_fingerprint: str
    """Fingerprint of the model and texts that the generation was built with."""

    plan: NotRequired[Union[str, None]]
    """How vectors were searched, where they were: `scan` or `filtered_scan`, exactly; `graph` or
    `filtered_graph`, by a walk.
    """

    request_id: str
    """As in the header `x-request-id`."""

    results: list[SearchHit]
    """The passages, best first; none with `group_by`."""

    timing_ms: SearchTiming
    """Where the time went."""

    total: SearchTotal
    """How many passages the whole ranking has: those that pass the filter; in lexical search, those with a word
    of the query; with a threshold, those above it.
    """

    usage: SearchUsage
    """What the answer cost."""

    warnings: list[str]
    """What may make the answer less than it could be, in words: queries encoded in 8-bit arithmetic against
    vectors that were not, or the other way round; facets with more values than are counted.
    """


class SearchTiming(TypedDict):
    """Where the time went, in milliseconds."""

    encode: float
    """Tokens to vector."""

    fetch: float
    """Reading titles, texts and metadata."""

    filter: float
    """Filter and facets."""

    queue: float
    """Waiting for the encoder."""

    rerank: float
    """Reranking, its wait included."""

    search: float
    """Vector and text to passages, fusion included."""

    tokenize: float
    """Text to tokens."""

    total: float
    """All of it."""


class SearchTotal(TypedDict):
    """How many passages a ranking has."""

    relation: TotalRelation
    """Whether there may be more."""

    value: int
    """The number."""


class SearchUsage(TypedDict):
    """What an answer cost."""

    query_tokens: int
    """Tokens of the query."""

    rerank_tokens: int
    """Tokens of all pairs that the cross-encoder read."""

    truncated: bool
    """Whether the query, or a pair, was cut at the model's limit."""


class Shadow(TypedDict):
    """How the answers of a candidate compare with those that were given."""

    candidate: str
    """The one that is compared with it."""

    candidate_ms: NotRequired[Union[ShadowLatency, None]]

    collection: str
    """The collection."""

    compared: int
    """Searches compared so far."""

    failed: int
    """Searches that the candidate could not answer."""

    identical: NotRequired[Union[float, None]]
    """Share of answers with the same passages in the same order."""

    live: str
    """The generation that answers."""

    live_ms: NotRequired[Union[ShadowLatency, None]]

    overlap: NotRequired[Union[float, None]]
    """Passages in both answers over those of the longer one; the mean. None before the first comparison."""

    same_first: NotRequired[Union[float, None]]
    """Share of answers that begin with the same passage."""

    score_drift: NotRequired[Union[float, None]]
    """Absolute difference of the scores of passages in both answers; the mean."""

    share: float
    """The share of searches that it answers, too."""

    skipped: int
    """Searches whose turn it was while too many others waited."""


class ShadowLatency(TypedDict):
    """Percentiles in milliseconds."""

    p50: float
    """The median."""

    p95: float
    """The 95th percentile."""

    p99: float
    """The 99th percentile."""


class ShadowRequest(TypedDict):
    """Lets another generation answer a share of the live searches, too."""

    generation: str
    """The candidate: a generation, or an alias that names it now."""

    share: NotRequired[float]
    """The share of searches, above 0 and up to 1."""


class Sort(TypedDict):
    """An order by the values of a field in place of that by score, ties in the order of the corpus, passages
    without a value last.
    """

    field: str
    """A keyword, integer, float, date or boolean field."""

    order: NotRequired[SortOrder]
    """Which end comes first. Of several values that one counts."""


class Task(TypedDict):
    """Work that goes on behind requests."""

    collection: str
    """The collection."""

    error: NotRequired[Union[str, None]]
    """Why it failed."""

    evaluation: NotRequired[Union[EvalReport, None]]

    generation: NotRequired[Union[str, None]]
    """The generation that answers since, when the write log has been folded into it."""

    kind: str
    """What it does: `compact` or `eval`."""

    progress: NotRequired[Union[TaskProgress, None]]

    state: TaskState
    """How far it is."""

    task: str
    """Its id."""


class TaskList(TypedDict):
    """The tasks of a server."""

    tasks: list[Task]
    """Those that go on and the newest that have ended, 100 in all; oldest first."""


class TaskProgress(TypedDict):
    """Steps of a task."""

    done: int
    """Those that are done."""

    of: int
    """All of them."""


class Version(TypedDict):
    """Which program answers."""

    name: str
    """Always `trawl`."""

    version: str
    """Its version."""


BoostStage = Literal['retrieval', 'rerank']


ErrorCode = Literal['bad_request', 'unauthorized', 'forbidden', 'not_found', 'model_not_found', 'method_not_allowed', 'slow_client', 'gate_failed', 'fingerprint_mismatch', 'already_exists', 'locked', 'precondition_failed', 'body_too_large', 'batch_too_large', 'unsupported_media_type', 'validation', 'rate_limited', 'overloaded', 'headers_too_large', 'internal', 'not_ready', 'draining', 'search_unavailable', 'deadline_exceeded', 'insufficient_storage']


HighlightField = Literal['title', 'text']


TotalRelation = Literal['eq', 'gte']


BatchSearchResult = Union[SearchResponse, dict[str, Any]]


BoostFunction = Literal['exp_decay', 'gauss_decay', 'linear_decay', 'log1p', 'linear']


EmbeddingInput = Union[str, list[str], list[int], list[list[int]]]


EmbeddingValues = Union[list[float], str]


EncodingFormat = Literal['float', 'base64']


FusionMethod = Literal['rrf', 'weighted']


GateChange = Union[float, str]


GateFingerprint = Literal['same', 'any']


Gate = Union[bool, GateSettings]


GroupScoreMethod = Literal['max', 'sum', 'mean']


HealthStatus = Literal['live', 'ready']


IncludeField = Literal['text', 'metadata']


InputType = Literal['query', 'document']


Match = TypedDict(
    'Match',
    {
        'any': 'NotRequired[Union[list[Any], None]]',
        'except': 'NotRequired[Union[list[Any], None]]',
        'value': 'NotRequired[Any]',
    },
)


ModelRole = Literal['encoder', 'reranker']


NewDocuments = Union[NewDocument, list[NewDocument]]


OnTimeout = Literal['skip', 'fail']


RerankDocument = Union[str, RerankDocumentText]


SearchMode = Literal['dense', 'lexical', 'hybrid']


SortOrder = Literal['asc', 'desc']


TaskState = Literal['running', 'done', 'failed', 'cancelled']


class Client(Transport):
    """A server, with a method for each of its operations."""

    def livez(self) -> Health:
        """Whether the process answers."""
        return self.call('GET', '/livez', None)

    def metrics(self) -> str:
        """Figures in Prometheus' text format."""
        return self.text('GET', '/metrics', None)

    def readyz(self) -> Health:
        """Whether the server is ready for requests.

        It is once every model and every collection gave a known answer, as long as they do when asked again
        every `server.check_interval`, and until the shutdown begins.
        """
        return self.call('GET', '/readyz', None)

    def list_collections(self) -> CollectionList:
        """List the collections."""
        return self.call('GET', '/v1/collections', None)

    def show_collection(self, name: str, /) -> CollectionDetail:
        """Show a collection."""
        return self.call('GET', f'/v1/collections/{quote(name)}', None)

    def create_collection(self, name: str, /, **body: Unpack[CollectionRequest]) -> Collection:
        """Make a collection.

        It has no documents yet; they are sent to `…/documents`. The server needs a folder for it
        (`server.data`) and answers for it from here on, also when it is started again.
        """
        return self.call('PUT', f'/v1/collections/{quote(name)}', body)

    def delete_collection(self, name: str, /) -> None:
        """Delete a collection.

        All its generations and documents are removed from the disk. Only collections that were made over HTTP
        can be deleted so. Searches that have begun are answered.
        """
        self.text('DELETE', f'/v1/collections/{quote(name)}', None)

    def show_alias(self, name: str, alias: str, /) -> Alias:
        """Show what an alias names."""
        return self.call('GET', f'/v1/collections/{quote(name)}/aliases/{quote(alias)}', None)

    def set_alias(self, name: str, alias: str, /, *, if_match: str | None = None, **body: Unpack[AliasRequest]) -> Alias:
        """Make an alias name another generation.

        The generation is compared with the one it replaces, opened, and has answered a search before the
        alias changes. The answer comes when this server answers from it, if the alias is the one that it
        serves. Other servers follow within a second. Where it is worse, `gate` of the answer is the report of
        the comparison.

        With `if_match`, only while the alias names that generation.
        """
        return self.call('PUT', f'/v1/collections/{quote(name)}/aliases/{quote(alias)}', body, {'if-match': entity_tag(if_match)})

    def roll_back_alias(self, name: str, alias: str, /, *, if_match: str | None = None, **body: Unpack[RollbackRequest]) -> Alias:
        """Make an alias name what it named before.

        A second rollback takes the first one back. Nothing is compared: the generation has been served.

        With `if_match`, only while the alias names that generation.
        """
        return self.call('POST', f'/v1/collections/{quote(name)}/aliases/{quote(alias)}/rollback', body, {'if-match': entity_tag(if_match)})

    def compact(self, name: str, /) -> Task:
        """Fold the documents written since the last build into a new generation.

        The answer comes at once; the task goes on behind it, and the server answers from the new generation
        when it is done.
        """
        return self.call('POST', f'/v1/collections/{quote(name)}/compact', None)

    def add_documents(self, name: str, /, body: NewDocuments, *, idempotency_key: str | None = None) -> DocumentsWritten:
        """Add documents to a collection.

        Each takes the place of the one with its id. The body is a JSON object, an array of them, or one on
        each line (`application/x-ndjson`): `_id`, `title`, `text`, and metadata; `vector` where the
        collection's vectors were brought. Documents that cannot be taken are named in `errors`, the others
        are written. Every search that begins after the answer sees them.

        A request that is repeated with its `idempotency_key` is written once.
        """
        return self.call('POST', f'/v1/collections/{quote(name)}/documents', body, {'idempotency-key': idempotency_key})

    def delete_documents(self, name: str, /, *, idempotency_key: str | None = None, **body: Unpack[DocumentsDelete]) -> DocumentsDeleted:
        """Delete documents by their ids, or all that pass a filter.

        What a filter finds is deleted as a whole: the documents that are there when the deletion is written,
        and no others. A key that has a filter of its own deletes only what passes that, too. Every search
        that begins after the answer sees none of them.

        A request that is repeated with its `idempotency_key` is written once.
        """
        return self.call('POST', f'/v1/collections/{quote(name)}/documents/delete', body, {'idempotency-key': idempotency_key})

    def show_document(self, name: str, id: str, /) -> Document:
        """Show a document."""
        return self.call('GET', f'/v1/collections/{quote(name)}/documents/{quote(id)}', None)

    def feedback(self, name: str, /, **body: Unpack[FeedbackRequest]) -> FeedbackResponse:
        """Say what of the found was clicked, or how relevant it is.

        Needs a query log (`query_log.path`), into which it is written; `trawl data from-feedback` makes
        queries and judgments of it. Either all of it is taken or none.
        """
        return self.call('POST', f'/v1/collections/{quote(name)}/feedback', body)

    def list_generations(self, name: str, /) -> GenerationList:
        """List the generations of a collection."""
        return self.call('GET', f'/v1/collections/{quote(name)}/generations', None)

    def search(self, name: str, /, **body: Unpack[SearchRequest]) -> SearchResponse:
        """Search a collection by text or by vector.

        Answers come from one generation of the collection, named in the body and in the header
        `x-index-generation`.
        """
        return self.call('POST', f'/v1/collections/{quote(name)}/search', body)

    def search_batch(self, name: str, /, **body: Unpack[BatchSearchRequest]) -> BatchSearchResponse:
        """Search a collection for many queries at once.

        Searches with equal options are encoded and searched together. Each has its own answer or its own
        error: the status is 200 where the request as a whole can be read. All answers come from one
        generation.
        """
        return self.call('POST', f'/v1/collections/{quote(name)}/search/batch', body)

    def show_shadow(self, name: str, /) -> Shadow:
        """Show how a candidate compares with the generation that answers."""
        return self.call('GET', f'/v1/collections/{quote(name)}/shadow', None)

    def set_shadow(self, name: str, /, **body: Unpack[ShadowRequest]) -> Shadow:
        """Let another generation answer a share of the searches, too.

        Its answers go nowhere but into figures, and nobody waits for them; they cost the machine what
        searches cost. A comparison that was going on ends. This one ends with `DELETE`, when another
        generation becomes the one that answers, and with the server.
        """
        return self.call('PUT', f'/v1/collections/{quote(name)}/shadow', body)

    def end_shadow(self, name: str, /) -> None:
        """End the comparison."""
        self.text('DELETE', f'/v1/collections/{quote(name)}/shadow', None)

    def embed(self, **body: Unpack[EmbeddingRequest]) -> EmbeddingResponse:
        """Turn texts into vectors, as OpenAI's API does.

        Errors have OpenAI's form. Texts over the model's length are cut there.
        """
        return self.call('POST', '/v1/embeddings', body)

    def evaluate(self, **body: Unpack[EvalRequest]) -> Task:
        """Measure how well a collection answers queries with judgments.

        Searches go through the queues behind those of other callers, and neither into the query log nor into
        a comparison with a shadow. Where documents were split into passages, documents are found, by their
        best passage. One evaluation goes on at a time. `limits.eval_queries` is 0 unless the server is told
        otherwise, and refuses all of them.
        """
        return self.call('POST', '/v1/eval', body)

    def limits(self) -> Limits:
        """What requests may ask for at most."""
        return self.call('GET', '/v1/limits', None)

    def list_models(self) -> ModelList:
        """List the models, as OpenAI's API does."""
        return self.call('GET', '/v1/models', None)

    def show_model(self, id: str, /) -> Model:
        """Show a model, as OpenAI's API does."""
        return self.call('GET', f'/v1/models/{quote(id)}', None)

    def rerank(self, **body: Unpack[RerankRequest]) -> RerankResponse:
        """Order documents by how well they answer a query.

        Request and answer are Jina's, which Cohere's clients understand as well. A pair over the model's
        length is cut there.
        """
        return self.call('POST', '/v1/rerank', body)

    def list_tasks(self) -> TaskList:
        """List the tasks."""
        return self.call('GET', '/v1/tasks', None)

    def show_task(self, task: str, /) -> Task:
        """Show a task."""
        return self.call('GET', f'/v1/tasks/{quote(task)}', None)

    def cancel_task(self, task: str, /) -> Task:
        """End a task.

        It ends at its next step, and changes nothing then; one that has ended stays as it is.
        """
        return self.call('POST', f'/v1/tasks/{quote(task)}/cancel', None)

    def version(self) -> Version:
        """Which program answers."""
        return self.call('GET', '/v1/version', None)
