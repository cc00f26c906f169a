"""Where chunks lie: chains of targets, one on each of several nodes, and the choice among the copies of a chunk."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Ints = np.ndarray[Any, Any]
Choice = Literal["load_balance", "random"]


def chain_nodes(n_nodes: int, replicas: int, targets_per_ssd: int) -> Ints:
    """The nodes of every chain of one place in the nodes; every place holds the same chains.

    A table of ``targets_per_ssd / replicas`` runs over all nodes; in run ``m`` chain ``j`` lies on the nodes
    ``j, j + m + 1, j + 2 (m + 1), ...``, first the head. So every SSD has the same number of targets, is the head of
    the same number of chains, and no two runs pair it with the same neighbour at the same distance.

    Args:
        n_nodes: storage nodes.
        replicas: copies of a chunk.
        targets_per_ssd: a multiple of ``replicas``.

    Returns:
        ``[n_chains, replicas]``.

    Raises:
        ValueError: a node would be twice in a chain, or SSDs would hold unequal numbers of targets.

    Source: after deepseek-ai/3FS deploy/data_placement (all targets of a chain have the same place in their nodes); the
    original solves for the evenest spread of recovery traffic, which plain reads do not see.

    >>> chain_nodes(4, 2, 2).tolist()
    [[0, 1], [1, 2], [2, 3], [3, 0]]
    """
    runs = targets_per_ssd // replicas
    if runs * replicas != targets_per_ssd:
        raise ValueError(
            f"{targets_per_ssd} targets per SSD cannot hold {replicas} replicas evenly: use a multiple of {replicas}"
        )
    if (replicas - 1) * runs >= n_nodes:
        raise ValueError(
            f"{replicas} replicas with {targets_per_ssd} targets per SSD need more than {(replicas - 1) * runs} "
            f"storage nodes, and there are {n_nodes}: use fewer replicas or targets per SSD"
        )
    stride = np.repeat(np.arange(1, runs + 1), n_nodes)
    first = np.tile(np.arange(n_nodes), runs)
    nodes: Ints = (first[:, None] + stride[:, None] * np.arange(replicas)) % n_nodes
    return nodes


def choose_servers(copies: Ints, n_nodes: int, in_flight: int, choice: Choice, rng: np.random.Generator) -> Ints:
    """The node that serves each read.

    Args:
        copies: ``[n_clients, n_reads, replicas]``, nodes that hold the chunk; reads in the order they are made.
        n_nodes: storage nodes.
        in_flight: a client's reads up to so many before the one at hand are under way.
        choice: ``random``: any copy. ``load_balance``: the one whose node serves the fewest of the client's reads under
            way, any of those that do alike (3FS's default for reads).
        rng: breaks ties.

    Returns:
        ``[n_clients, n_reads]``.
    """
    n_clients, n_reads, replicas = copies.shape
    copies = rng.permuted(copies, axis=2)
    chosen = copies[:, :, 0].copy()
    if choice == "random" or replicas == 1:
        return chosen
    client = np.arange(n_clients)
    under_way = np.zeros((n_clients, n_nodes), dtype=np.int32)
    for read in range(n_reads):
        if read >= in_flight:
            under_way[client, chosen[:, read - in_flight]] -= 1
        candidates = copies[:, read]
        fewest = under_way[client[:, None], candidates].argmin(axis=1)
        chosen[:, read] = candidates[client, fewest]
        under_way[client, chosen[:, read]] += 1
    return chosen
