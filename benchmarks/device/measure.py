"""Times the kernels that public tables lack, on one GPU: ``python measure.py OUT_FOLDER [PART ...]``.

Needs PyTorch with CUDA. Calls are captured into a CUDA graph, so that kernels are timed and not the host that issues
them; inputs are random and rotate past the L2 cache. One CSV file a part, in the columns ``ffsim calibrate`` reads.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

BF16 = torch.bfloat16
L2_BYTES = 200e6
CALLS, REPEATS = 8, 7


def timed_us(call: Callable[[int], object], calls: int = CALLS, graph: bool = True) -> float:
    """Median microseconds of one call; ``call`` takes a number to rotate its inputs by."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for number in range(3):
            call(number)
        stream.synchronize()
        replay: Callable[[], object]
        if graph:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured, stream=stream):
                for number in range(calls):
                    call(number)
            replay = captured.replay
        else:

            def replay() -> None:
                for number in range(calls):
                    call(number)

        replay()
        times = []
        for _ in range(REPEATS):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            replay()
            stop.record(stream)
            stop.synchronize()
            times.append(start.elapsed_time(stop) * 1e3 / calls)
    return sorted(times)[len(times) // 2]


def sets_of(total_bytes: float) -> int:
    """Input sets that do not fit the L2 cache together."""
    return max(1, min(16, math.ceil(L2_BYTES / total_bytes)))


def rand(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return (
        torch.randn(*shape, device="cuda", dtype=torch.float32).to(dtype)
        if dtype != BF16
        else torch.randn(*shape, device="cuda", dtype=BF16)
    )


Row = dict[str, object]


def attention() -> Iterator[Row]:
    """Attention forward and backward, also over short sequences and with 64- and 192-wide heads."""
    for batch, heads, kv_heads, seq, width in [
        (8, 16, 16, 256, 64),
        (4, 32, 8, 512, 128),
        (1, 32, 8, 1024, 128),
        (4, 16, 16, 1024, 128),
        (2, 32, 32, 2048, 128),
        (1, 8, 1, 2048, 128),
        (1, 16, 16, 2048, 192),
        (1, 128, 128, 4096, 192),
        (1, 16, 16, 4096, 192),
        (1, 32, 32, 4096, 64),
        (1, 64, 8, 8192, 128),
        (1, 8, 8, 8192, 128),
    ]:
        q = rand(batch, heads, seq, width).requires_grad_()
        k, v = (rand(batch, kv_heads, seq, width).requires_grad_() for _ in range(2))
        g = rand(batch, heads, seq, width)
        for causal in (1, 0):

            def forward(_: int) -> torch.Tensor:
                return F.scaled_dot_product_attention(q, k, v, is_causal=bool(causal), enable_gqa=heads != kv_heads)

            def both(_: int) -> object:
                return torch.autograd.grad(forward(0), (q, k, v), g)

            fwd, total = timed_us(forward), timed_us(both)
            shape = {
                "dtype": "bf16",
                "batch": batch,
                "heads": heads,
                "kv_heads": kv_heads,
                "seq": seq,
                "head_dim": width,
                "causal": causal,
            }
            yield {"op": "sdpa_fwd", **shape, "us": fwd}
            yield {"op": "sdpa_bwd", **shape, "us": total - fwd}


def gemm() -> Iterator[Row]:
    """BF16 and block-scaled FP8 products, from one row to thousands."""
    shapes = [
        (2112, 7168),
        (24576, 1536),
        (32768, 512),
        (7168, 16384),
        (4096, 7168),
        (7168, 2048),
        (1536, 7168),
        (6144, 4096),
        (4096, 14336),
        (256, 7168),
    ]
    for n, k in shapes:
        for m in (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192):
            sets = sets_of(2.0 * (m * k + n * k))
            a, b = [rand(m, k) for _ in range(sets)], [rand(n, k) for _ in range(sets)]
            yield {
                "op": "gemm",
                "dtype": "bf16",
                "m": m,
                "n": n,
                "k": k,
                "us": timed_us(lambda i: a[i % sets] @ b[i % sets].t()),
            }
            if m < 16 or n % 128:
                continue
            a8, b8 = [x.to(torch.float8_e4m3fn) for x in a], [x.to(torch.float8_e4m3fn) for x in b]
            one = torch.ones((), device="cuda")
            call = lambda i: torch._scaled_mm(a8[i % sets], b8[i % sets].t(), one, one, out_dtype=BF16)
            yield {"op": "gemm", "dtype": "fp8", "m": m, "n": n, "k": k, "us": timed_us(call)}
            if k % 128:
                continue
            sa = torch.ones(k // 128, m, device="cuda").t()
            sb = torch.ones(n // 128, k // 128, device="cuda").t()
            block = lambda i: torch._scaled_mm(a8[i % sets], b8[i % sets].t(), sa, sb, out_dtype=BF16)
            try:
                yield {"op": "gemm", "dtype": "fp8_block", "m": m, "n": n, "k": k, "us": timed_us(block)}
            except (RuntimeError, ValueError, NotImplementedError) as error:
                print("fp8_block", m, n, k, str(error)[:200], file=sys.stderr)


def grouped() -> Iterator[Row]:
    """Grouped products with equal rows per expert: forward, input gradient and weight gradient."""
    for experts, m, n, k in [
        (8, 256, 4096, 7168),
        (8, 2048, 4096, 7168),
        (8, 512, 7168, 2048),
        (32, 256, 4096, 7168),
        (64, 384, 2816, 2048),
        (64, 768, 2048, 1408),
        (16, 1024, 3072, 2048),
        (64, 128, 2816, 2048),
        (4, 4096, 7168, 2048),
        (160, 96, 3072, 5120),
    ]:
        x, w = rand(experts * m, k).requires_grad_(), rand(experts, k, n).requires_grad_()
        g = rand(experts * m, n)
        offsets = torch.arange(1, experts + 1, device="cuda", dtype=torch.int32) * m
        forward = lambda _: torch._grouped_mm(x, w, offs=offsets)
        base = {"op": "grouped_gemm", "dtype": "bf16", "experts": experts}
        yield {**base, "tokens_per_expert": m, "n": n, "k": k, "us": timed_us(forward)}
        yield {
            **base,
            "tokens_per_expert": m,
            "n": k,
            "k": n,
            "us": timed_us(lambda _: torch._grouped_mm(g, w.transpose(1, 2), offs=offsets)),
        }
        yield {
            **base,
            "tokens_per_expert": k,
            "n": n,
            "k": m,
            "us": timed_us(lambda _: torch._grouped_mm(x.t(), g, offs=offsets)),
        }


def streaming() -> Iterator[Row]:
    """Memory-bound kernels as a compiler fuses them; bytes as the algorithm needs them."""
    compiled = lambda f: torch.compile(f, dynamic=False)

    def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tiles = x.float().view(x.shape[0], -1, 128)
        scale = tiles.abs().amax(-1, keepdim=True).clamp(1e-4) / 448
        return (tiles / scale).to(torch.float8_e4m3fn).view_as(x), scale

    def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)).to(BF16) * w

    for tokens, width in [(4096, 2048), (4096, 7168), (8192, 4096), (16384, 7168)]:
        size, sets = tokens * width, sets_of(4.0 * tokens * width)
        xs, ys = [rand(tokens, width) for _ in range(sets)], [rand(tokens, width) for _ in range(sets)]
        w = rand(width)
        f = compiled(norm)
        yield {
            "op": "rms_norm",
            "read_bytes": 2 * size,
            "write_bytes": 2 * size,
            "us": timed_us(lambda i: f(xs[i % sets], w)),
        }
        f2 = compiled(lambda x, y: norm(x + y, w))
        yield {
            "op": "add_norm",
            "read_bytes": 4 * size,
            "write_bytes": 2 * size,
            "us": timed_us(lambda i: f2(xs[i % sets], ys[i % sets])),
        }
        f3 = compiled(quantise)
        yield {
            "op": "quantise",
            "read_bytes": 2 * size,
            "write_bytes": size * (1 + 4 / 128),
            "us": timed_us(lambda i: f3(xs[i % sets])),
        }
        f4 = compiled(lambda x: quantise(x.t().contiguous()))
        yield {
            "op": "transpose_quantise",
            "read_bytes": 2 * size,
            "write_bytes": size * (1 + 4 / 128),
            "us": timed_us(lambda i: f4(xs[i % sets])),
        }
        f5 = compiled(lambda x, y: F.silu(x) * y)
        yield {
            "op": "swiglu",
            "read_bytes": 4 * size,
            "write_bytes": 2 * size,
            "us": timed_us(lambda i: f5(xs[i % sets], ys[i % sets])),
        }
        f6 = compiled(lambda x, y: quantise(F.silu(x) * y))
        yield {
            "op": "swiglu_quantise",
            "read_bytes": 4 * size,
            "write_bytes": size * (1 + 4 / 128),
            "us": timed_us(lambda i: f6(xs[i % sets], ys[i % sets])),
        }
        order = torch.randperm(tokens, device="cuda")
        yield {
            "op": "permute",
            "read_bytes": 2 * size,
            "write_bytes": 2 * size,
            "us": timed_us(lambda i: xs[i % sets][order]),
        }
    for tokens, vocab in [(4096, 32000), (4096, 129280)]:
        logits, target = rand(tokens, vocab).requires_grad_(), torch.randint(vocab, (tokens,), device="cuda")
        loss = compiled(lambda x: F.cross_entropy(x.float(), target))
        size = tokens * vocab
        yield {
            "op": "cross_entropy",
            "read_bytes": 2 * size,
            "write_bytes": 4,
            "us": timed_us(lambda _: loss(logits.detach())),
        }
        table, tokens_ = rand(vocab, 4096), torch.randint(vocab, (tokens,), device="cuda")
        yield {
            "op": "embedding",
            "read_bytes": 2 * tokens * 4096,
            "write_bytes": 2 * tokens * 4096,
            "us": timed_us(lambda _: F.embedding(tokens_, table)),
        }
    for count in (2**24, 2**28):
        p = nn.Parameter(torch.randn(count, device="cuda"))
        p.grad = torch.randn(count, device="cuda")
        optimizer = torch.optim.AdamW([p], fused=True, capturable=True)
        yield {
            "op": "adamw",
            "read_bytes": 16 * count,
            "write_bytes": 12 * count,
            "us": timed_us(lambda _: optimizer.step()),
        }


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    even, odd = x.float().chunk(2, -1)
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], -1).to(x.dtype)


class Layer(nn.Module):
    """A pre-norm decoder layer: GQA or expanded MLA, SwiGLU or experts as one grouped product."""

    def __init__(self, c: dict[str, int | str]) -> None:
        super().__init__()
        self.c, h, heads = c, int(c["hidden"]), int(c["heads"])
        line = lambda i, o: nn.Linear(int(i), int(o), bias=False)
        self.norm1, self.norm2 = Norm(h), Norm(h)
        if c["attention"] == "gqa":
            self.d = h // heads
            self.wq, self.wk, self.wv, self.wo = (
                line(h, h),
                line(h, c["kv_heads"] * self.d),
                line(h, c["kv_heads"] * self.d),
                line(h, h),
            )
        else:
            self.qk = int(c["qk_nope_dim"]) + int(c["qk_rope_dim"])
            if c["q_lora_rank"]:
                self.wq_a, self.q_norm, self.wq = (
                    line(h, c["q_lora_rank"]),
                    Norm(int(c["q_lora_rank"])),
                    line(c["q_lora_rank"], heads * self.qk),
                )
            else:
                self.wq = line(h, heads * self.qk)
            self.wkv_a, self.kv_norm = line(h, c["kv_lora_rank"] + c["qk_rope_dim"]), Norm(int(c["kv_lora_rank"]))
            self.wkv_b, self.wo = (
                line(c["kv_lora_rank"], heads * (c["qk_nope_dim"] + c["v_head_dim"])),
                line(heads * c["v_head_dim"], h),
            )
        if c.get("expert_ffn"):
            self.gate = line(h, c["n_experts"])
            self.up = nn.Parameter(torch.randn(int(c["local_experts"]), h, 2 * int(c["expert_ffn"])) * 0.02)
            self.down = nn.Parameter(torch.randn(int(c["local_experts"]), int(c["expert_ffn"]), h) * 0.02)
            if c["shared_ffn"]:
                self.s_up, self.s_down = line(h, 2 * c["shared_ffn"]), line(c["shared_ffn"], h)
        else:
            self.s_up, self.s_down = line(h, 2 * c["dense_ffn"]), line(c["dense_ffn"], h)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        c, (b, s, _), heads = self.c, x.shape, int(self.c["heads"])
        if c["attention"] == "gqa":
            q, k, v = (w(x).view(b, s, -1, self.d).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
            q, k = rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=c["kv_heads"] != heads)
            return self.wo(y.transpose(1, 2).reshape(b, s, -1))
        nope, rope, vd = int(c["qk_nope_dim"]), int(c["qk_rope_dim"]), int(c["v_head_dim"])
        q = self.wq(self.q_norm(self.wq_a(x)) if c["q_lora_rank"] else x).view(b, s, heads, nope + rope).transpose(1, 2)
        latent, k_rope = self.wkv_a(x).split([int(c["kv_lora_rank"]), rope], -1)
        k_nope, v = self.wkv_b(self.kv_norm(latent)).view(b, s, heads, nope + vd).transpose(1, 2).split([nope, vd], -1)
        q_nope, q_rope = q.split([nope, rope], -1)
        q = torch.cat([q_nope, rotate(q_rope, self.cos, self.sin)], -1)
        k_rope = rotate(k_rope.view(b, 1, s, rope), self.cos, self.sin).expand(-1, heads, -1, -1)
        k = torch.cat([k_nope, k_rope], -1)
        y = F.scaled_dot_product_attention(q, k, F.pad(v, (0, nope + rope - vd)), is_causal=True)[..., :vd]
        return self.wo(y.transpose(1, 2).reshape(b, s, heads * vd))

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        c, flat = self.c, x.reshape(-1, x.shape[-1])
        if not c.get("expert_ffn"):
            up, gate = self.s_up(x).chunk(2, -1)
            return self.s_down(F.silu(gate) * up)
        copies, local = int(c["copies_per_token"]), int(c["local_experts"])
        scores = torch.sigmoid(self.gate(flat).float())
        weights = scores.topk(copies, -1).values
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        rows = flat[self.order]
        inner = torch._grouped_mm(rows, self.up, offs=self.offsets)
        up, gate = inner.chunk(2, -1)
        out = torch._grouped_mm(F.silu(gate) * up, self.down, offs=self.offsets)
        y = (out[self.back].view(-1, copies, flat.shape[-1]) * weights[..., None]).sum(1)
        assert local
        if c["shared_ffn"]:
            up, gate = self.s_up(flat).chunk(2, -1)
            y = y + self.s_down(F.silu(gate) * up)
        return y.view_as(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.feed(self.norm2(x))

    def prepare(self, batch: int, seq: int) -> None:
        c = self.c
        d = self.d if c["attention"] == "gqa" else int(c["qk_rope_dim"])
        angles = torch.arange(seq, device="cuda")[:, None] * 10000.0 ** (-torch.arange(0, d, 2, device="cuda") / d)
        self.cos, self.sin = angles.cos(), angles.sin()
        if c.get("expert_ffn"):
            rows, local = batch * seq * int(c["copies_per_token"]), int(c["local_experts"])
            place = torch.randperm(rows, device="cuda")
            self.order, self.back = place // int(c["copies_per_token"]), torch.argsort(place)
            self.offsets = (torch.arange(1, local + 1, device="cuda") * (rows // local)).int()


MLA = {
    "attention": "mla",
    "kv_heads": "",
    "q_lora_rank": 0,
    "kv_lora_rank": 512,
    "qk_nope_dim": 128,
    "qk_rope_dim": 64,
    "v_head_dim": 128,
}
GQA = {
    "attention": "gqa",
    "q_lora_rank": "",
    "kv_lora_rank": "",
    "qk_nope_dim": "",
    "qk_rope_dim": "",
    "v_head_dim": "",
}
DENSE = {"expert_ffn": "", "n_experts": "", "local_experts": "", "copies_per_token": "", "shared_ffn": ""}
LAYERS: dict[str, tuple[dict[str, int | str], list[tuple[int, int]]]] = {
    "llama13b": (
        {**GQA, **DENSE, "hidden": 5120, "heads": 40, "kv_heads": 40, "dense_ffn": 13824},
        [(1, 4096), (1, 2048)],
    ),
    "llama3_8b": (
        {**GQA, **DENSE, "hidden": 4096, "heads": 32, "kv_heads": 8, "dense_ffn": 14336},
        [(1, 8192), (2, 4096), (1, 2048)],
    ),
    "llama70b": (
        {**GQA, **DENSE, "hidden": 8192, "heads": 64, "kv_heads": 8, "dense_ffn": 28672},
        [(1, 4096), (1, 2048)],
    ),
    "v2lite_dense": ({**MLA, **DENSE, "hidden": 2048, "heads": 16, "dense_ffn": 10944}, [(1, 4096), (2, 4096)]),
    "v2_dense": (
        {**MLA, **DENSE, "hidden": 5120, "heads": 128, "q_lora_rank": 1536, "dense_ffn": 12288},
        [(1, 4096), (1, 2048)],
    ),
    "v3_moe_ep32": (
        {
            **MLA,
            "hidden": 7168,
            "heads": 128,
            "q_lora_rank": 1536,
            "dense_ffn": 0,
            "expert_ffn": 2048,
            "n_experts": 256,
            "local_experts": 8,
            "copies_per_token": 8,
            "shared_ffn": 2048,
        },
        [(1, 4096), (1, 2048)],
    ),
    "v2_moe_ep8": (
        {
            **MLA,
            "hidden": 5120,
            "heads": 128,
            "q_lora_rank": 1536,
            "dense_ffn": 0,
            "expert_ffn": 1536,
            "n_experts": 160,
            "local_experts": 20,
            "copies_per_token": 6,
            "shared_ffn": 3072,
        },
        [(1, 4096)],
    ),
    "moe16b_all": (
        {
            **GQA,
            "hidden": 2048,
            "heads": 16,
            "kv_heads": 16,
            "dense_ffn": 0,
            "expert_ffn": 1408,
            "n_experts": 64,
            "local_experts": 64,
            "copies_per_token": 6,
            "shared_ffn": 2816,
        },
        [(1, 4096), (2, 2048)],
    ),
    "llama7b": ({**GQA, **DENSE, "hidden": 4096, "heads": 32, "kv_heads": 32, "dense_ffn": 11008}, [(1, 4096)]),
    "v2lite_moe_all": (
        {
            **MLA,
            "hidden": 2048,
            "heads": 16,
            "dense_ffn": 0,
            "expert_ffn": 1408,
            "n_experts": 64,
            "local_experts": 64,
            "copies_per_token": 6,
            "shared_ffn": 2816,
        },
        [(1, 4096)],
    ),
}


def layers() -> Iterator[Row]:
    """Whole layers, forward and forward with backward, eager and compiled; two repeat earlier measurements."""
    for name, (dimensions, sizes) in LAYERS.items():
        for batch, seq in sizes:
            torch._dynamo.reset()
            layer = Layer(dimensions).to("cuda", BF16)
            layer.prepare(batch, seq)
            x, g = (
                rand(batch, seq, int(dimensions["hidden"])).requires_grad_(),
                rand(batch, seq, int(dimensions["hidden"])),
            )
            for mode in ("eager", "compiled"):
                run = torch.compile(layer, dynamic=False) if mode == "compiled" else layer

                def forward(_: int) -> object:
                    with torch.no_grad():
                        return run(x)

                def both(_: int) -> None:
                    run(x).backward(g)
                    for p in (x, *layer.parameters()):
                        p.grad = None

                times = {"fwd_us": timed_us(forward, graph=False), "fwdbwd_us": timed_us(both, graph=False)}
                yield {"op": "layer", "layer": name, "mode": mode, "batch": batch, "seq": seq, **dimensions, **times}
            torch.cuda.empty_cache()


PARTS = {"attention": attention, "gemm": gemm, "grouped_gemm": grouped, "streaming": streaming, "layer_step": layers}


def main(folder: Path, parts: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    print(torch.cuda.get_device_name(), torch.__version__, torch.version.cuda)
    for part in parts or list(PARTS):
        rows: list[Row] = []
        library = {} if part == "layer_step" else {"kernel": "torch"}  # kernels are timed without the host's issue
        try:
            for row in PARTS[part]():
                rows.append(
                    {
                        key: f"{value:.3f}" if isinstance(value, float) else value
                        for key, value in (row | library).items()
                    }
                )
        except Exception as error:
            print(part, type(error).__name__, str(error)[:1500], file=sys.stderr)
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            with (folder / f"{part}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        print(part, len(rows), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
