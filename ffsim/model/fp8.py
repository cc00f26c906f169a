"""FP8 products as DeepSeek-V3 trains with them: scaled tiles, a narrow accumulator, promotion; and what they get wrong.

The recipe (arXiv 2412.19437 s3.3.2): every operand is E4M3; activations share a scale per 1x128 tile, weights per
128x128 block. Hopper's tensor cores add FP8 products with about 14 bits only, so every 128 elements the partial sum is
moved to ordinary FP32 registers (promoted), where the scales are applied as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ffsim.errors import ModelDomainError
from ffsim.model.arrays import Dims
from ffsim.model.parameters import layer_shapes
from ffsim.model.rounding import E4M3_MAX, Floats, round_bf16, round_e4m3
from ffsim.model.spec import ModelSpec

ACTIVATION_TILE = (1, 128)
WEIGHT_BLOCK = (128, 128)
PROMOTION_INTERVAL = 128  # elements of the inner dimension, four tensor-core instructions
ACCUMULATOR_BITS = 14
SCALED_BY_POWERS_OF_TWO = frozenset({"wo", "experts_up"})  # their inputs, arXiv 2412.19437 s3.3.3
_INSTRUCTION_K = 32  # inner elements that one FP8 tensor-core instruction multiplies and adds
_MOST_BITS = 18  # 33 terms of so many bits add up exactly in float32


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A matrix in E4M3 with one float32 scale per block; blocks at the far edges may be smaller.

    Attributes:
        codes: ``[rows, columns]`` float32, every entry an E4M3 number.
        scales: ``[ceil(rows / block[0]), ceil(columns / block[1])]`` float32, what the codes are multiplied by.
        block: rows and columns of a block.
    """

    codes: Floats
    scales: Floats
    block: tuple[int, int]

    def row_scales(self, column: int) -> Floats:
        """The scale of every row at one column: ``[rows]``."""
        return np.repeat(self.scales[:, column // self.block[1]], self.block[0])[: len(self.codes)]

    def dequantised(self) -> Floats:
        """The matrix that the codes stand for: ``[rows, columns]`` float64, exact."""
        rows, columns = self.codes.shape
        wide = np.repeat(np.repeat(self.scales, self.block[0], axis=0), self.block[1], axis=1)
        exact: Floats = self.codes.astype(np.float64) * wide[:rows, :columns]
        return exact


def quantise(x: Floats, block: tuple[int, int], *, power_of_two: bool = False) -> Quantised:
    """Scale every block so that its largest entry becomes 448, and round to E4M3.

    Args:
        x: ``[rows, columns]``, finite; taken as float32.
        block: rows and columns that share a scale; the last blocks hold what is left, as kernels pad with zeros.
        power_of_two: round scales up to a power of two, as V3 does for activations that are quantised once more
            later: the inputs of the attention output projection and of the routed experts (s3.3.3).

    Returns:
        The codes with their scales; a block of zeros has scale 1.

    >>> q = quantise(np.array([[1.0, 0.3, -2.0]]), ACTIVATION_TILE)
    >>> q.codes, q.dequantised().round(4)
    (array([[ 224.,   64., -448.]], dtype=float32), array([[ 1.    ,  0.2857, -2.    ]]))
    """
    single = np.asarray(x, dtype=np.float32)
    rows, columns = single.shape
    largest = np.maximum.reduceat(np.abs(single), np.arange(0, rows, block[0]), axis=0)
    largest = np.maximum.reduceat(largest, np.arange(0, columns, block[1]), axis=1)
    scales = largest / np.float32(E4M3_MAX)
    scales = np.where(scales > 0, scales, np.float32(1))
    if power_of_two:
        mantissa, exponent = np.frexp(scales)
        scales = np.ldexp(np.float32(1), exponent - (mantissa == 0.5))
    wide = np.repeat(np.repeat(scales, block[0], axis=0), block[1], axis=1)
    return Quantised(round_e4m3(single / wide[:rows, :columns]), scales, block)


def tensor_core_product(x: Floats, w: Floats, *, bits: int = ACCUMULATOR_BITS) -> Floats:
    """Multiply FP8 numbers as Hopper's tensor cores do: with an accumulator of ``bits`` significant bits.

    Each instruction takes 32 inner elements. Their exact products and the accumulator are shifted to the largest
    exponent among them, cut to ``bits`` bits, added, and the sum is cut to ``bits`` bits again.

    Args:
        x: ``[m, k]`` E4M3 numbers as float32.
        w: ``[n, k]`` likewise.
        bits: significant bits of what is added, 1 to 18.

    Returns:
        ``[m, n]`` float32, ``x w^T`` with the errors of the accumulator and no other.

    Raises:
        ModelDomainError: so many bits that float32 could not hold the sums exactly.

    Source: arXiv 2412.19437 s3.5.2: products are right-shifted to the largest exponent, 14 bits are kept, the rest is
    truncated. Domain: Hopper, FP8. Assumed, as not published: the cut goes towards zero (as on earlier tensor cores,
    Fasi et al. 2021, doi:10.7717/peerj-cs.330), products are normalised before alignment, the accumulator takes part in
    the alignment and keeps as many bits. At k = 4096 the errors reach 1 % of the results' root mean square for normal
    operands and 8 % for uniform ones in [0, 1); s3.3.2 reports nearly 2 % for two random matrices.

    >>> x, w = np.full((1, 33), 16.0, np.float32), np.ones((1, 33), np.float32)
    >>> x[0, -1] = 2.0**-6
    >>> tensor_core_product(x, w) - 512, x @ w.T - 512
    (array([[0.]], dtype=float32), array([[0.015625]], dtype=float32))
    """
    if not 1 <= bits <= _MOST_BITS:
        raise ModelDomainError(f"an accumulator of {bits} bits: choose 1 to {_MOST_BITS}, or none for FP32")
    x_inner, w_inner = np.ascontiguousarray(x.T), np.ascontiguousarray(w.T)
    total = np.zeros((len(x), len(w)), np.float32)
    for start in range(0, len(x_inner), _INSTRUCTION_K):
        inner = slice(start, start + _INSTRUCTION_K)
        products = x_inner[inner, :, None] * w_inner[inner, None, :]  # [32, m, n]
        last_bit = _last_bit(np.maximum(np.max(np.abs(products), axis=0), np.abs(total)), bits)
        units = np.trunc(total / last_bit) + np.sum(np.trunc(products / last_bit), axis=0)
        last_bit_kept = _last_bit(units, bits)
        total = np.trunc(units / last_bit_kept) * last_bit_kept * last_bit
    return total


def _last_bit(largest: Floats, bits: int) -> Floats:
    """Value of the last of ``bits`` significant bits of a number: a power of two."""
    power: Floats = np.ldexp(np.float32(1), np.frexp(largest)[1] - bits)
    return power


def fp8_product(
    x: Quantised, w: Quantised, *, interval: int | None = PROMOTION_INTERVAL, bits: int | None = ACCUMULATOR_BITS
) -> Floats:
    """``x w^T`` of two quantised matrices: partial sums in the tensor core, promoted to FP32 and scaled there.

    Args:
        x: ``[m, k]``.
        w: ``[n, k]``.
        interval: inner elements between promotions; none promotes once, at the end, which takes scales that hold for
            the whole inner dimension (blocks at least k wide).
        bits: significant bits of the tensor core's accumulator, none for FP32.

    Returns:
        ``[m, n]`` float32.

    Raises:
        ModelDomainError: the inner dimensions differ, or a scale changes within an interval.

    Source: arXiv 2412.19437 s3.3.2. Domain: as `tensor_core_product`; a real kernel also rounds the result to BF16.

    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.standard_normal((8, 200)), rng.standard_normal((128, 200))
    >>> y = fp8_product(quantise(x, ACTIVATION_TILE), quantise(w, WEIGHT_BLOCK))
    >>> round(float(np.std(y - x @ w.T) / np.std(x @ w.T)), 3)
    0.039
    """
    k = x.codes.shape[1]
    step = k if interval is None else interval
    if w.codes.shape[1] != k:
        raise ModelDomainError(f"inner dimensions {k} and {w.codes.shape[1]} differ: give [m, k] and [n, k]")
    if any(width < k and width % step for width in (x.block[1], w.block[1])):
        raise ModelDomainError(f"a scale changes within {step} elements: choose an interval that divides the blocks")
    total = np.zeros((len(x.codes), len(w.codes)), np.float32)
    for start in range(0, k, step):
        left, right = x.codes[:, start : start + step], w.codes[:, start : start + step]
        partial = left @ right.T if bits is None else tensor_core_product(left, right, bits=bits)
        total += partial * (x.row_scales(start)[:, None] * w.row_scales(start))
    return total


Arithmetic = Literal["bf16", "fp8_wide", "fp8_promoted", "fp8_unpromoted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductError:
    """How far one product in one arithmetic is from FP64, relative to the root mean square of the FP64 results.

    Attributes:
        name: the parameter, as `ffsim.model.parameters` names it.
        m, n, k: ``[m, k] x [n, k] -> [m, n]``; errors do not depend on m and n.
        arithmetic: ``bf16`` operands with FP32 sums; or FP8 operands with FP32 sums (``fp8_wide``), with 14-bit sums
            promoted every 128 elements (``fp8_promoted``), or with 14-bit sums over all of k (``fp8_unpromoted``).
        rms_frac, max_frac: root mean square and largest error against the product of the unrounded operands.
        sum_rms_frac, sum_max_frac: the same against the exact product of the rounded operands: what adding up costs.
    """

    name: str
    m: int
    n: int
    k: int
    arithmetic: Arithmetic
    rms_frac: float
    max_frac: float
    sum_rms_frac: float
    sum_max_frac: float


def linear_shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """The linear maps of a model that V3's recipe computes in FP8, as ``(n, k)`` by parameter name.

    The gate, embedding and head stay in higher precision (arXiv 2412.19437 s3.3.1); an expert counts once.
    """
    shapes: dict[str, Dims] = {**layer_shapes(spec, 0), **layer_shapes(spec, spec.layers - 1)}
    return {
        name: (shape[-2], shape[-1])
        for name, shape in shapes.items()
        if len(shape) > 1 and name != "gate" and not name.startswith("index_")
    }


def error_table(
    spec: ModelSpec, rng: np.random.Generator, *, tokens: int = 4096, sample: tuple[int, int] = (4, 128)
) -> list[ProductError]:
    """What BF16 and FP8 get wrong in each linear map of a model, on standard normal activations and weights.

    Computing every output would take hours, so a few are: errors of single outputs are alike, and each is summed over
    the whole inner dimension. 128 columns are one row of weight blocks, so the scales are those of the whole matrix.

    Args:
        spec: the model.
        rng: of the operands.
        tokens: rows of activations to name in the table (of an expert, too).
        sample: rows and columns of the result that are computed.

    Returns:
        A row per linear map and arithmetic. The scales of `SCALED_BY_POWERS_OF_TWO` are powers of two.

    Domain: well-behaved operands; outlier channels, for which the tiles were made, are for `product_errors` on data of
    your own. Results are kept in FP32; a kernel that returns BF16 adds its own rounding (0.0017, in quadrature).

    >>> from ffsim.model.spec import load_model
    >>> rows = error_table(load_model("deepseek-v3"), np.random.default_rng(0))
    >>> {row.arithmetic: round(row.rms_frac, 3) for row in rows if row.name == "down"}
    {'bf16': 0.002, 'fp8_wide': 0.037, 'fp8_promoted': 0.037, 'fp8_unpromoted': 0.038}
    >>> [f"{row.sum_max_frac:.0e}" for row in rows if row.name == "down"][2:]  # promoted, unpromoted
    ['4e-04', '2e-02']
    """
    rows = []
    for name, (n, k) in linear_shapes(spec).items():
        x, w = (rng.standard_normal((count, k)) for count in (min(sample[0], tokens), min(sample[1], n)))
        errors = product_errors(x, w, power_of_two=name in SCALED_BY_POWERS_OF_TWO)
        rows += [ProductError(name=name, m=tokens, n=n, k=k, arithmetic=a, **e) for a, e in errors.items()]
    return rows


def product_errors(x: Floats, w: Floats, *, power_of_two: bool = False) -> dict[Arithmetic, dict[str, float]]:
    """Errors of ``x w^T`` in every arithmetic, by the names that `ProductError` gives them.

    Args:
        x: ``[m, k]`` activations.
        w: ``[n, k]`` weights.
        power_of_two: of the activations' scales, see `quantise`.
    """
    true = x.astype(np.float64) @ w.astype(np.float64).T
    return {
        arithmetic: _relative(y - true, true) | {f"sum_{key}": e for key, e in _relative(y - rounded, true).items()}
        for arithmetic, (y, rounded) in _products(x, w, power_of_two).items()
    }


def _products(x: Floats, w: Floats, power_of_two: bool) -> dict[Arithmetic, tuple[Floats, Floats]]:
    """``x w^T`` in every arithmetic, each with the exact product of the operands as that arithmetic rounds them.

    Without promotion no scale can change on the way: a row of activations has one, and 128 rows of weights share one.
    """
    k = x.shape[1]
    x_tiles, x_rows = (quantise(x, tile, power_of_two=power_of_two) for tile in (ACTIVATION_TILE, (1, k)))
    w_blocks, w_strips = (quantise(w, block) for block in (WEIGHT_BLOCK, (WEIGHT_BLOCK[0], k)))
    x_bf16, w_bf16 = round_bf16(x), round_bf16(w)
    tiled = x_tiles.dequantised() @ w_blocks.dequantised().T
    return {
        "bf16": (x_bf16 @ w_bf16.T, x_bf16.astype(np.float64) @ w_bf16.astype(np.float64).T),
        "fp8_wide": (fp8_product(x_tiles, w_blocks, bits=None), tiled),
        "fp8_promoted": (fp8_product(x_tiles, w_blocks), tiled),
        "fp8_unpromoted": (
            fp8_product(x_rows, w_strips, interval=None),
            x_rows.dequantised() @ w_strips.dequantised().T,
        ),
    }


def _relative(error: Floats, true: Floats) -> dict[str, float]:
    """Root mean square and largest error over the root mean square of the truth, as a single result may be near 0."""
    size = np.sqrt(np.mean(true**2))
    return {
        "rms_frac": float(np.sqrt(np.mean(error**2)) / size),
        "max_frac": float(np.max(np.abs(error)) / size),
    }
