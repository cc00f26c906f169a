"""What training without flash attention or in TF32 runs, timed on a GPU: ``python training_kernels.py OUT [PART ...]``.

Batched products, TF32 products, softmax and dropout passes, the convolutions of VGG16, and the host's rate of issuing
an eager program's kernels. Needs PyTorch with CUDA. Kernels are captured into CUDA graphs; inputs rotate past the L2.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True
DTYPES = {"bf16": torch.bfloat16, "tf32": torch.float32}
L2_BYTES = 200e6
Row = dict[str, object]


def timed_us(call: Callable[[int], object], calls: int = 8, repeats: int = 7) -> float:
    """Median microseconds of one call inside a CUDA graph; ``call`` takes a number to rotate its inputs by."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for number in range(3):
            call(number)
        stream.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=stream):
            for number in range(calls):
                call(number)
        captured.replay()
        times = []
        for _ in range(repeats):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            captured.replay()
            stop.record(stream)
            stop.synchronize()
            times.append(start.elapsed_time(stop) * 1e3 / calls)
    return sorted(times)[len(times) // 2]


def sets_of(total_bytes: float) -> int:
    return max(1, min(8, math.ceil(L2_BYTES / total_bytes)))


def rand(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.float32).to(dtype)


def batched() -> Iterator[Row]:
    """Scores (s x s x d) and context (s x d x s) products of unfused attention, and their transposes."""
    cases = [(s, d, b) for s in (256, 512, 1024, 2048, 4096) for d in (64, 96, 128) for b in (8, 32, 128, 512)]
    for s, d, b in cases:
        for name, dtype in DTYPES.items():
            size = 2 if name == "bf16" else 4
            total = float(b) * (s * s + 2 * s * d) * size
            if total > 9e9 or (d == 96 and (b == 8 or s in (256, 4096))):
                continue
            sets = sets_of(total)
            q = [rand(b, s, d, dtype=dtype) for _ in range(sets)]
            k = [rand(b, s, d, dtype=dtype) for _ in range(sets)]
            p = [rand(b, s, s, dtype=dtype) for _ in range(sets)]
            shape: Row = {"op": "batched_gemm", "dtype": name, "batch": b}
            yield {
                **shape,
                "what": "QKt",
                "m": s,
                "n": s,
                "k": d,
                "us": timed_us(lambda i: torch.bmm(q[i % sets], k[i % sets].transpose(1, 2))),
            }
            yield {
                **shape,
                "what": "PV",
                "m": s,
                "n": d,
                "k": s,
                "us": timed_us(lambda i: torch.bmm(p[i % sets], k[i % sets])),
            }
            yield {
                **shape,
                "what": "PtdO",
                "m": s,
                "n": d,
                "k": s,
                "us": timed_us(lambda i: torch.bmm(p[i % sets].transpose(1, 2), q[i % sets])),
            }
            torch.cuda.empty_cache()


def products() -> Iterator[Row]:
    """TF32 (and, to compare, BF16) products: squares, and the forward, input and weight gradients of GPT's layers."""
    shapes = [("nt", s, s, s) for s in (512, 1024, 2048, 4096, 8192, 16384)]
    for tokens in (512, 2048, 8192, 16384):
        for hidden in (768, 1024, 2048, 3072, 5120):
            for n, k in ((3 * hidden, hidden), (hidden, hidden), (4 * hidden, hidden), (hidden, 4 * hidden)):
                shapes += [("nt", tokens, n, k), ("nn", tokens, k, n), ("tn", n, k, tokens)]
    shapes += [
        ("nt", 8192, 50257, 1024),
        ("nn", 8192, 1024, 50257),
        ("nt", 50, 4096, 25088),
        ("nt", 50, 4096, 4096),
        ("nn", 50, 25088, 4096),
        ("tn", 4096, 25088, 50),
        ("nt", 64, 8192, 8192),
        ("nt", 256, 8192, 8192),
    ]
    for number, (layout, m, n, k) in enumerate(shapes):
        for name, dtype in DTYPES.items():
            if name == "bf16" and number % 4 and m != n:
                continue
            sets = sets_of((2.0 if name == "bf16" else 4.0) * (m * k + n * k))
            a = [rand(k, m, dtype=dtype).t() if layout == "tn" else rand(m, k, dtype=dtype) for _ in range(sets)]
            b = [rand(n, k, dtype=dtype).t() if layout == "nt" else rand(k, n, dtype=dtype) for _ in range(sets)]
            yield {
                "op": "gemm",
                "dtype": name,
                "what": layout,
                "m": m,
                "n": n,
                "k": k,
                "us": timed_us(lambda i: a[i % sets] @ b[i % sets]),
            }


def passes() -> Iterator[Row]:
    """Memory-bound passes by bytes read and written: softmax, dropout, normalisation, activation, forward and back."""
    for name, dtype in DTYPES.items():
        size = 2.0 if name == "bf16" else 4.0
        for rows, width in (
            (2048, 256),
            (8192, 1024),
            (16384, 3072),
            (65536, 256),
            (131072, 1024),
            (131072, 2048),
            (524288, 256),
            (262144, 2048),
        ):
            n = rows * width
            sets = sets_of(2 * n * size)
            x = [rand(rows, width, dtype=dtype) for _ in range(sets)]
            g = [rand(rows, width, dtype=dtype) for _ in range(sets)]
            weight, bias = rand(width, dtype=dtype), rand(width, dtype=dtype)
            y = [torch.softmax(each, -1) for each in x]
            _, mask = torch.native_dropout(x[0], 0.1, True)
            _, mean, rstd = torch.native_layer_norm(x[0], [width], weight, bias, 1e-5)
            both = [True, True, True]
            calls: list[tuple[str, float, float, Callable[[int], object]]] = [
                ("softmax", 1, 1, lambda i: torch.softmax(x[i % sets], -1)),
                ("softmax_bwd", 2, 1, lambda i: torch._softmax_backward_data(g[i % sets], y[i % sets], -1, dtype)),
                ("dropout", 1, 1 + 1 / size, lambda i: torch.native_dropout(x[i % sets], 0.1, True)),
                (
                    "dropout_bwd",
                    1 + 1 / size,
                    1,
                    lambda i: torch.ops.aten.native_dropout_backward(g[i % sets], mask, 1.1),
                ),
                ("layer_norm", 1, 1, lambda i: torch.native_layer_norm(x[i % sets], [width], weight, bias, 1e-5)),
                (
                    "layer_norm_bwd",
                    2,
                    1,
                    lambda i: torch.ops.aten.native_layer_norm_backward(
                        g[i % sets], x[i % sets], [width], mean, rstd, weight, bias, both
                    ),
                ),
                ("gelu", 1, 1, lambda i: F.gelu(x[i % sets])),
                ("gelu_bwd", 2, 1, lambda i: torch.ops.aten.gelu_backward(g[i % sets], x[i % sets])),
                ("add", 2, 1, lambda i: x[i % sets] + g[i % sets]),
                ("column_sum", 1, 0, lambda i: g[i % sets].sum(0)),
            ]
            for op, read, write, call in calls:
                yield {
                    "op": op,
                    "dtype": name,
                    "rows": rows,
                    "width": width,
                    "read_bytes": read * n * size,
                    "write_bytes": write * n * size,
                    "us": timed_us(call),
                }
            torch.cuda.empty_cache()


VGG = [
    (64, 3, 224),
    (64, 64, 224),
    (128, 64, 112),
    (128, 128, 112),
    (256, 128, 56),
    (256, 256, 56),
    (512, 256, 28),
    (512, 512, 28),
    (512, 512, 14),
]


def convolutions() -> Iterator[Row]:
    """Every distinct 3x3 convolution of VGG16: forward, input gradient, weight gradient; both memory layouts."""
    formats = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
    for batch in (16, 50, 64):
        for out, into, side in VGG:
            for layout, memory in formats.items():
                for name, dtype in DTYPES.items():
                    x = rand(batch, into, side, side, dtype=dtype).to(memory_format=memory)
                    w = rand(out, into, 3, 3, dtype=dtype).to(memory_format=memory)
                    g = rand(batch, out, side, side, dtype=dtype).to(memory_format=memory)
                    shape: Row = {
                        "dtype": name,
                        "layout": layout,
                        "images": batch,
                        "out": out,
                        "in": into,
                        "side": side,
                    }

                    def back(mask: list[bool]) -> Callable[[int], object]:
                        return lambda _: torch.ops.aten.convolution_backward(
                            g, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
                        )

                    yield {"op": "conv_fwd", **shape, "us": timed_us(lambda _: F.conv2d(x, w, padding=1))}
                    if into > 3:
                        yield {"op": "conv_dgrad", **shape, "us": timed_us(back([True, False, False]))}
                    yield {"op": "conv_wgrad", **shape, "us": timed_us(back([False, True, False]))}
    for batch in (50,):
        for out, _, side in ((64, 64, 224), (128, 128, 112), (256, 256, 56), (512, 512, 28), (512, 512, 14)):
            for layout, memory in formats.items():
                x = rand(batch, out, side, side, dtype=torch.float32).to(memory_format=memory)
                n, shape = (
                    4.0 * x.numel(),
                    {"dtype": "tf32", "layout": layout, "images": batch, "out": out, "side": side},
                )
                y, where = F.max_pool2d(x, 2, return_indices=True)
                gy = torch.randn_like(y)
                bias = rand(out, dtype=torch.float32)
                yield {"op": "relu", **shape, "read_bytes": n, "write_bytes": n, "us": timed_us(lambda _: F.relu_(x))}
                yield {
                    "op": "bias",
                    **shape,
                    "read_bytes": n,
                    "write_bytes": n,
                    "us": timed_us(lambda _: x.add_(bias.view(1, -1, 1, 1))),
                }
                yield {
                    "op": "bias_bwd",
                    **shape,
                    "read_bytes": n,
                    "write_bytes": 0,
                    "us": timed_us(lambda _: x.sum((0, 2, 3))),
                }
                yield {
                    "op": "pool",
                    **shape,
                    "read_bytes": n,
                    "write_bytes": 3 * n / 4,
                    "us": timed_us(lambda _: F.max_pool2d(x, 2, return_indices=True)),
                }
                yield {
                    "op": "pool_bwd",
                    **shape,
                    "read_bytes": 3 * n / 4,
                    "write_bytes": n,
                    "us": timed_us(
                        lambda _: torch.ops.aten.max_pool2d_with_indices_backward(
                            gy, x, [2, 2], [2, 2], [0, 0], [1, 1], False, where
                        )
                    ),
                }


class Block(nn.Module):
    """A GPT-2 layer whose attention is written out, as before flash attention."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.n1, self.n2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, h = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, s, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (h // self.heads) ** -0.5
        mask = torch.ones(s, s, dtype=torch.bool, device=x.device).triu(1)
        p = F.dropout(torch.softmax(scores.masked_fill(mask, -1e4), -1), self.p)
        x = x + F.dropout(self.out((p @ v).transpose(1, 2).reshape(b, s, h)), self.p)
        return x + F.dropout(self.down(F.gelu(self.up(self.n2(x)))), self.p)


def kernels_of(call: Callable[[], object]) -> int:
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            call()
            torch.cuda.synchronize()
        return sum(1 for event in found.events() if str(event.device_type).endswith("CUDA"))
    except Exception as error:  # times are worth having without counts
        print("no kernel counts:", repr(error)[:200])
        return 0


def vgg16() -> nn.Module:
    parts: list[nn.Module] = []
    for out, into, n in ((64, 3, 2), (128, 64, 2), (256, 128, 3), (512, 256, 3), (512, 512, 3)):
        for number in range(n):
            parts += [nn.Conv2d(into if number == 0 else out, out, 3, padding=1), nn.ReLU(inplace=True)]
        parts.append(nn.MaxPool2d(2))
    parts += [
        nn.Flatten(),
        nn.Linear(25088, 4096),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(4096, 1000),
    ]
    return nn.Sequential(*parts)


def wall(call: Callable[[], object], times: int = 20) -> float:
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    found = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(times):
            call()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / times)
    return sorted(found)[2] * 1e6


def eager() -> Iterator[Row]:
    """Whole layers as an eager host runs them: small ones are bound by the host, large ones by the GPU."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    shapes = [
        (128, 4, 1, 64),
        (256, 4, 1, 128),
        (1024, 16, 1, 256),
        (1024, 16, 32, 256),
        (3072, 32, 2, 2048),
        (3072, 32, 4, 2048),
    ]
    for name, dtype in DTYPES.items():
        for hidden, heads, batch, seq in shapes:
            layers = nn.Sequential(*(Block(hidden, heads, 0.1) for _ in range(4))).to("cuda", dtype)
            x = rand(batch, seq, hidden, dtype=dtype).requires_grad_()
            g = rand(batch, seq, hidden, dtype=dtype)

            def forward() -> torch.Tensor:
                return layers(x)

            def both() -> None:
                forward().backward(g)

            shape: Row = {
                "dtype": name,
                "cpu": cpu,
                "layers": 4,
                "hidden": hidden,
                "heads": heads,
                "batch": batch,
                "seq": seq,
            }
            yield {"op": "eager_fwd", **shape, "kernels": kernels_of(forward), "us": wall(forward)}
            yield {"op": "eager_fwdbwd", **shape, "kernels": kernels_of(both), "us": wall(both)}
            torch.cuda.empty_cache()
    for images in (1, 50):
        model, x = vgg16().cuda(), rand(images, 3, 224, 224, dtype=torch.float32)
        labels = torch.zeros(images, dtype=torch.long, device="cuda")

        def step() -> None:
            F.cross_entropy(model(x), labels).backward()

        yield {
            "op": "vgg16_fwdbwd",
            "dtype": "tf32",
            "cpu": cpu,
            "batch": images,
            "kernels": kernels_of(step),
            "us": wall(step),
        }


PARTS = {part.__name__: part for part in (eager, convolutions, batched, products, passes)}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())
    for name in sys.argv[2:] or PARTS:
        begin = time.perf_counter()
        rows = []
        try:
            rows.extend(PARTS[name]())
        except Exception as error:  # keep what was measured
            print(name, "stopped:", repr(error)[:300])
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        print(name, len(rows), "rows", round(time.perf_counter() - begin), "s", flush=True)


if __name__ == "__main__":
    main()
