"""A fluid network: transfers share links at max-min fair rates on SimPy's clock.

A transfer crosses several links at once and may move different amounts on each (an expert dispatch moves a token once
over the NIC and several times over NVLink). Its rate is counted in bytes on the link that would bind it alone; on every
other link it takes bandwidth in proportion. The rates are the unique max-min fair ones: no transfer can be made faster
without slowing one that is no faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import simpy

SAME = 1 + 1e-12  # levels closer than rounding are one


class Path:
    """Links that a transfer crosses and how much it moves on each, worked out once for all transfers alike.

    Args:
        links: each once, at least one.
        bytes_: moved on each of them, > 0.
        capacity_bytes_per_s: of every link of the network.
        share: what the transfer counts for where links are shared; 1 is one transfer.

    Attributes:
        size: bytes on the link that would bind the transfer alone, over its share.
        weights: bytes on each link per byte of ``size``.
        rate_alone: capacity of that link, over its share.
    """

    __slots__ = ("links", "rate_alone", "size", "weights")

    def __init__(
        self, links: Sequence[int], bytes_: Sequence[float], capacity_bytes_per_s: Sequence[float], share: float = 1.0
    ) -> None:
        alone = max(range(len(links)), key=lambda i: bytes_[i] / capacity_bytes_per_s[links[i]])
        self.links = tuple(links)
        self.size = bytes_[alone] / share
        self.weights = tuple(b / self.size for b in bytes_)
        self.rate_alone = capacity_bytes_per_s[links[alone]] / share


class Transfer:
    """One transfer under way."""

    __slots__ = ("links", "on_done", "rate", "remaining", "updated_s", "version")

    def __init__(self, path: Path, now_s: float, on_done: Callable[[], None]) -> None:
        self.links = path.links
        self.remaining = path.size
        self.rate = 0.0
        self.updated_s = now_s
        self.version = 0
        self.on_done = on_done


class FluidNetwork:
    """Links of given capacity and the transfers on them.

    Args:
        env: the clock.
        capacity_bytes_per_s: one figure per link, > 0.
    """

    def __init__(self, env: simpy.Environment, capacity_bytes_per_s: Sequence[float]) -> None:
        self.capacity_bytes_per_s = list(capacity_bytes_per_s)
        self.n_events = 0
        self._env = env
        self._on_link: list[dict[Transfer, float]] = [{} for _ in self.capacity_bytes_per_s]
        self._changed: dict[int, None] = {}  # links whose transfers wait for new rates

    def start(self, path: Path, on_done: Callable[[], None]) -> None:
        """Begin a transfer; ``on_done`` is called when its last byte has moved."""
        transfer = Transfer(path, self._env.now, on_done)
        on_link, shared = self._on_link, False
        for link, weight in zip(path.links, path.weights, strict=True):
            users = on_link[link]
            if users:
                shared = True
            users[transfer] = weight
        if shared:
            self._rates_later(path.links)
        else:
            self._set_rate(transfer, path.rate_alone)

    def _set_rate(self, transfer: Transfer, rate: float) -> None:
        """Note progress so far, take the new rate, and plan the end."""
        now = self._env.now
        transfer.remaining -= transfer.rate * (now - transfer.updated_s)
        transfer.updated_s = now
        transfer.rate = rate
        transfer.version += 1
        self.n_events += 1
        timeout = self._env.timeout(max(transfer.remaining, 0.0) / rate)
        timeout.callbacks.append(partial(self._finish, transfer, transfer.version))

    def _finish(self, transfer: Transfer, version: int, _: simpy.Event) -> None:
        if version != transfer.version:  # its rate has changed since: another end is planned
            return
        shared = False
        for link in transfer.links:
            users = self._on_link[link]
            del users[transfer]
            if users:
                shared = True
        if shared:
            self._rates_later(transfer.links)
        transfer.on_done()

    def _rates_later(self, links: Sequence[int]) -> None:
        """Find new rates once everything that happens at this instant has happened."""
        if not self._changed:
            self._env.timeout(0).callbacks.append(self._share_changed)
        self._changed.update(dict.fromkeys(links))

    def _share_changed(self, _: simpy.Event) -> None:
        """Give the transfers on changed links, and all connected with them, their rates."""
        changed, self._changed = self._changed, {}
        settled: set[int] = set()
        for link in changed:
            if link not in settled:
                self._share(self._neighbours(link, settled))

    def _neighbours(self, start: int, seen: set[int]) -> list[Transfer]:
        """Every transfer connected to a link through shared links, as discovered; their links join ``seen``."""
        found: dict[Transfer, None] = {}
        queue = [start]
        seen.add(start)
        while queue:
            for transfer in self._on_link[queue.pop()]:
                if transfer not in found:
                    found[transfer] = None
                    fresh = [link for link in transfer.links if link not in seen]
                    seen.update(fresh)
                    queue += fresh
        return list(found)

    def _share(self, transfers: list[Transfer]) -> None:
        """Give connected transfers their max-min fair rates by progressive filling."""
        for transfer, rate in zip(
            transfers, fair_rates(self._on_link, self.capacity_bytes_per_s, transfers), strict=True
        ):
            if rate != transfer.rate:
                self._set_rate(transfer, rate)


def fair_rates(on_link: Sequence[dict[Any, float]], capacity: Sequence[float], transfers: Sequence[Any]) -> list[float]:
    """Max-min fair rates of connected transfers.

    Fill all links together; those that are full first fix the rates of their transfers; repeat with the rest.

    Args:
        on_link: for every link, the transfers on it with their weights.
        capacity: for every link. [bytes/s]
        transfers: a connected set, each with ``links``.

    Returns:
        Rates in the order of ``transfers``. [bytes/s on the transfer's own binding link]
    """
    left: dict[int, float] = {}
    for transfer in transfers:
        for link in transfer.links:
            left.setdefault(link, capacity[link])
    open_weight = {link: sum(on_link[link].values()) for link in left}
    n_open = {link: len(on_link[link]) for link in left}
    rates: dict[Any, float] = {}
    while len(rates) < len(transfers):
        level = {link: max(left[link], 0.0) / open_weight[link] for link in left if n_open[link]}
        rate = min(level.values())
        full = [link for link, at in level.items() if at <= rate * SAME]
        for transfer in {transfer: None for link in full for transfer in on_link[link] if transfer not in rates}:
            rates[transfer] = rate
            for crossed in transfer.links:
                weight = on_link[crossed][transfer]
                left[crossed] -= rate * weight
                open_weight[crossed] -= weight
                n_open[crossed] -= 1
    return [rates[transfer] for transfer in transfers]
