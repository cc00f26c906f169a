"""The NumPy reference against the published model code (stored outputs, see README.md beside this file)."""

import json
from pathlib import Path

import numpy as np
import pytest

from ffsim.config import Source
from ffsim.model import functions as f
from ffsim.model import layers
from ffsim.model.layers import Rope
from ffsim.model.spec import Mla, ModelSpec, Moe
from ffsim.model.tape import recording

GOLDEN = np.load(Path(__file__).with_name("mla_moe_golden.npz"))
CONFIG = json.loads(str(GOLDEN["config"]))
ROPE = Rope(
    base=CONFIG["rope_theta"],
    factor=CONFIG["rope_factor"],
    original_length=CONFIG["original_seq_len"],
    beta_fast=CONFIG["beta_fast"],
    beta_slow=CONFIG["beta_slow"],
)
MLA = Mla(
    kind="mla",
    heads=CONFIG["heads"],
    q_lora_rank=CONFIG["q_lora"],
    kv_lora_rank=CONFIG["kv_lora"],
    qk_nope_dim=CONFIG["nope"],
    qk_rope_dim=CONFIG["rope"],
    v_head_dim=CONFIG["v"],
)
MOE = Moe(
    first_dense=1,
    routed=CONFIG["experts"],
    shared=CONFIG["shared"],
    top_k=CONFIG["topk"],
    width=CONFIG["moe_inter_dim"],
    groups=CONFIG["groups"],
    top_groups=CONFIG["topk_group"],
    scoring="sigmoid",
    bias=True,
    normalise=True,
    scale=CONFIG["route_scale"],
)
SPEC = ModelSpec(
    kind="model",
    title="tiny",
    source=Source(ref="test", kind="assumed"),
    layers=2,
    hidden=CONFIG["dim"],
    vocab=CONFIG["vocab"],
    max_context=64,
    attention=MLA,
    feed_forward=CONFIG["inter_dim"],
    moe=MOE,
)


def close(got, want, tol=1e-10):
    scale = np.abs(want).max() or 1.0
    assert np.shape(got) == np.shape(want)
    assert np.abs(got - want).max() <= tol * scale


def weights(prefix: str) -> dict[str, np.ndarray]:
    """The stored weights under our names: gate and up projections side by side, `.weight` dropped."""
    raw = {key.removeprefix(prefix): GOLDEN[key] for key in GOLDEN.files if key.startswith(prefix)}
    raw = {key.removesuffix(".weight"): value for key, value in raw.items() if not key.endswith(("_f32", "_bf16"))}
    return rename(raw)


def rename(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    flat = {key.split(".", 1)[1] if key.startswith(("attn.", "ffn.")) else key: value for key, value in raw.items()}
    named = {}
    for key, value in flat.items():
        if key.endswith("w1"):
            named[_ffn_name(key, "up")] = np.concatenate([value, flat[key[:-1] + "3"]], axis=-2)
        elif key.endswith("w2"):
            named[_ffn_name(key, "down")] = value
        elif not key.endswith("w3"):
            named[key.replace("gate.bias", "gate_bias")] = value
    return named


def _ffn_name(key: str, what: str) -> str:
    return {"experts": "experts_", "shared_experts": "shared_"}.get(key.rpartition(".")[0], "") + what


def gradients_match(tape_gradients, parameters: dict[str, np.ndarray], prefix: str, skip: tuple[str, ...] = ()) -> None:
    stored = weights(prefix)
    assert stored
    for name, want in stored.items():
        if name in {"x", *skip}:
            continue
        close(tape_gradients[parameters[name]], want)


def tables(length: int, rope: Rope = ROPE):
    return rope.tables(np.arange(length), MLA.qk_rope_dim)


def test_rotary_tables_with_and_without_yarn():
    for name, rope, length in (("plain", Rope(base=ROPE.base), 32), ("yarn", ROPE, 64)):
        cos, sin = rope.tables(np.arange(length), CONFIG["rope"])
        close(cos, GOLDEN[f"rope/{name}/cos"])
        close(sin, GOLDEN[f"rope/{name}/sin"])
    v3 = Rope(factor=40.0)
    cos, sin = v3.tables(GOLDEN["rope_v3/positions"], 64)
    close(cos, GOLDEN["rope_v3/cos"], 1e-6)
    close(sin, GOLDEN["rope_v3/sin"], 1e-6)


@pytest.mark.parametrize(("first", "last"), [(0, 4), (20, 24)])
def test_rotation_of_adjacent_pairs(first, last):
    cos, sin = ROPE.tables(np.arange(first, last + 1), CONFIG["rope"])
    close(f.rotate(GOLDEN["rope/x"], cos, sin), GOLDEN[f"rope/y_positions_{first}_{last}"])


def test_rms_norm_and_its_gradient():
    x, gain = GOLDEN["rmsnorm/x"], GOLDEN["rmsnorm/weight"]
    with recording() as tape:
        y = f.rms_norm(x, gain)
    close(y, GOLDEN["rmsnorm/y"])
    gradients = tape.backward([(y, GOLDEN["rmsnorm/grad_out"])])
    close(gradients[x], GOLDEN["rmsnorm/grad/x"])
    close(gradients[gain], GOLDEN["rmsnorm/grad/weight"])


@pytest.mark.parametrize("variant", ["mla", "mla_noqlora"])
def test_latent_attention_and_its_gradients(variant):
    p, x = weights(f"{variant}/w/"), GOLDEN[f"{variant}/x"]
    spec = MLA if variant == "mla" else Mla(**{f: getattr(MLA, f) for f in MLA.__slots__} | {"q_lora_rank": None})
    with recording() as tape:
        y = layers.mla(spec, p, x, tables(x.shape[1]), ROPE.softmax_factor())
    close(y, GOLDEN[f"{variant}/y_naive"])
    gradients = tape.backward([(y, GOLDEN[f"{variant}/grad_out"])])
    close(gradients[x], GOLDEN[f"{variant}/grad/x"])
    gradients_match(gradients, p, f"{variant}/grad/")


def test_latent_attention_without_yarn():
    p, x = weights("mla/w/"), GOLDEN["mla/x"]
    plain = Rope(base=ROPE.base)
    close(layers.mla(MLA, p, x, tables(x.shape[1], plain)), GOLDEN["mla/y_noyarn"])


ROUTERS = {
    "v3_sigmoid_bias_groups": {"scoring": "sigmoid", "bias": True, "normalise": True, "groups": True},
    "sigmoid_groups_nobias": {"scoring": "sigmoid", "bias": False, "normalise": True, "groups": True},
    "v2_softmax_groups": {"scoring": "softmax", "bias": False, "normalise": False, "groups": True},
    "v2lite_softmax_nogroups": {"scoring": "softmax", "bias": False, "normalise": False, "groups": False},
    "sigmoid_bias_nogroups": {"scoring": "sigmoid", "bias": True, "normalise": True, "groups": False},
}


@pytest.mark.parametrize("name", ROUTERS)
def test_routers_choose_the_same_experts_with_the_same_weights(name):
    router = ROUTERS[name]
    moe = Moe(
        first_dense=0,
        routed=CONFIG["experts"],
        shared=0,
        top_k=CONFIG["topk"],
        width=16,
        groups=CONFIG["groups"] if router["groups"] else 1,
        top_groups=CONFIG["topk_group"] if router["groups"] else 1,
        scoring=router["scoring"],
        bias=router["bias"],
        normalise=router["normalise"],
        scale=float(GOLDEN[f"gate/{name}/route_scale"]),
    )
    p = {"gate": GOLDEN["gate/w/weight"]} | ({"gate_bias": GOLDEN["gate/w/bias"]} if router["bias"] else {})
    x = GOLDEN["gate/x"]
    with recording() as tape:
        indices, chosen = layers.route(moe, p, x)
    np.testing.assert_array_equal(indices, GOLDEN[f"gate/{name}/indices"])
    close(chosen, GOLDEN[f"gate/{name}/weights"])
    gradients = tape.backward([(chosen, GOLDEN["gate/grad_out"])])
    close(gradients[x], GOLDEN[f"gate/{name}/grad/x"])
    close(gradients[p["gate"]], GOLDEN[f"gate/{name}/grad/weight"])


def test_dense_feed_forward_and_its_gradients():
    p, x = weights("mlp/w/"), GOLDEN["mlp/x"]
    with recording() as tape:
        y = layers.feed_forward(p, x)
    close(y, GOLDEN["mlp/y"])
    gradients = tape.backward([(y, GOLDEN["mlp/grad_out"])])
    close(gradients[x], GOLDEN["mlp/grad/x"])
    gradients_match(gradients, p, "mlp/grad/")


def test_mixture_of_experts_and_its_gradients():
    p, x = weights("moe/w/"), GOLDEN["moe/x"]
    with recording() as tape:
        y = layers.mixture(MOE, p, x)
    close(y, GOLDEN["moe/y"])
    gradients = tape.backward([(y, GOLDEN["moe/grad_out"])])
    close(gradients[x], GOLDEN["moe/grad/x"])
    gradients_match(gradients, p, "moe/grad/", skip=("gate_bias",))


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_whole_blocks_and_their_gradients(kind):
    norms = {name: GOLDEN[f"block/{name}.weight"] for name in ("attn_norm", "ffn_norm")}
    p = {**weights("mla/w/"), **weights("mlp/w/" if kind == "dense" else "moe/w/"), **norms}
    x = GOLDEN["block/x"]
    with recording() as tape:
        y = layers.layer(SPEC, p, x, tables(x.shape[1]), ROPE.softmax_factor())
    close(y, GOLDEN[f"block/{kind}/y"])
    gradients = tape.backward([(y, GOLDEN["block/grad_out"])])
    close(gradients[x], GOLDEN[f"block/{kind}/grad/x"])
    gradients_match(gradients, p, f"block/{kind}/grad/", skip=("gate_bias",))


def transformer_parameters(prefix: str) -> dict[str, dict[str, np.ndarray]]:
    return {
        "embedding": {"embed": GOLDEN[prefix + "embed.weight"]},
        "layer0": weights(prefix + "layers.0."),
        "layer1": weights(prefix + "layers.1."),
        "head": {"norm": GOLDEN[prefix + "norm.weight"], "head": GOLDEN[prefix + "head.weight"]},
    }


def test_the_whole_model_at_every_position():
    parameters, tokens = transformer_parameters("transformer/w/"), GOLDEN["transformer/tokens"]
    logits = layers.forward(SPEC, parameters, tokens, ROPE)
    close(logits, GOLDEN["hf/logits"])
    for step in range(3):  # a cached decode step equals the last position of a longer prefill
        close(logits[:, CONFIG["S"] - 1 + step], GOLDEN[f"transformer/logits_{step}"])


def test_the_gradients_of_the_language_model_loss():
    parameters, tokens = transformer_parameters("transformer/w/"), GOLDEN["transformer/tokens"]
    with recording() as tape:
        logits = layers.forward(SPEC, parameters, tokens, ROPE)
        shifted = logits[:, :-1]
    loss_seed = np.ones(())
    with recording() as loss_tape:
        loss = f.cross_entropy(shifted, tokens[:, 1:])
    close(loss, GOLDEN["hf/loss"])
    d_shifted = loss_tape.backward([(loss, loss_seed)])[shifted]
    d_logits = np.concatenate([d_shifted, np.zeros_like(logits[:, :1])], axis=1)
    gradients = tape.backward([(logits, d_logits)])
    stored = transformer_parameters("hf/grad/")
    for part, arrays in stored.items():
        for name, want in arrays.items():
            close(gradients[parameters[part][name]], want)
