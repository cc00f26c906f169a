"""The arrays that the compiled solver works on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

FLOW = np.dtype(
    [(name, np.float64) for name in ("remaining", "rate", "due_s", "updated_s", "share", "cap", "level")]
    + [("member", np.int64)]
    + [(name, np.int32) for name in ("first", "stop", "place", "at", "bottleneck", "first_next", "stop_next", "batch")]
    + [(name, np.float64) for name in ("latency_s", "start_s", "end_s")]
    + [("waiting", np.int32), ("lane", np.int16), ("phase", np.uint8), ("frozen", np.uint8)]
)
HOP = np.dtype([("link", np.int32), ("owner", np.int32), ("after", np.int32)])
CELL = np.dtype(
    [(name, np.float64) for name in ("room", "demand", "whole")]
    + [("seen", np.int64)]
    + [(name, np.int32) for name in ("head", "n_streaming", "n_ended", "n_open", "changed")]
)


class State(NamedTuple):
    """Everything the solver knows. Arrays of flows, hops and successors may be longer than what they hold.

    Hop ``p`` is a flow on one of its links; hops of the flows streaming over a cell (a link and a lane) form a list,
    from which flows that have ended are dropped when rates on the link are next worked out.

    Attributes:
        clock, count: scalars, by the places named above.
        flow, hop, cell: records of flows, hops and cells.
        weight: of every hop, empty if all are 1.
        successor: flows that wait for others, by ``first_next`` and ``stop_next``.
        capacity: of every link. lane_share: of every lane. left: flows of every batch that have not ended.
        heap: flows by their next event. active: flows that stream. The rest up to queue_key: scratch.
        bins: what links carried in stretches of ``bin_s[0]``.
    """

    clock: Any
    count: Any
    flow: Any
    hop: Any
    cell: Any
    weight: Any
    successor: Any
    capacity: Any
    lane_share: Any
    left: Any
    heap: Any
    active: Any
    due: Any
    chosen: Any
    touched: Any
    links: Any
    queue: Any
    queue_key: Any
    bins: Any
    bin_s: Any


class Work(NamedTuple):
    """Tasks that teams of members do: what `run_teams` works off.

    Work ``first[task] + team`` is what a team does of a task. Its successors wait for every member of the team.

    Attributes:
        first: ``[n_tasks + 1]``. slot: of every task. kind: of every task, a row of ``team`` and its fellows.
        team: ``[n_kinds, n_members]`` team of every member. begin, member: members of every team, kind by kind.
        next_start, successor: tasks that wait for every task.
        channel: ``[n_tasks]`` the flow of the first team's messages, -1 without any; those of other teams follow.
        duration_s: of every slot. row, pace: ``[n_tasks]`` a row of how much longer every member takes, -1 for none.
        noise: ``[n_work]`` how much longer each takes by chance, empty for none.
        waiting: ``[n_work]``. start_s, end_s: ``[n_work]``. doing: the task that every flow does.
        size: bytes of every flow. queue_task, queue_team: what is ready. ends: places in ``queue`` and work left.
    """

    first: Any
    slot: Any
    kind: Any
    team: Any
    begin: Any
    member: Any
    next_start: Any
    successor: Any
    channel: Any
    duration_s: Any
    row: Any
    pace: Any
    noise: Any
    waiting: Any
    start_s: Any
    end_s: Any
    doing: Any
    size: Any
    queue_task: Any
    queue_team: Any
    ends: Any
