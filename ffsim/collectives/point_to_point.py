"""Point-to-point messages, as pipelines send them."""

from __future__ import annotations

import numpy as np

from ffsim.collectives.data import Collective, Step, check


def send_recv(size_bytes: float) -> Collective:
    """Rank 0 sends a buffer to rank 1."""
    check(2, size_bytes)
    return Collective("send/recv", 2, (Step.of(np.array([0]), np.array([1]), size_bytes),), size_bytes)


def send_recv_s(size_bytes: float, bandwidth_bytes_per_s: float, latency_s: float) -> float:
    """Time of one message on links that carry nothing else: ``latency + size / bandwidth``."""
    check(2, size_bytes)
    return latency_s + size_bytes / bandwidth_bytes_per_s
