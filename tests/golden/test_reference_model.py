"""The NumPy reference against the published model code (stored outputs, see README.md beside this file).

Each section below computes what the file stores under one prefix, from the inputs and weights stored there, as pairs of
key and array. ``--golden FILE`` compares with another file of the same form.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ffsim.config import Source
from ffsim.model import attention, feed_forward, layers
from ffsim.model import functions as f
from ffsim.model.cache import Cache
from ffsim.model.layers import Rope
from ffsim.model.rounding import round_bf16
from ffsim.model.spec import Mla, ModelSpec, Moe
from ffsim.model.tape import recording

SHIPPED = Path(__file__).with_name("mla_moe_golden.npz")

NOT_OUTPUTS = {
    r"config|source|checks": "JSON about the file",
    r".*(/w/|/x$|/grad_out$|/route_scale$).*": "weights, inputs, output gradients: read, not computed",
    r"rmsnorm/weight|block/(attn|ffn)_norm\.weight": "weights",
    r"transformer/tokens|rope_v3/positions": "inputs",
    r"moe/y_bf16": "other experts for some tokens; see the test of stored routes",
}


class Golden:
    """A file of stored outputs and the model that its configuration describes."""

    def __init__(self, path):
        self.arrays = dict(np.load(path))
        config = self.config = json.loads(str(self.arrays["config"]))
        self.plain = Rope(base=config["rope_theta"])
        self.rope = replace(
            self.plain,
            factor=config["rope_factor"] if config["max_seq_len"] > config["original_seq_len"] else 1.0,
            original_length=config["original_seq_len"],
            beta_fast=config["beta_fast"],
            beta_slow=config["beta_slow"],
            mscale=config["mscale"],
        )
        self.attention = Mla(
            kind="mla",
            heads=config["heads"],
            q_lora_rank=config["q_lora"] or None,
            kv_lora_rank=config["kv_lora"],
            qk_nope_dim=config["nope"],
            qk_rope_dim=config["rope"],
            v_head_dim=config["v"],
        )
        self.moe = Moe(
            first_dense=1,
            routed=config["experts"],
            shared=config["shared"],
            top_k=config["topk"],
            width=config["moe_inter_dim"],
            groups=config["groups"],
            top_groups=config["topk_group"],
            scoring="sigmoid",
            bias=True,
            normalise=True,
            scale=config["route_scale"],
        )
        self.spec = ModelSpec(
            kind="model",
            title="tiny",
            source=Source(ref="test", kind="assumed"),
            layers=2,
            hidden=config["dim"],
            vocab=config["vocab"],
            max_context=config["max_seq_len"],
            attention=self.attention,
            feed_forward=config["inter_dim"],
            moe=self.moe,
        )

    def __getitem__(self, key):
        return self.arrays[key]

    def tables(self, start, stop, rope=None):
        return (rope or self.rope).tables(np.arange(start, stop), self.config["rope"])

    def weights(self, prefix):
        """The stored weights below a prefix under our names: gate and up projection are one matrix."""
        raw = {key.removeprefix(prefix): array for key, array in self.arrays.items() if key.startswith(prefix)}
        raw = {re.sub(r"^(attn|ffn)\.|\.weight$", "", key): array for key, array in raw.items()}
        merged = {key[:-2]: (raw[key], raw[key[:-1] + "3"]) for key in raw if key.endswith("w1")}
        ups = {f"{OURS[part]}up": np.concatenate(pair, axis=-2) for part, pair in merged.items()}
        downs = {f"{OURS[key[:-2]]}down": array for key, array in raw.items() if key.endswith("w2")}
        rest = {key.replace(".", "_"): array for key, array in raw.items() if not re.search(r"w[123]$", key)}
        return {**ups, **downs, **rest}


OURS = {"": "", "experts.": "experts_", "shared_experts.": "shared_"}
IN_ATTENTION = ("wq", "wq_a", "q_norm", "wq_b", "wkv_a", "kv_norm", "wkv_b", "wo")


def stored_names(arrays, in_layer=False):
    """Arrays under our names as the file names them, the other way round from `Golden.weights`."""
    attn, ffn = ("attn.", "ffn.") if in_layer else ("", "")
    for name, array in arrays.items():
        part, kind = re.fullmatch(r"(experts_|shared_|)(\w+)", name).groups()
        stem = ffn + {ours: theirs for theirs, ours in OURS.items()}[part]
        end = "" if part == "experts_" else ".weight"
        if kind == "up":
            gate, up = np.split(array, 2, axis=-2)
            yield from ((f"{stem}w1{end}", gate), (f"{stem}w3{end}", up))
        elif kind == "down":
            yield f"{stem}w2{end}", array
        elif name.startswith("gate"):
            yield ffn + {"gate": "gate.weight", "gate_bias": "gate.bias"}[name], array
        else:
            yield f"{attn if name in IN_ATTENTION else ''}{name}.weight", array


def weight_gradients(gradients, p, prefix, in_layer=False):
    found = {name: gradients.get(array) for name, array in p.items()}
    if "gate_bias" in p:
        assert found["gate_bias"] is None  # it steers the choice only; the file stores zeros
        found["gate_bias"] = np.zeros_like(p["gate_bias"])
    return ((prefix + key, array) for key, array in stored_names(found, in_layer))


# --- the sections -----------------------------------------------------------------------------------------------------


def rotary(golden):
    for name, rope in (("plain", golden.plain), ("yarn", golden.rope)):
        cos, sin = golden.tables(0, len(golden[f"rope/{name}/cos"]), rope)
        yield from ((f"rope/{name}/cos", cos), (f"rope/{name}/sin", sin))
    cos, sin = Rope(factor=40.0).tables(golden["rope_v3/positions"], 64)
    yield from (("rope_v3/cos", cos), ("rope_v3/sin", sin))
    for key in golden.arrays:
        if key.startswith("rope/y_positions_"):
            first, last = map(int, key.split("_")[-2:])
            yield key, attention.rotate(golden["rope/x"], *golden.tables(first, last + 1))


def rms_norm(golden):
    x, gain = golden["rmsnorm/x"], golden["rmsnorm/weight"]
    with recording() as tape:
        y = f.rms_norm(x, gain)
    gradients = tape.backward([(y, golden["rmsnorm/grad_out"])])
    yield from (("rmsnorm/y", y), ("rmsnorm/grad/x", gradients[x]), ("rmsnorm/grad/weight", gradients[gain]))


def latent_attention(golden, prefix):
    a, p, x = golden.attention, golden.weights(f"{prefix}/w/"), golden[f"{prefix}/x"]
    a = replace(a, q_lora_rank=a.q_lora_rank if "wq_a" in p else None)
    factor, tables = golden.rope.softmax_factor(), golden.tables(0, x.shape[1])
    with recording() as tape:
        y = layers.mla(a, p, x, tables, factor)
    yield f"{prefix}/y_naive", y
    yield f"{prefix}/softmax_scale", layers.mla_scale(a, factor)
    outputs = {call.scope: call.y for call in tape.calls}
    yield from ((f"{prefix}/act/{name}", outputs[name]) for name in p)
    attended = next(call for call in tape.calls if call.operator is attention.causal_attention).arguments
    yield from ((f"{prefix}/act/{key}", attended[name]) for key, name in (("q_cat", "q"), ("k", "k"), ("v", "v")))
    probabilities = attention.probabilities(attended["q"], attended["k"], attended["scale"])
    yield f"{prefix}/act/probs", np.swapaxes(probabilities, 1, 2)
    gradients = tape.backward([(y, golden[f"{prefix}/grad_out"])])
    yield f"{prefix}/grad/x", gradients[x]
    yield from weight_gradients(gradients, p, f"{prefix}/grad/")


def cached_latent_attention(golden, prefix):
    a, p, x = golden.attention, golden.weights(f"{prefix}/w/"), golden[f"{prefix}/x"]
    a = replace(a, q_lora_rank=a.q_lora_rank if "wq_a" in p else None)
    factor, length = golden.rope.softmax_factor(), x.shape[1]
    expanded, absorbed = Cache("key_value"), Cache("latent")
    layers.mla(a, p, x, golden.tables(0, length), factor, expanded)
    yield f"{prefix}/y_absorb", layers.absorbed_mla(a, p, x, golden.tables(0, length), factor, absorbed)
    yield f"{prefix}/act/kv_cache", absorbed.held["latent"]
    yield f"{prefix}/act/pe_cache", absorbed.held["rope_key"]
    for step, new in enumerate(golden[f"{prefix}/decode/x"]):
        tables = golden.tables(absorbed.length, absorbed.length + 1)
        yield f"{prefix}/decode/y_naive_{step}", layers.mla(a, p, new, tables, factor, expanded)
        yield f"{prefix}/decode/y_absorb_{step}", layers.absorbed_mla(a, p, new, tables, factor, absorbed)


def latent_attention_without_yarn(golden):
    p, x = golden.weights("mla/w/"), golden["mla/x"]
    yield "mla/y_noyarn", layers.mla(golden.attention, p, x, golden.tables(0, x.shape[1], golden.plain))
    yield "mla/softmax_scale_noyarn", layers.mla_scale(golden.attention, golden.plain.softmax_factor())


def latent_attention_in_low_precision(golden):
    for ending, rounded in (("f32", np.float32), ("bf16", round_bf16)):
        p = {name: rounded(array) for name, array in golden.weights("mla/w/").items()}
        x = rounded(golden["mla/x"])
        for name, form in (("naive", layers.mla), ("absorb", layers.absorbed_mla)):
            y = form(golden.attention, p, x, golden.tables(0, x.shape[1]), golden.rope.softmax_factor())
            yield f"mla/y_{name}_{ending}", y


ROUTERS = {
    "v3_sigmoid_bias_groups": {"scoring": "sigmoid", "bias": True, "normalise": True},
    "sigmoid_groups_nobias": {"scoring": "sigmoid", "bias": False, "normalise": True},
    "v2_softmax_groups": {"scoring": "softmax", "bias": False, "normalise": False},
    "v2lite_softmax_nogroups": {"scoring": "softmax", "bias": False, "normalise": False, "groups": 1, "top_groups": 1},
    "sigmoid_bias_nogroups": {"scoring": "sigmoid", "bias": True, "normalise": True, "groups": 1, "top_groups": 1},
}


def gate(golden, name):
    moe = replace(golden.moe, scale=float(golden[f"gate/{name}/route_scale"]), **ROUTERS[name])
    p, x = {"gate": golden["gate/w/weight"]}, golden["gate/x"]
    if moe.bias:
        p["gate_bias"] = golden["gate/w/bias"]
    with recording() as tape:
        indices, weights = feed_forward.route(moe, p, x)
    scores = next(call.y for call in tape.calls if call.operator is f.gate_scores)
    yield from ((f"gate/{name}/scores", scores), (f"gate/{name}/indices", indices), (f"gate/{name}/weights", weights))
    if moe.groups > 1:
        choice = (scores + p.get("gate_bias", 0.0)).reshape(len(x), moe.groups, -1)
        yield f"gate/{name}/group_scores", f.group_scores(choice, biased=moe.bias)
    gradients = tape.backward([(weights, golden["gate/grad_out"])])
    yield from ((f"gate/{name}/grad/x", gradients[x]), (f"gate/{name}/grad/weight", gradients[p["gate"]]))


def dense_feed_forward(golden):
    p, x = golden.weights("mlp/w/"), golden["mlp/x"]
    with recording() as tape:
        y = feed_forward.feed_forward(p, x)
    gradients = tape.backward([(y, golden["mlp/grad_out"])])
    yield from (("mlp/y", y), ("mlp/grad/x", gradients[x]))
    yield from weight_gradients(gradients, p, "mlp/grad/")


def mixture_of_experts(golden):
    p, x = golden.weights("moe/w/"), golden["moe/x"]
    with recording() as tape:
        y = feed_forward.mixture(golden.moe, p, x)
    calls = {call.operator: call for call in tape.calls}
    yield from (("moe/y", y), ("moe/indices", calls[f.choose_experts].y), ("moe/weights", calls[f.routing_weights].y))
    yield "moe/counts", calls[f.grouped_linear].arguments["counts"]
    gradients = tape.backward([(y, golden["moe/grad_out"])])
    yield "moe/grad/x", gradients[x]
    yield from weight_gradients(gradients, p, "moe/grad/")
    single = {name: array.astype(np.float32) for name, array in p.items()}
    yield "moe/y_f32", feed_forward.mixture(golden.moe, single, x.astype(np.float32))


def block(golden, kind):
    norms = {name: golden[f"block/{name}.weight"] for name in ("attn_norm", "ffn_norm")}
    p = {**golden.weights("mla/w/"), **golden.weights("mlp/w/" if kind == "dense" else "moe/w/"), **norms}
    x = golden["block/x"]
    with recording() as tape:
        y = layers.layer(golden.spec, p, x, golden.tables(0, x.shape[1]), golden.rope.softmax_factor())
    gradients = tape.backward([(y, golden["block/grad_out"])])
    yield from ((f"block/{kind}/y", y), (f"block/{kind}/grad/x", gradients[x]))
    yield from weight_gradients(gradients, p, f"block/{kind}/grad/", in_layer=True)


def whole_model(golden):
    return {
        "embedding": {"embed": golden["transformer/w/embed.weight"]},
        "layer0": golden.weights("transformer/w/layers.0."),
        "layer1": golden.weights("transformer/w/layers.1."),
        "head": {"norm": golden["transformer/w/norm.weight"], "head": golden["transformer/w/head.weight"]},
    }


def decoding(golden, kind):
    parameters, tokens = whole_model(golden), golden["transformer/tokens"]
    caches = [Cache(kind) for _ in range(golden.spec.layers)]
    for step, new in enumerate(np.split(tokens, [golden.config["S"], golden.config["S"] + 1], axis=1)):
        logits = layers.forward(golden.spec, parameters, new, golden.rope, caches)
        yield f"transformer/logits_{step}", logits[:, -1]


def language_model(golden):
    parameters, tokens = whole_model(golden), golden["transformer/tokens"]
    yield "hf/logits", layers.forward(golden.spec, parameters, tokens, golden.rope)
    with recording() as tape:
        (loss,) = layers.losses(golden.spec, parameters, tokens, golden.rope)
    yield "hf/loss", loss
    gradients = tape.backward([(loss, np.ones(()))])
    yield from weight_gradients(gradients, {**parameters["embedding"], **parameters["head"]}, "hf/grad/")
    for index in (0, 1):
        p = {name: array for name, array in parameters[f"layer{index}"].items() if name != "gate_bias"}
        yield from weight_gradients(gradients, p, f"hf/grad/layers.{index}.", in_layer=True)


SECTIONS = [
    (rotary,),
    (rms_norm,),
    (latent_attention, "mla"),
    (latent_attention, "mla_noqlora"),
    (cached_latent_attention, "mla"),
    (cached_latent_attention, "mla_noqlora"),
    (latent_attention_without_yarn,),
    (latent_attention_in_low_precision,),
    *((gate, name) for name in ROUTERS),
    (dense_feed_forward,),
    (mixture_of_experts,),
    (block, "dense"),
    (block, "moe"),
    (decoding, "key_value"),
    (decoding, "latent"),
    (language_model,),
]


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(request):
    return Golden(request.config.getoption("--golden", SHIPPED))


def close(key, got, want):
    """Integers exactly; else relative to the largest number: rounding, of the precision that the key names."""
    tolerance = 1e-5 if key.endswith("_f32") else 3e-2 if key.endswith("_bf16") else 1e-10
    got, want = np.asarray(got), np.asarray(want)
    assert (got.shape, got.dtype) == (want.shape, want.dtype), key
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * (np.abs(want).max() or 1.0), err_msg=key)
    assert want.dtype.kind != "i" or np.array_equal(got, want), key


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: "-".join(getattr(s, "__name__", s) for s in section))
def test_stored_arrays_are_reproduced(golden, section):
    compute, *which = section
    for key, got in compute(golden, *which):
        close(key, got, golden[key])


def test_no_stored_array_is_left_out(golden):
    computed = {key for compute, *which in SECTIONS for key, _ in compute(golden, *which)}
    left = {key for key in golden.arrays if key not in computed}
    assert {key for key in left if not any(re.fullmatch(pattern, key) for pattern in NOT_OUTPUTS)} == set()


def test_bf16_experts_along_the_stored_routes(golden):
    """BF16 gates send some tokens elsewhere, so only the typical token is compared."""
    p = {name: round_bf16(array) for name, array in golden.weights("moe/w/").items()}
    x = round_bf16(golden["moe/x"]).reshape(-1, golden.config["dim"])
    y = feed_forward.expert_sum(golden.moe, p, x, golden["moe/indices"], np.float32(golden["moe/weights"]))
    error = np.abs(y - golden["moe/y_bf16"].reshape(y.shape)).max(axis=1)
    assert np.median(error) < 3e-2 * np.abs(y).max()


def test_the_absorbed_form_needs_no_expansion_of_the_past(golden):
    """Both forms hold the same past: latents and one shared key, or keys and values of every head."""
    a, p, x = golden.attention, golden.weights("mla/w/"), golden["mla/x"]
    tables = golden.tables(0, x.shape[1])
    sizes = {}
    for kind, form in (("key_value", layers.mla), ("latent", layers.absorbed_mla)):
        cache = Cache(kind)
        form(a, p, x, tables, 1.0, cache)
        sizes[kind] = sum(array[0, 0].size for array in cache.held.values())
    assert sizes["latent"] == a.kv_elements
    assert sizes["key_value"] == a.heads * (a.qk_nope_dim + a.qk_rope_dim + a.v_head_dim)
