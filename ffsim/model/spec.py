"""What a model file says: the dimensions of an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from ffsim.config import Count, Figure, Layers, Natural, Shelf, Source, TaggedBy, load, spec
from ffsim.errors import Problem, ScenarioError


@spec
class Gqa:
    """Multi-head, grouped-query or multi-query attention.

    Attributes:
        heads, kv_heads, head_dim: query heads, key/value heads, width of a head.
        qkv_bias: biases on the three input projections (Qwen).
    """

    kind: Literal["gqa"]
    heads: Count
    kv_heads: Count
    head_dim: Count
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}: choose divisors")

    @property
    def kv_elements(self) -> int:
        """Elements of the key/value cache of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def score_width(self) -> int:
        """Query-key plus value width summed over heads: a token pair costs twice this in FLOP."""
        return 2 * self.heads * self.head_dim


@spec
class Indexer:
    """DeepSeek-V3.2's lightning indexer: a small attention that picks the keys each query may see."""

    heads: Count
    head_dim: Count
    top_k: Count


@spec
class Mla:
    """Multi-head latent attention.

    Attributes:
        q_lora_rank: width of the compressed query, none for a full-rank query (V2-Lite).
        kv_lora_rank: width of the latent that is cached for keys and values.
        qk_nope_dim, qk_rope_dim, v_head_dim: per head: unrotated and rotated query-key width, value width.
    """

    kind: Literal["mla"]
    heads: Count
    q_lora_rank: Count | None = None
    kv_lora_rank: Count
    qk_nope_dim: Count
    qk_rope_dim: Count
    v_head_dim: Count
    indexer: Indexer | None = None

    @property
    def kv_elements(self) -> int:
        """Elements of the latent cache of one token in one layer."""
        return self.kv_lora_rank + self.qk_rope_dim

    @property
    def score_width(self) -> int:
        """Query-key plus value width summed over heads: a token pair costs twice this in FLOP."""
        return self.heads * (self.qk_nope_dim + self.qk_rope_dim + self.v_head_dim)


@spec
class Moe:
    """Mixture-of-experts feed-forward.

    Attributes:
        first_dense: leading layers that keep a dense feed-forward.
        routed, shared, top_k: experts to choose from, experts every token uses, experts chosen per token.
        width: inner width of one expert.
        groups, top_groups: expert groups (one per node) and how many a token may use; 1 and 1 for no limit.
        scoring: how gate logits become scores.
        bias: whether a load-balancing bias steers the choice (V3).
        normalise, scale: whether the chosen scores are normalised, and the factor on them.
    """

    first_dense: Natural
    routed: Count
    shared: Natural
    top_k: Count
    width: Count
    groups: Count = 1
    top_groups: Count = 1
    scoring: Literal["sigmoid", "softmax"] = "softmax"
    bias: bool = False
    normalise: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k > self.routed:
            raise ValueError(f"top_k {self.top_k} of {self.routed} routed experts: choose between 1 and {self.routed}")
        if self.routed % self.groups or self.top_groups > self.groups:
            raise ValueError(f"{self.routed} experts in {self.groups} groups, {self.top_groups} used: they must divide")


@spec
class ModelSpec:
    """A decoder-only transformer.

    Attributes:
        layers, hidden, vocab, max_context: decoder layers (without MTP), model width, vocabulary, longest context.
        attention: `Gqa` or `Mla`.
        feed_forward: inner width of the dense feed-forward.
        activation: SwiGLU (three matrices) or GELU (two).
        norm: RMSNorm or LayerNorm.
        moe: experts in the layers after ``moe.first_dense``, none for a dense model.
        mtp_layers: multi-token-prediction modules after the last layer.
        tied: whether the output head is the embedding.
        biases: biases on every linear map (GPT).
        learned_positions: length of a learned position table, 0 for rotary.
        published: parameter counts stated by the authors.
    """

    kind: Literal["model"]
    title: str
    source: Source
    layers: Layers
    hidden: Count
    vocab: Count
    max_context: Count
    attention: Annotated[Gqa | Mla, TaggedBy("kind")]
    feed_forward: Count
    activation: Literal["swiglu", "gelu"] = "swiglu"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    moe: Moe | None = None
    mtp_layers: Natural = 0
    tied: bool = False
    biases: bool = False
    learned_positions: Natural = 0
    published: dict[str, Figure[float]] | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        if self.moe is not None and self.moe.first_dense > self.layers:
            raise ValueError(
                f"moe.first_dense {self.moe.first_dense} of {self.layers} layers: choose 0 to {self.layers}"
            )

    def is_moe(self, layer: int) -> bool:
        """Whether a layer (0-based; MTP modules count on from ``layers``) has experts."""
        return self.moe is not None and layer >= self.moe.first_dense


Layout = Literal["nchw", "nhwc"]


@spec
class CnnSpec:
    """A plain convolutional classifier: stages of 3x3 convolutions, each ended by 2x2 pooling, then linear layers.

    Attributes:
        image: side of the square RGB input.
        stages: output channels of the convolutions of each stage.
        linears: widths of the linear layers.
        layout: how images lie in memory; fast convolutions want channels last (nhwc) and turn what lies otherwise.
    """

    kind: Literal["cnn"]
    title: str
    source: Source
    image: Count
    stages: tuple[tuple[Count, ...], ...]
    linears: tuple[Count, ...]
    layout: Layout = "nchw"

    def __post_init__(self) -> None:
        if not self.linears or not self.stages or not all(self.stages):
            raise ValueError("stages and linears must not be empty: give at least one width each")
        if self.image % 2 ** len(self.stages):
            raise ValueError(
                f"image {self.image} cannot be halved {len(self.stages)} times: use a multiple of that power"
            )

    @property
    def features(self) -> int:
        """Values per image that reach the first linear layer."""
        return int(self.stages[-1][-1] * (self.image >> len(self.stages)) ** 2)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        channels, total = 3, 0
        for width in (width for stage in self.stages for width in stage):
            total += (9 * channels + 1) * width
            channels = width
        into = self.features
        for width in self.linears:
            total += (into + 1) * width
            into = width
        return total

    @property
    def multiply_adds(self) -> int:
        """Products of one image's forward pass."""
        channels, total, side = 3, 0, self.image
        for stage in self.stages:
            for width in stage:
                total += 9 * channels * width * side**2
                channels = width
            side //= 2
        into = self.features
        for width in self.linears:
            total += into * width
            into = width
        return total

    # What a training run asks of any model: this one is a single layer of one token, with nothing to cut or spread.

    @property
    def layers(self) -> int:
        """One: it is not cut into stages."""
        return 1

    @property
    def max_context(self) -> int:
        """One: an image counts as a token."""
        return 1

    @property
    def hidden(self) -> int:
        """Nothing is sent from stage to stage."""
        return 0

    @property
    def moe(self) -> None:
        """No experts."""
        return

    @property
    def mtp_layers(self) -> int:
        """None."""
        return 0

    @property
    def tied(self) -> bool:
        """There is no embedding."""
        return False


SHELF = Shelf("model", "models", Path(__file__).parent / "data")


AnyModel = Annotated[ModelSpec | CnnSpec, TaggedBy("kind")]


def load_any_model(name: str, *, near: Path | None = None) -> ModelSpec | CnnSpec:
    """Load a model file of any kind by name or path.

    Raises:
        ScenarioError: no such model, or its file is wrong.
    """
    form: Any = AnyModel
    model: ModelSpec | CnnSpec = load(SHELF, name, form, near=near)
    return model


def load_model(name: str, *, near: Path | None = None) -> ModelSpec:
    """Load a transformer by name or path.

    Raises:
        ScenarioError: no such model, its file is wrong, or it is no transformer.
    """
    model = load_any_model(name, near=near)
    if not isinstance(model, ModelSpec):
        raise ScenarioError(Problem(where=name, what=f"is a {model.kind}, not a transformer", fix="name another model"))
    return model
