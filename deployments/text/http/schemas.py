"""What requests and answers of the text routes look like, for the description of the routes.

Bodies are read by hand (see `fields`), as clients have many words for one thing; nothing here runs when a request is
answered.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import Field
from typing_extensions import TypedDict

from cluster.value import JsonObject

#: Numbers, or base64 of them.
Vector = list[float] | str
Vectors = list[list[float]] | str
TokenIds = list[int]
Texts = str | list[str]
Precision = Literal["float", "float32", "float16", "int8", "uint8", "binary", "ubinary", "base64"]


class TokenUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class ModelField(TypedDict, total=False):
    model: Annotated[
        str | None, Field(description="The uid, name or hub id of a model; needed where several could answer.")
    ]


class TruncationFields(ModelField, total=False):
    truncate: Annotated[
        bool | str | None, Field(description="Where a text that is too long is cut: START or END; NONE refuses it.")
    ]
    truncation: Annotated[bool | str | None, Field(description="Another name of truncate.")]
    truncation_direction: Annotated[str | None, Field(description="Where it is cut: left or right.")]
    truncation_side: Annotated[str | None, Field(description="Another name of truncation_direction.")]


class VectorFields(TruncationFields, total=False):
    dimensions: Annotated[int | None, Field(description="How many numbers of each vector; 0 for all.")]
    output_dimension: Annotated[int | None, Field(description="Another name of dimensions.")]
    truncate_dim: Annotated[int | None, Field(description="Another name of dimensions.")]
    normalize: bool | None
    normalized: Annotated[bool | None, Field(description="Another name of normalize.")]
    normalize_embeddings: Annotated[bool | None, Field(description="Another name of normalize.")]
    prompt_name: Annotated[str | None, Field(description="One of the model's own prompts, put before each text.")]
    task: Annotated[str | None, Field(description="Another name of prompt_name.")]
    input_type: Annotated[str | None, Field(description="Another name of prompt_name.")]
    prompt: Annotated[str | None, Field(description="Put before each text.")]
    token_ids: Annotated[
        Literal["model", "cl100k_base"] | None, Field(description="Whose ids lists of numbers are, if not as launched.")
    ]


class FormFields(VectorFields, total=False):
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] | None
    output_dtype: Annotated[Precision | list[Precision] | None, Field(description="The precision of the numbers.")]
    embedding_type: Annotated[Precision | list[Precision] | None, Field(description="Another name of output_dtype.")]
    embedding_types: Annotated[Precision | list[Precision] | None, Field(description="Another name of output_dtype.")]
    embedding_dtype: Annotated[Precision | list[Precision] | None, Field(description="Another name of output_dtype.")]
    embed_dtype: Annotated[Precision | list[Precision] | None, Field(description="Another name of output_dtype.")]
    endianness: Literal["native", "little"] | None
    truncate_prompt_tokens: Annotated[
        int | None, Field(description="How many are read of each; -1 is all that the model can.")
    ]


# ---------------------------------------------------------------------------------------------------- embeddings


class InputObject(TypedDict, total=False):
    """One of these."""

    text: str
    image: Annotated[str, Field(description="An address, or the file as a data: URL or base64.")]
    audio: Annotated[str, Field(description="An address, or the file as a data: URL or base64.")]


EmbeddingInput = str | InputObject | TokenIds | list[str | InputObject | TokenIds]


class EmbeddingBody(FormFields, total=False):
    input: Required[EmbeddingInput]
    modality: Literal["text", "image", "audio"] | None
    user: str | None
    return_dense: bool | None
    return_sparse: bool | None
    return_multivector: Annotated[bool | None, Field(description="A vector for each token.")]
    return_colbert_vecs: Annotated[bool | None, Field(description="Another name of return_multivector.")]
    add_special_tokens: Literal[True] | None


class EmbeddingRow(TypedDict):
    index: int
    object: str
    embedding: NotRequired[Vector | dict[str, float] | dict[str, Vector]]
    sparse_embedding: NotRequired[dict[str, float]]
    embeddings: NotRequired[Vectors | dict[str, Vectors]]


class EmbeddingAnswer(TypedDict):
    object: str
    model: str
    model_replica: str
    data: list[EmbeddingRow]
    usage: TokenUsage
    id: str
    created: int


class ConvertBody(ModelField):
    input: list[int | str] | list[list[int | str]]


class CohereContent(TypedDict):
    content: list[JsonObject]


class CohereEmbedBody(VectorFields, total=False):
    """One of texts, images and inputs is needed."""

    texts: list[str]
    images: list[str]
    inputs: list[CohereContent]
    embedding_types: list[Precision] | None
    max_tokens: int | None


class CohereVersion(TypedDict):
    version: str


class CohereUnits(TypedDict):
    input_tokens: int
    images: NotRequired[int]


class CohereMeta(TypedDict):
    api_version: CohereVersion
    billed_units: CohereUnits


class CohereEmbeddings(TypedDict):
    id: str
    response_type: Literal["embeddings_by_type", "embeddings_floats"]
    embeddings: dict[str, list[Vector]] | list[list[float]]
    texts: list[str]
    images: list[JsonObject]
    meta: CohereMeta


# -------------------------------------------------------------------------------------------------------- rerank


class RankedObject(TypedDict, total=False):
    text: str | None
    image: Annotated[str | None, Field(description="A data URI, base64, or an address where those are fetched.")]


class RerankFields(TruncationFields, total=False):
    query: Required[str | RankedObject]
    query_type: Annotated[Literal["text", "image"] | None, Field(description="What a query that is a text stands for.")]
    doc_type: Annotated[Literal["text", "image"] | None, Field(description="What documents that are texts stand for.")]
    top_n: int | None
    top_k: Annotated[int | None, Field(description="Another name of top_n.")]
    return_documents: bool | None
    return_len: Annotated[bool | None, Field(description="Whether meta tells the tokens.")]
    raw_scores: Annotated[bool | None, Field(description="Scores as the model has them, not between 0 and 1.")]
    max_tokens_per_doc: int | None
    max_doc_length: Annotated[int | None, Field(description="Another name of max_tokens_per_doc.")]
    max_chunks_per_doc: int | None
    long_documents: Literal["truncate", "error", "chunk"] | None
    instruction: Annotated[str | None, Field(description="What documents are judged by, of a language model.")]
    rank_fields: list[str] | None
    kwargs: str | JsonObject | None


class RerankBody(RerankFields):
    documents: list[str | JsonObject]


class TextRerankBody(RerankFields):
    texts: list[str | JsonObject]
    return_text: NotRequired[bool | None]


class RankedDocument(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[str | JsonObject | None]


class RerankAnswer(TypedDict):
    id: str
    object: str
    model: str
    created: int
    results: list[RankedDocument]
    data: NotRequired[list[RankedDocument]]
    usage: TokenUsage
    meta: JsonObject


class RankedText(TypedDict):
    index: int
    score: float
    text: NotRequired[str]


# ------------------------------------------------------------------------------------------------------ classify


class ClassifyBody(TruncationFields, total=False):
    input: Required[Texts]
    raw_scores: bool | None
    use_activation: Annotated[bool | None, Field(description="False for scores as the model has them.")]
    activation: Annotated[bool | None, Field(description="Another name of use_activation.")]


class ScoredLabel(TypedDict):
    score: float
    label: str


class InfinityClassified(TypedDict):
    object: str
    data: list[list[ScoredLabel]]
    model: str
    usage: TokenUsage
    id: str
    created: int


class BestLabel(TypedDict):
    index: int
    label: str
    probs: list[float]
    num_classes: int


class VllmClassified(TypedDict):
    id: str
    object: str
    created: int
    model: str
    data: list[BestLabel]
    usage: TokenUsage


# ---------------------------------------------------------------------------------------------------------- vLLM


class ScoreBody(TruncationFields, total=False):
    """Two sides under one of the pairs of names: queries and documents or items, data_1 and data_2, text_1 and
    text_2."""

    queries: Texts
    documents: Texts
    items: Texts
    data_1: Texts
    data_2: Texts
    text_1: Texts
    text_2: Texts
    raw_scores: bool | None
    use_activation: bool | None
    activation: bool | None


class ScoreRow(TypedDict):
    index: int
    object: str
    score: float


class ScoreAnswer(TypedDict):
    id: str
    object: str
    created: int
    model: str
    data: list[ScoreRow]
    usage: TokenUsage


class PoolingBody(FormFields, total=False):
    input: Required[EmbeddingInput]
    raw_scores: bool | None
    use_activation: bool | None
    activation: bool | None


class PoolingRow(TypedDict):
    index: int
    object: str
    data: Vector | Vectors | dict[str, Vector] | dict[str, Vectors]


class PoolingAnswer(TypedDict):
    id: str
    object: str
    created: int
    model: str
    data: list[PoolingRow]
    usage: TokenUsage


# ------------------------------------------------------------------------------------- text-embeddings-inference


class TeiError(TypedDict):
    error: str
    error_type: str
    code: str
    param: str | None


class TeiEmbedBody(VectorFields):
    inputs: str | TokenIds | list[str | TokenIds]


class SparseValue(TypedDict):
    index: int
    value: float


class PredictBody(TruncationFields, total=False):
    inputs: Required[Annotated[str | list[str] | list[list[str]], Field(description="A list of texts is one pair.")]]
    raw_scores: bool | None


class SimilarityInputs(TypedDict):
    source_sentence: str
    sentences: Texts


class SimilarityBody(ModelField, total=False):
    inputs: Required[SimilarityInputs]
    parameters: VectorFields | None


class TokenizeBody(ModelField, total=False):
    inputs: Required[Texts]
    add_special_tokens: bool | None
    prompt_name: str | None


class TokenRow(TypedDict):
    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeBody(ModelField, total=False):
    ids: Required[TokenIds | list[TokenIds]]
    skip_special_tokens: bool | None


class TeiInfo(TypedDict):
    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None
