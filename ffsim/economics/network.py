"""What a network costs: switches and the cables between them."""

from __future__ import annotations

from dataclasses import dataclass

from ffsim.errors import ModelDomainError, Problem
from ffsim.hardware import Switch
from ffsim.topology import NetworkCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCost:
    """What a network costs, with the range that the ranges of its two prices give.

    Attributes:
        switches_usd, links_usd: the parts of ``cost_usd``.
        cost_per_endpoint_usd: of one port for a node.
    """

    switches_usd: float
    links_usd: float
    cost_usd: float
    low_usd: float
    high_usd: float
    cost_per_endpoint_usd: float


def network_cost(counts: NetworkCounts, switch: Switch) -> NetworkCost:
    """Price a network of one sort of switch.

    cost = switches * price + links between switches * link price.

    Args:
        counts: of a wired cluster (``Topology.counts().network``) or of the largest of its kind (``full_network``).
        switch: with its prices.

    Raises:
        ModelDomainError: the switch has no prices, or the network no end points.

    Domain: the way arXiv 2505.09343 Table 3 compares networks: NICs and their cables are part of the nodes, and all
    cables between switches cost the same, however long.
    """
    if switch.price is None or switch.link_price is None:
        raise ModelDomainError(
            Problem(
                where=switch.title,
                what="has no prices",
                fix="add price and link_price to its file, such as those of ndr-64x400g",
            )
        )
    if counts.endpoints < 1:
        raise ModelDomainError(Problem(what="a network without end points has no cost per end point"))
    switches_usd = counts.switches * switch.price.value
    links_usd = counts.interswitch_links * switch.link_price.value
    low, high = (
        counts.switches * price + counts.interswitch_links * link
        for price, link in zip(switch.price.bounds, switch.link_price.bounds, strict=True)
    )
    cost = switches_usd + links_usd
    return NetworkCost(
        switches_usd=switches_usd,
        links_usd=links_usd,
        cost_usd=cost,
        low_usd=low,
        high_usd=high,
        cost_per_endpoint_usd=cost / counts.endpoints,
    )
