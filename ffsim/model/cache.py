"""What attention remembers while a model decodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ffsim.model.arrays import Array


@dataclass(slots=True)
class Cache:
    """The memory of one attention layer; decoding appends to it.

    Attributes:
        kind: ``key_value`` for GQA and for MLA in its expanded form, ``latent`` for MLA in its absorbed form.
        held: arrays ``[batch, tokens, ...]`` by name: ``k`` and ``v``, or ``latent`` (normalised) and ``rope_key``
            (rotated, shared by all heads); and ``index_key`` of sparse attention.

    >>> cache = Cache("latent")
    >>> cache.append("latent", np.zeros((1, 6, 512))).shape, cache.append("latent", np.ones((1, 1, 512))).shape
    ((1, 6, 512), (1, 7, 512))
    >>> cache.length
    7
    """

    kind: Literal["key_value", "latent"]
    held: dict[str, Array] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens seen so far: the position of the next one."""
        return max((array.shape[1] for array in self.held.values()), default=0)

    def append(self, name: str, new: Array) -> Array:
        """Add what the new tokens bring; returns it behind that of all earlier ones."""
        past = self.held.get(name)
        self.held[name] = new if past is None else np.concatenate([past, new], axis=1)
        return self.held[name]


def remembered(cache: Cache | None, name: str, new: Array) -> Array:
    """The new tokens' array behind that of the cached ones; without a cache just the new."""
    return new if cache is None else cache.append(name, new)
