"""Kinds of vertices and links, and cables as columns: what every builder fills in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Kinds = NDArray[np.uint8]
Bools = NDArray[np.bool_]

NO_LINK = -1
Index = TypeVar("Index", bound=np.signedinteger[Any])


class VertexKind(IntEnum):
    """What stands at a vertex.

    A ``HUB`` is the NVSwitch of a node that has one, else its host: of two sockets the one that has the first NIC; the
    other is a ``SOCKET``. A ``ROOT_PORT`` is one that several GPUs share; one of a single device is part of its link.
    """

    GPU = 0
    HUB = 1
    NIC = 2
    STORAGE_NIC = 3
    LEAF = 4
    SPINE = 5
    CORE = 6
    INTERZONE = 7
    SOCKET = 8
    ROOT_PORT = 9


class LinkKind(IntEnum):
    """What a link is made of.

    ``SCALE_UP`` is NVLink to the NVSwitch, ``BRIDGE`` NVLink from GPU to GPU, ``PCIE`` joins GPU and host, ``NIC_PCIE``
    GPU or host and NIC, ``ACCESS`` NIC and leaf. ``LOCAL`` joins switches of one group, or of a fabric without levels,
    ``GLOBAL`` switches of different groups. ``ROOT_PORT`` joins a shared root port and its socket, ``SOCKETS`` the two
    sockets of a node. The last three are no cables but media, limits that flows meet at one vertex: ``ROOT_PORT_BUS``
    is a shared root port, both directions together, ``MEMORY`` a socket's memory with reads and writes together,
    ``PEER_TO_PEER`` what passes between GPUs and a NIC without a stop in memory, each direction by itself.
    """

    SCALE_UP = 0
    BRIDGE = 1
    PCIE = 2
    NIC_PCIE = 3
    ACCESS = 4
    LEAF_SPINE = 5
    SPINE_CORE = 6
    INTERZONE = 7
    LOCAL = 8
    GLOBAL = 9
    ROOT_PORT = 10
    SOCKETS = 11
    ROOT_PORT_BUS = 12
    MEMORY = 13
    PEER_TO_PEER = 14


BETWEEN_SWITCHES = (
    LinkKind.LEAF_SPINE,
    LinkKind.SPINE_CORE,
    LinkKind.INTERZONE,
    LinkKind.LOCAL,
    LinkKind.GLOBAL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What a cable carries.

    Attributes:
        bandwidth_bytes_per_s: usable payload rate, per direction.
        latency_s: one-way, zero-byte.
    """

    bandwidth_bytes_per_s: float | Floats
    latency_s: float | Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cables:
    """Full-duplex cables, as columns of length ``n_cables``.

    Cable ``c`` is two directed links: ``2c`` from ``a`` to ``b`` and ``2c + 1`` back, so ``link ^ 1`` is the way back.
    """

    a: Ints
    b: Ints
    bandwidth_bytes_per_s: Floats
    latency_s: Floats
    kind: Kinds

    @classmethod
    def between(cls, a: Ints, b: Ints, wire: Wire, kind: LinkKind) -> Cables:
        """Cables of one kind; the wire's figures may be one for all or one for each."""
        shape = a.shape
        return cls(
            a=a,
            b=b,
            bandwidth_bytes_per_s=np.broadcast_to(np.asarray(wire.bandwidth_bytes_per_s, dtype=np.float64), shape),
            latency_s=np.broadcast_to(np.asarray(wire.latency_s, dtype=np.float64), shape),
            kind=np.full(shape, kind, dtype=np.uint8),
        )

    @classmethod
    def joined(cls, parts: Sequence[Cables]) -> Cables:
        """All cables of the parts, in order."""
        return cls(
            a=np.concatenate([part.a for part in parts]),
            b=np.concatenate([part.b for part in parts]),
            bandwidth_bytes_per_s=np.concatenate([part.bandwidth_bytes_per_s for part in parts]),
            latency_s=np.concatenate([part.latency_s for part in parts]),
            kind=np.concatenate([part.kind for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.a)

    def shifted(self, by: int) -> Cables:
        """The same cables between vertices numbered ``by`` higher."""
        return replace(self, a=self.a + by, b=self.b + by)


def count_up(n: int) -> Ints:
    """``0 .. n-1``."""
    return np.arange(n, dtype=np.int64)


def kinds(*blocks: tuple[VertexKind, int]) -> Kinds:
    """A kind code for every vertex of consecutive blocks.

    >>> kinds((VertexKind.GPU, 2), (VertexKind.HUB, 1)).tolist()
    [0, 0, 1]
    """
    return np.repeat(np.array([kind for kind, _ in blocks], dtype=np.uint8), [count for _, count in blocks])


def packed(links: NDArray[Index]) -> NDArray[Index]:
    """Move the links of each row to the front, keeping their order, and drop the columns nobody needs.

    >>> packed(np.array([[-1, 4, -1, 6], [3, -1, -1, -1]])).tolist()
    [[4, 6], [3, -1]]
    """
    used = links != NO_LINK
    hops = hop_counts(links)
    result = np.full((len(links), int(hops.max(initial=0))), NO_LINK, dtype=links.dtype)
    result[count_up(result.shape[1]) < hops[:, None]] = links[used]
    return result


def hop_counts(links: NDArray[Index]) -> Ints:
    """Links of each row.

    >>> hop_counts(np.array([[-1, 4, -1, 6], [3, -1, -1, -1]])).tolist()
    [2, 1]
    """
    used = (links != NO_LINK).view(np.uint8)
    counts: Ints = np.einsum("ij->i", used, dtype=np.int64)  # several times as fast as a sum along short rows
    return counts
