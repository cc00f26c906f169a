"""Number formats of a training run: what is multiplied, kept, sent and stored in how many bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ffsim.config import ElementBytes, Figure, Shelf, Source, load, spec

Dtype = Literal["bf16", "tf32", "fp8", "fp8_block", "fp8_block_wgrad"]
"""Formats of products. FP16 counts as BF16: tensor cores take as long and operands are as large."""


@spec
class Precision:
    """A precision recipe. All byte counts are per element.

    Attributes:
        gemm: format of the linear and expert products (where it is FP8, gate, head and attention stay in BF16).
        weight_gradient: format of their weight-gradient products.
        quantised_bytes: an operand of a quantised product, its scales included.
        activation_bytes: the residual stream and everything element-wise.
        linear_input_bytes, attention_output_bytes, swiglu_input_bytes: what is kept for the backward pass.
        dispatch_bytes, combine_bytes: expert traffic on the wire, scales included.
        weight_bytes: working copy of the weights.
        gradient_bytes, master_bytes, moment_bytes: gradient accumulator, master weights, both Adam moments.
        gradient_wire_bytes: gradients while they are reduced.
    """

    kind: Literal["precision"]
    title: str
    source: Source
    gemm: Dtype
    weight_gradient: Dtype
    quantised_bytes: ElementBytes
    activation_bytes: ElementBytes
    linear_input_bytes: ElementBytes
    attention_output_bytes: ElementBytes
    swiglu_input_bytes: ElementBytes
    dispatch_bytes: ElementBytes
    combine_bytes: ElementBytes
    weight_bytes: Figure[ElementBytes]
    gradient_bytes: ElementBytes
    master_bytes: ElementBytes
    moment_bytes: ElementBytes
    gradient_wire_bytes: Figure[ElementBytes]

    @property
    def quantised(self) -> bool:
        """Whether products need their operands cast first."""
        return self.gemm.startswith("fp8")

    @property
    def product(self) -> Dtype:
        """Format of products whose operands are activations as they are: all of them unless some are quantised."""
        return "bf16" if self.quantised else self.gemm


SHELF = Shelf("precision", "precisions", Path(__file__).parent / "precisions")


def load_precision(name: str, *, near: Path | None = None) -> Precision:
    """Load a precision recipe by name or path.

    Raises:
        ScenarioError: no such recipe, or its file is wrong.
    """
    return load(SHELF, name, Precision, near=near)
