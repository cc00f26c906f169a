"""The hash that picks a flow's way where switches hash (ECMP)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ffsim.topology.arrays import Ints

_SRC, _DST = np.uint32(2654435761), np.uint32(2246822519)
_SEED, _PAIR, _MESSAGE = np.uint32(0x9E3779B1), np.uint32(0x27D4EB2F), np.uint32(0x165667B1)
_KEY_SHIFT = np.uint32(15)


def hash_keys(src: Ints, dst: Ints, queue_pair: Ints | int = 0, seed: int = 0, message: Ints | None = None) -> Ints:
    """Keys by which flows pick their ways: 17 bits that look random and depend on nothing but the arguments.

    ``x = (src * 2654435761 mod 2^32) xor (dst * 2246822519 mod 2^32) xor f(seed, queue pair, message)``, less its
    lowest 15 bits; ``f`` is 0 where all three are zero or left out.

    Args:
        src: ``[n]`` end points.
        dst: ``[n]``, likewise.
        queue_pair: ``[n]`` or one for all: which of the flow's parts.
        seed: any; the lowest 32 bits count.
        message: ``[n]``: number of the message; left out where all messages of a pair take one way.

    Returns:
        ``[n]``.

    >>> hash_keys(np.array([0, 1]), np.array([1, 0])).tolist()
    [68567, 81006]
    """
    salt = _whole(queue_pair) * _PAIR + _whole(seed) * _SEED
    if message is not None:
        salt = salt + (_whole(message) + np.uint32(1)) * _MESSAGE
    mixed = (_whole(src) * _SRC) ^ (_whole(dst) * _DST) ^ _scattered(salt)
    keys: Ints = (mixed >> _KEY_SHIFT).astype(np.int64)
    return keys


def _whole(number: Ints | int) -> NDArray[np.uint32]:
    """As unsigned 32-bit arrays, whose products wrap around silently where single numbers would warn."""
    return np.atleast_1d(np.asarray(number, dtype=np.int64)).astype(np.uint32)


def _scattered(number: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Spread every bit over all 32; zero stays zero. Source: ``fmix32`` of MurmurHash3 (A. Appleby, public domain)."""
    number = (number ^ (number >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    number = (number ^ (number >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return number ^ (number >> np.uint32(16))
