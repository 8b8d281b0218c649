"""ModelArtifact: one quantized artifact, named by its content key. An immutable record, like a build.

The value types here (`ModelFacts`, `ResolvedSource`, `QualityReport` ...) are also what the pipeline writes into the
store's manifest, so that the record in the cluster and the record in the store cannot drift apart.
"""

from typing import Annotated

from pydantic import Field

from edgemodel.api.base import (
    ApiModel,
    ArtifactKey,
    Bytes,
    Condition,
    Count,
    Decimal,
    Generation,
    LocalRef,
    Name,
    ObjectMeta,
    SchemeName,
    Sha256,
    ShortText,
    Task,
    keyed,
    rules,
)

SourceUri = Annotated[
    str,
    Field(
        min_length=6,
        max_length=1024,
        # Not \s: what is a space differs from engine to engine, and what an apiserver takes we must take.
        pattern=r"^(s3|hf|https|pvc)://[^\p{Z}\p{Cc}\\]+$",
    ),
]


class _Place(ApiModel):
    """Where files are read from."""

    model_config = rules(
        (
            "!has(self.revision) || self.uri.startsWith('hf://') || self.uri.startsWith('s3://')",
            "revision is for hf:// and s3:// sources; leave it out for this one",
        ),
        (
            "!self.uri.startsWith('hf://') || self.uri.matches('^hf://[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*$')",
            "an hf:// source is hf://OWNER/NAME; give a branch, tag or commit as revision",
        ),
        ("!self.uri.contains('..')", "the path of a source must not leave its folder: take '..' out of uri"),
        (
            "!self.uri.matches('^https://([[]([0:]*:ffff:)?)?(169[.]254[.]|(?i)fe[89ab][0-9a-f]:)')",
            "a source must not be on a link-local address",
        ),
        (
            "!self.uri.contains('@')",
            "credentials do not belong in a URI: put them in a Secret and name it as secretRef",
        ),
    )

    uri: SourceUri
    """Where."""
    revision: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/]*$")] | None = None
    """hf: a branch, tag or commit (a branch is pinned to its commit when the source is resolved). s3: a version id."""
    secret_ref: LocalRef | None = None
    """A Secret with the keys `HF_TOKEN` (hf), `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and optionally
    `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL` (s3), or `TOKEN` (https, sent as a bearer token). Only the
    pods that read the source see it; the operator does not."""


class Adapter(_Place):
    """A LoRA adapter: a folder with `adapter_config.json` and `adapter_model.safetensors` as PEFT writes it, or
    `adapters.safetensors` as mlx-lm does."""

    uri: SourceUri
    """`hf://OWNER/NAME`, `s3://BUCKET/FOLDER` or `pvc://CLAIM/FOLDER`."""


class Source(_Place):
    """Where the unquantized model comes from."""

    uri: SourceUri
    """`hf://OWNER/NAME`; `s3://BUCKET/PATH`, a folder or one .gguf file; `https://HOST/FILE.gguf`; `pvc://CLAIM/PATH`,
    a folder or one .gguf file. A folder holds safetensors with config.json and tokenizer, or one .gguf file."""
    sha256: Sha256 | None = None
    """The digest that a one-file source must have. Checked while the file is read."""
    adapter: Adapter | None = None
    """A LoRA adapter that is fused into the weights before they are quantized. The model must be safetensors."""


class ModelFacts(ApiModel):
    """What the files' headers say of the model. It sizes Jobs and pods."""

    architecture: ShortText
    """The architecture's name as the source gives it, for example `LlamaForCausalLM` or `llama`."""
    parameters: Count
    """How many weights."""
    layers: Count = 0
    """Transformer blocks."""
    kv_heads: Count = 0
    """Heads of keys and values in a block."""
    head_size: Count = 0
    """Elements in a head."""
    hidden_size: Count = 0
    """Width of the residual stream."""
    vocabulary: Count = 0
    """Tokens in the vocabulary."""
    context_length: Count = 0
    """The context that the model was trained for, in tokens."""


class ResolvedSource(ApiModel):
    """A source pinned: the same digest always means the same bytes."""

    digest: Sha256
    """Digest over the names, sizes and content ids of the source's files."""
    revision: ShortText = ""
    """The revision that was found, for example a commit."""
    format: Annotated[str, Field(max_length=32)]
    """`safetensors` or `gguf`."""
    weight_type: Annotated[str, Field(max_length=32)] = ""
    """The type of most of the weights in the source, for example `BF16` or `Q4_1`."""
    bytes: Bytes
    """Size of all files that will be read."""
    licence: ShortText = ""
    """The licence that the source states."""
    model: ModelFacts
    """What the headers say."""
    note: ShortText = ""
    """What a reader of the figures must know, for example that the source was dequantized."""
    adapter_revision: ShortText | None = None
    """The revision of the adapter that was found; empty for one of a source without revisions. Left out: no adapter."""


class Recipe(ApiModel):
    """How an artifact is made."""

    toolchain: Name
    """The pipeline's toolchain, for example `llamacpp`."""
    toolchain_version: Annotated[str, Field(max_length=63)]
    """Its version: another version makes another artifact."""
    scheme: SchemeName
    """The quantization scheme."""
    task: Task = "TextGeneration"
    """What the artifact is to do: it may hold another part of the model for another task."""
    calibration: Sha256 | None = None
    """Digest of the calibration text, where the scheme is calibrated."""
    target: Annotated[str, Field(max_length=63)] = ""
    """What it is compiled for, where the artifact is tied to a chip."""


class QualityReport(ApiModel):
    """What the artifact is worth beside the unquantized model, on the same held-out text."""

    accuracy: Decimal
    """1 is as good as the unquantized model: baselinePerplexity / perplexity of a model that generates text, the cosine
    of one that embeds it."""
    perplexity: Decimal | None = None
    """Perplexity of the artifact."""
    baseline_perplexity: Decimal | None = None
    """Perplexity of the unquantized model."""
    kl_divergence: Decimal | None = None
    """Mean Kullback-Leibler divergence of the artifact's next-token distribution from the baseline's, in nats."""
    top_token_agreement: Decimal | None = None
    """Share of positions at which both think the same token most likely."""
    cosine: Decimal | None = None
    """Mean cosine between the artifact's embedding of a text and the unquantized model's."""
    least_cosine: Decimal | None = None
    """That of the text on which they differ most."""
    tokens: Count
    """Tokens that were scored."""
    text_digest: Sha256
    """Digest of the held-out text."""


class PerformanceReport(ApiModel):
    """How fast and how large it is beside the unquantized model, in the same engine and in the same run: where the Job
    ran, which is seldom where it serves. One request at a time."""

    engine: ShortText
    """The engine that was measured, and its version."""
    processor: ShortText
    """The processor that it ran on."""
    threads: Count
    """The threads that it had."""
    tokens_per_second: Decimal
    """Tokens a second: of an answer, or of a text that is embedded."""
    baseline_tokens_per_second: Decimal
    """The unquantized model's."""
    speedup: Decimal
    """tokensPerSecond / baselineTokensPerSecond."""
    memory_bytes: Bytes
    """Most memory that the engine's process took."""
    baseline_memory_bytes: Bytes
    """The same with the unquantized model."""
    memory_saved: Decimal
    """1 - memoryBytes / baselineMemoryBytes."""


class Progress(ApiModel):
    """How far the Job is."""

    step: Annotated[str, Field(max_length=32)]
    """Fetch, Convert, Calibrate, Quantize, Compile, Evaluate, Measure or Publish."""
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Of this step."""
    bytes_done: Bytes = 0
    """Bytes read or written by this step."""
    bytes_total: Bytes = 0
    """Bytes that this step will read or write; 0 where it is not known."""


class ModelArtifactSpec(ApiModel):
    """All that determines the artifact, and where its source is read from. Never changes."""

    model_config = rules(
        ("self == oldSelf", "a ModelArtifact is a record and never changes: delete it, and it is made again if needed"),
    )

    key: ArtifactKey
    """Hash of the source's digest and the recipe."""
    source: Source
    """Where to read the source, as the first EdgeModel that wanted this artifact gave it."""
    resolved: ResolvedSource
    """The source, pinned."""
    recipe: Recipe
    """How it is made."""
    runtime: Name
    """The EdgeRuntime whose pipeline image makes it."""


class JobStatus(ApiModel):
    """The Job that makes the artifact."""

    name: Annotated[str, Field(max_length=253)]
    """Its name."""
    attempt: Annotated[int, Field(ge=1, le=100)] = 1
    """Which attempt this is."""
    memory_attempt: Annotated[int, Field(ge=1, le=8)] = 1
    """One more each time that the memory was not enough: it is doubled then."""
    failed: bool = False
    """Whether it ended for good without an artifact. Until the ModelArtifact is deleted, no other is made."""


class ModelArtifactStatus(ApiModel):
    """What became of it."""

    observed_generation: Generation = -1
    """The generation of the spec that was last acted on."""
    conditions: Annotated[list[Condition], keyed("type", max_length=8)] = []
    """Ready; Reconciling while it is made; Stalled when the user must act."""
    job: JobStatus | None = None
    """The latest Job, also when it has been cleared away."""
    progress: Progress | None = None
    """How far the Job is, while it runs."""
    digest: Sha256 | None = None
    """Digest of the manifest in the object store."""
    bytes: Bytes | None = None
    """Size of the artifact."""
    entrypoint: ShortText = ""
    """The file in it that a runtime is pointed at."""
    baseline_bytes: Bytes | None = None
    """Size of the unquantized model in the same format."""
    compression: Decimal | None = None
    """baselineBytes / bytes."""
    quality: QualityReport | None = None
    """The quality report."""
    performance: PerformanceReport | None = None
    """How fast and how large it is beside the unquantized model."""


class ModelArtifact(ApiModel):
    """One quantized artifact: the Job that makes it, and its record in the object store. Made by the operator."""

    metadata: ObjectMeta
    spec: ModelArtifactSpec
    """All that determines the artifact, and where its source is read from. Never changes."""
    status: ModelArtifactStatus = ModelArtifactStatus()
    """What became of it."""
