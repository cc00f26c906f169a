"""How a training framework runs a plan's kernels: which attention it has, what it overlaps, how fast its host is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ffsim.config import Bytes, Figure, PositiveBytes, Shelf, Source, Time, load, spec


@spec
class Software:
    """A framework at the time of a run.

    Attributes:
        attention: one fused kernel, or products and passes over the scores.
        dropout: whether activations are dropped, which costs masks and passes.
        host_issue: time in which the host issues a kernel: a pass cannot be faster than its kernels are issued. Zero
            where the host is far ahead of the GPU.
        overlap_gradients, overlap_parameters, overlap_tensor: see `ffsim.training.spec.Overlap`.
        bucket, bucket_per_rank: gradients that are reduced in one go, at least, and for each data-parallel rank: more
            ranks take longer to pass a message on. [bytes]
        staggered_sends: replicas whose GPUs share a NIC send at different times, else all at once.
    """

    kind: Literal["software"]
    title: str
    source: Source
    attention: Literal["flash", "unfused"]
    dropout: bool
    host_issue: Figure[Time]
    overlap_gradients: bool
    overlap_parameters: bool
    overlap_tensor: bool
    bucket: Figure[PositiveBytes]
    bucket_per_rank: Figure[Bytes]
    staggered_sends: bool = False


SHELF = Shelf("software", "software", Path(__file__).parent / "data" / "software")


def load_software(name: str, *, near: Path | None = None) -> Software:
    """Load a description by name or path.

    Raises:
        ScenarioError: no such file, or it is wrong.
    """
    return load(SHELF, name, Software, near=near)
