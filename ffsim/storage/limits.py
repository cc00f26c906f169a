"""What the links would let pass if reads were spread perfectly and always enough of them under way."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.engine.plain import fair_rates
from ffsim.storage.paths import MEMORY, RESOURCES, ReadPaths

Floats = np.ndarray[Any, Any]
Ints = np.ndarray[Any, Any]


def saturated_rates(paths: ReadPaths) -> Floats:
    """Max-min fair rates of clients that each read from all servers alike, without a pause.

    Returns:
        ``[n_clients]``. [bytes/s]
    """
    client, link, weight = _expected_loads(paths)
    n = paths.n_clients
    return fair_rates(client, link, weight, np.ones(n), np.full(n, np.inf), paths.capacity_bytes_per_s)[0]


def upper_bounds(paths: ReadPaths) -> dict[str, float]:
    """The most that clients can read together, limited by one resource at a time, each client free to choose its rate.

    Every server gives a client the same, as random placement does on average. A linear program for every resource:
    largest sum of the clients' rates so that no link of the resource is overfull.

    Returns:
        Bytes/s by resource, and by all of them (``all``).
    """
    from scipy.optimize import linprog  # noqa: PLC0415 - a third of a second that only this needs
    from scipy.sparse import coo_matrix  # noqa: PLC0415

    client, link, weight = _expected_loads(paths)
    used, row = np.unique(link, return_inverse=True)
    scale = float(paths.capacity_bytes_per_s.max())  # keeps the solver's numbers near 1
    share = weight * scale / paths.capacity_bytes_per_s[link]
    loads = coo_matrix((share, (row, client)), shape=(len(used), paths.n_clients)).tocsr()
    bounds: dict[str, float] = {}
    for number, name in [*enumerate(RESOURCES), (len(RESOURCES), "all")]:
        rows = np.flatnonzero(paths.resource[used] == number) if name != "all" else np.arange(len(used))
        if len(np.unique(loads[rows].nonzero()[1])) < paths.n_clients:
            continue  # some client does not cross this resource: it sets no bound
        aim, most = -np.ones(paths.n_clients), np.ones(len(rows))
        found = linprog(aim, A_ub=loads[rows], b_ub=most)  # type: ignore[call-overload]  # stubs know no sparse arrays
        bounds[name] = float(-found.fun) * scale
    return bounds


def _expected_loads(paths: ReadPaths) -> tuple[Ints, Ints, Floats]:
    """Client, link and bytes on that link per byte read, for every link that a client's reads cross.

    All SSDs carry the same, and so do all memories: one of each stands for all.
    """
    hops = np.diff(paths.ways.start)
    client = np.repeat(np.arange(len(hops)) // paths.n_servers, hops)
    key, place = np.unique(client * len(paths.resource) + paths.ways.values, return_inverse=True)
    weight = np.bincount(place, paths.weight) / paths.n_servers
    client, link = np.divmod(key, len(paths.resource))
    kept = (paths.resource[link] != MEMORY) | (link == link[paths.resource[link] == MEMORY].min(initial=2**62))
    every = np.arange(paths.n_clients)
    per_ssd = paths.ssd_weight / paths.n_servers / paths.ssds_per_server
    client = np.append(client[kept], every)
    link = np.append(link[kept], np.full(len(every), paths.first_ssd))
    weight = np.append(weight[kept], np.full(len(every), per_ssd))
    order = np.argsort(client, kind="stable")
    return client[order], link[order], weight[order]
