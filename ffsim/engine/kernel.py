"""The fluid solver, compiled: flows with their order on shared links, event by event.

Rates are the unique max-min fair ones: a flow of level ``rate / share`` has a full link on which no level is higher, or
runs at its own cap. When flows come or go, only what can change is worked out again (`_repair`): those held back by a
link that changed are filled anew into what the others leave; whoever then turns out to be too fast or too slow joins
them, until nobody does. When that takes in much of what is under way, all that is connected with it by shared links is
filled anew.

Flows of a virtual lane are guaranteed the lane's share of every link; what lanes leave is shared by all alike.

The readable twin is `ffsim.engine.plain`. All of it stands in one file because Numba's cache goes by file; the
arrays that it works on are laid out in `ffsim.engine.records`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

WAITING, PENDING, STREAMING, DONE = 0, 1, 2, 3
NOW, WINDOW = 0, 1  # places in State.clock
N_FLOWS, N_ACTIVE, N_HEAP, N_EVENTS, N_SOLVES, N_LEFT, STAMP, N_LANES, WEIGHTED = range(9)  # places in State.count
QUEUED, TAKEN, LEFT = 0, 1, 2  # places in Work.ends
NO_LINK = -1
ZERO, ONE = np.int64(0), np.int64(1)  # typed: Numba would compile functions once more for every literal
SAME = 1e-12  # closer than rounding is one instant, one rate
CLOSE = 1e-9  # a link filled to within this is full
LOST = 1e-4  # a sum of which only so much is left is added up anew
SMALL_SET = 64  # repairing fewer flows than this is never worth giving up


@njit(cache=True)
def _sift_up(heap, flows, i):
    flow = heap[i]
    due = flows[flow].due_s
    while i > 0:
        parent = (i - 1) >> 2
        if flows[heap[parent]].due_s <= due:
            break
        heap[i] = heap[parent]
        flows[heap[i]].place = i
        i = parent
    heap[i] = flow
    flows[flow].place = i


@njit(cache=True)
def _sift_down(heap, flows, size, i):
    flow = heap[i]
    due = flows[flow].due_s
    while True:
        child = 4 * i + 1
        if child >= size:
            break
        best, soonest = child, flows[heap[child]].due_s
        for other in range(child + 1, min(child + 4, size)):
            if flows[heap[other]].due_s < soonest:
                best, soonest = other, flows[heap[other]].due_s
        if soonest >= due:
            break
        heap[i] = heap[best]
        flows[heap[i]].place = i
        i = best
    heap[i] = flow
    flows[flow].place = i


@njit(cache=True)
def _schedule(count, heap, flows, flow, due):
    """Plan the flow's next event, or move it."""
    f = flows[flow]
    if f.place < 0:
        f.due_s = due
        heap[count[N_HEAP]] = flow
        count[N_HEAP] += 1
        _sift_up(heap, flows, count[N_HEAP] - 1)
        return
    sooner = due < f.due_s
    f.due_s = due
    if sooner:
        _sift_up(heap, flows, np.int64(f.place))
    else:
        _sift_down(heap, flows, count[N_HEAP], np.int64(f.place))


@njit(cache=True)
def _pop(count, heap, flows):
    flow = heap[0]
    flows[flow].place = -1
    count[N_HEAP] -= 1
    size = count[N_HEAP]
    if size:
        heap[0] = heap[size]
        _sift_down(heap, flows, size, ZERO)
    return flow


@njit(cache=True)
def _take_due(count, heap, flows, due, horizon):
    """Take everything that is due off the heap, into ``due``: one by one, or in one go where it is much of the heap."""
    n, i = ONE, 0
    due[0] = 0
    while i < n:  # what is due stands together at the top
        for child in range(4 * due[i] + 1, min(4 * due[i] + 5, count[N_HEAP])):
            if flows[heap[child]].due_s <= horizon:
                due[n] = child
                n += 1
        i += 1
    if 8 * n < count[N_HEAP]:
        for i in range(n):
            due[i] = _pop(count, heap, flows)
        return n
    for i in range(n):
        due[i] = heap[due[i]]
        flows[due[i]].place = -1
    size = ZERO
    for i in range(count[N_HEAP]):
        if flows[heap[i]].place >= 0:
            heap[size] = heap[i]
            flows[heap[i]].place = size
            size += 1
    count[N_HEAP] = size
    for i in range((size + 2) // 4 - 1, -1, -1):
        _sift_down(heap, flows, size, i)
    return n


@njit(cache=True)
def _log(s, flow, end):
    """Add what a flow has moved since its last change to the bins of its links."""
    f = s.flow[flow]
    start, width, last = f.updated_s, s.bin_s[0], s.bins.shape[0] - 1
    end = min(end, width * s.bins.shape[0])
    b = min(int(start / width), last)
    while start < end:
        edge = end if b == last else max(start, min(end, (b + 1) * width))
        for p in range(f.first, f.stop):
            s.bins[b, s.hop[p].link] += f.rate * (s.weight[p] if s.weight.size else 1.0) * (edge - start)
        start = edge
        b += 1


@njit(cache=True)
def _enter(count, flows, hops, cells, active, flow, now):
    """Let a flow stream; its rate is still to be found."""
    f = flows[flow]
    f.phase, f.updated_s, f.rate = STREAMING, now, 0.0
    n_lanes = count[N_LANES]
    for p in range(f.first, f.stop):
        c = cells[hops[p].link * n_lanes + f.lane]
        hops[p].after = c.head
        c.head = p
        c.n_streaming += 1
    f.at = count[N_ACTIVE]
    active[f.at] = flow
    count[N_ACTIVE] += 1


@njit(cache=True)
def _leave(count, flows, hops, cells, active, flow):
    f = flows[flow]
    f.rate = 0.0
    for p in range(f.first, f.stop):
        c = cells[hops[p].link * count[N_LANES] + f.lane]
        c.n_streaming -= 1
        c.n_ended += 1
    count[N_ACTIVE] -= 1
    last = active[count[N_ACTIVE]]
    active[f.at] = last
    flows[last].at = f.at


@njit(cache=True)
def _mark_changed(flows, hops, cells, touched, flow, n_changed):
    f = flows[flow]
    for p in range(f.first, f.stop):
        c = cells[hops[p].link]
        if not c.changed:
            c.changed = 1
            touched[n_changed] = hops[p].link
            n_changed += 1
    return n_changed


@njit(cache=True)
def _push(queue, keys, n, key, what):
    """Put a group of cells (or, by a number beyond those, a capped flow) on the heap of levels."""
    i = n
    while i > 0:
        parent = (i - 1) >> 1
        if keys[parent] <= key:
            break
        queue[i], keys[i] = queue[parent], keys[parent]
        i = parent
    queue[i], keys[i] = what, key
    return n + 1


@njit(cache=True)
def _drop_first(queue, keys, n):
    n -= 1
    what, key = queue[n], keys[n]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        queue[i], keys[i] = queue[child], keys[child]
        i = child
    queue[i], keys[i] = what, key
    return n


@njit(cache=True)
def _freeze(f, hops, cells, weight, rate, per_link, by_lane):
    """Give a flow its rate and take what it needs from its links."""
    f.frozen = 1
    f.rate += rate
    for p in range(f.first, f.stop):
        c = cells[hops[p].link * per_link + f.lane * by_lane]
        w = weight[p] if weight.size else 1.0
        c.room -= rate * w
        c.demand -= f.share * w
        c.n_open -= 1


@njit(cache=True)
def _line_up(s, n_chosen, n_groups, width):
    """Add up what the chosen flows ask of every group of cells, and put groups and capped flows on the heap of levels.

    Returns the length of that heap.
    """
    flows, hops, cells, weight, queue, keys = s.flow, s.hop, s.cell, s.weight, s.queue, s.queue_key
    per_link, by_lane = s.count[N_LANES] // width, 1 if width == 1 else 0
    for i in range(n_groups):
        c = cells[s.touched[i]]
        c.demand, c.n_open = 0.0, 0
    n = ZERO
    for i in range(n_chosen):
        f = flows[s.chosen[i]]
        f.frozen = 0
        for p in range(f.first, f.stop):
            c = cells[hops[p].link * per_link + f.lane * by_lane]
            c.demand += f.share * (weight[p] if weight.size else 1.0)
            c.n_open += 1
        if f.cap < np.inf:
            n = _push(queue, keys, n, max(f.cap - f.rate, 0.0) / f.share, cells.size + s.chosen[i])
    for i in range(n_groups):
        c = cells[s.touched[i]]
        c.whole = c.demand
        if c.n_open:
            n = _push(queue, keys, n, max(c.room, 0.0) / c.demand, s.touched[i])
    return n


@njit(cache=True)
def _sum_demand(flows, hops, cells, weight, first, width, stamp):
    """Add up anew what the flows of a group ask that are still open: what is left of a difference has lost digits."""
    total = 0.0
    for cell in range(first, first + width):
        p = cells[cell].head
        while p >= 0:
            f = flows[hops[p].owner]
            if f.member == stamp and not f.frozen:
                total += f.share * (weight[p] if weight.size else 1.0)
            p = hops[p].after
    return total


@njit(cache=True)
def _fill(s, n_chosen, n_groups, width):
    """Raise the levels of the chosen flows together until each is held back by a full link or its cap.

    Groups (of ``width`` cells: a lane of a link, or a whole link) are listed in ``touched`` with their ``room``. Rates
    grow by what is found, so that a second filling can add to a first.
    """
    flows, hops, cells, weight, queue, keys = s.flow, s.hop, s.cell, s.weight, s.queue, s.queue_key
    per_link, by_lane = s.count[N_LANES] // width, 1 if width == 1 else 0
    n_cells, stamp = cells.size, s.count[STAMP]
    n = _line_up(s, n_chosen, n_groups, width)
    while n:
        what, key = queue[0], keys[0]
        n = _drop_first(queue, keys, n)
        if what >= n_cells:
            f = flows[what - n_cells]
            if not f.frozen:
                f.bottleneck = NO_LINK
                _freeze(f, hops, cells, weight, max(f.cap - f.rate, 0.0), per_link, by_lane)
            continue
        group = cells[what]
        if not group.n_open:
            continue
        if group.demand < LOST * group.whole:
            group.demand = _sum_demand(flows, hops, cells, weight, what * width, width, stamp)
            group.whole = group.demand
        level = max(group.room, 0.0) / group.demand
        if level > key * (1 + SAME):  # others have left since: look again
            n = _push(queue, keys, n, level, what)
            continue
        for cell in range(what * width, what * width + width):
            p = cells[cell].head
            while p >= 0:
                f = flows[hops[p].owner]
                if f.member == stamp and not f.frozen:
                    f.bottleneck = what // per_link
                    _freeze(f, hops, cells, weight, level * f.share, per_link, by_lane)
                p = hops[p].after


@njit(cache=True)
def _choose(flows, chosen, flow, n_chosen, stamp):
    """Add a flow to those that get new rates."""
    flows[flow].member = stamp
    chosen[n_chosen] = flow
    return n_chosen + 1


@njit(cache=True)
def _choose_all(s, n_chosen):
    stamp = s.count[STAMP]
    for i in range(s.count[N_ACTIVE]):
        if s.flow[s.active[i]].member != stamp:
            n_chosen = _choose(s.flow, s.chosen, s.active[i], n_chosen, stamp)
    return n_chosen


@njit(cache=True)
def _choose_connected(s, n_chosen):
    """Choose every flow that shares links with the chosen ones, with those that share links with these, and so on."""
    flows, hops, cells, stamp = s.flow, s.hop, s.cell, s.count[STAMP]
    i, n_links = ZERO, ZERO
    while i < n_chosen < s.count[N_ACTIVE]:
        f = flows[s.chosen[i]]
        i += 1
        for p in range(f.first, f.stop):
            c = cells[hops[p].link]
            if c.seen == stamp:
                continue
            c.seen = stamp
            s.links[n_links] = hops[p].link
            n_links += 1
            other = c.head
            while other >= 0:
                owner = flows[hops[other].owner]
                if owner.member != stamp and owner.phase == STREAMING:
                    n_chosen = _choose(flows, s.chosen, np.int64(hops[other].owner), n_chosen, stamp)
                other = hops[other].after
    for link in range(n_links):
        cells[s.links[link]].seen = 0
    return n_chosen


@njit(cache=True)
def _settle(s, first, stop):
    """Note how far the chosen flows, from one place in the list to another, have come at their old rates."""
    now = s.clock[NOW]
    for i in range(first, stop):
        if s.bins.shape[0]:
            _log(s, s.chosen[i], now)
        f = s.flow[s.chosen[i]]
        f.remaining = max(f.remaining - f.rate * (now - f.updated_s), 0.0)
        f.updated_s = now
        f.level = f.rate


@njit(cache=True)
def _list_links(flows, hops, cells, chosen, touched, n_chosen, stamp):
    """List every link of the chosen flows once."""
    n = ZERO
    for i in range(n_chosen):
        f = flows[chosen[i]]
        for p in range(f.first, f.stop):
            c = cells[hops[p].link]
            if c.seen != stamp:
                c.seen = stamp
                touched[n] = hops[p].link
                n += 1
    for i in range(n):
        cells[touched[i]].seen = 0
    return n


@njit(cache=True)
def _touch(s, n_chosen):
    """List the links of the chosen flows, with the room that the other flows leave."""
    flows, hops, cells, stamp = s.flow, s.hop, s.cell, s.count[STAMP]
    n = _list_links(flows, hops, cells, s.chosen, s.touched, n_chosen, stamp)
    for i in range(n):
        c = cells[s.touched[i]]
        c.room = s.capacity[s.touched[i]]
        p = c.head
        while p >= 0:
            f = flows[hops[p].owner]
            if f.member != stamp:
                c.room -= f.rate * (s.weight[p] if s.weight.size else 1.0)
            p = hops[p].after
    return n


@njit(cache=True)
def _all_links(s, n_chosen):
    """List the links of the chosen flows, which are all that there are, with all their room."""
    n = _list_links(s.flow, s.hop, s.cell, s.chosen, s.touched, n_chosen, s.count[STAMP])
    for i in range(n):
        s.cell[s.touched[i]].room = s.capacity[s.touched[i]]
    return n


@njit(cache=True)
def _misplaced(s, n_chosen, n_groups):
    """Choose the flows that the new rates of the chosen ones leave too fast or too slow."""
    flows, hops, stamp = s.flow, s.hop, s.count[STAMP]
    for i in range(n_groups):
        link = s.touched[i]
        used, highest, here = 0.0, 0.0, np.inf
        p = s.cell[link].head
        while p >= 0:
            f = flows[hops[p].owner]
            level = f.rate / f.share
            used += f.rate * (s.weight[p] if s.weight.size else 1.0)
            highest = max(highest, level)
            if f.bottleneck == link and f.member == stamp:
                here = min(here, level)
            p = hops[p].after
        full = used >= s.capacity[link] * (1 - CLOSE)
        p = s.cell[link].head
        while p >= 0:
            f = flows[hops[p].owner]
            if f.member != stamp and f.phase == STREAMING:
                level = f.rate / f.share
                too_slow = f.bottleneck == link and (not full or level < highest * (1 - CLOSE))
                if too_slow or level > here * (1 + CLOSE):
                    n_chosen = _choose(flows, s.chosen, np.int64(hops[p].owner), n_chosen, stamp)
            p = hops[p].after
    return n_chosen


@njit(cache=True)
def _refill(s, n_chosen, n_groups):
    for i in range(n_chosen):
        s.flow[s.chosen[i]].rate = 0.0
    _fill(s, n_chosen, n_groups, ONE)
    s.count[N_SOLVES] += 1


@njit(cache=True)
def _drop_ended(flows, hops, c):
    """Take flows that have ended out of a cell's list."""
    if c.n_streaming == 0:
        c.head, c.n_ended = -1, 0
    last, p = -1, c.head
    while c.n_ended:
        if flows[hops[p].owner].phase == STREAMING:
            last = p
        else:
            c.n_ended -= 1
            if last < 0:
                c.head = hops[p].after
            else:
                hops[last].after = hops[p].after
        p = hops[p].after


@njit(cache=True)
def _repair(s, n_chosen, n_changed):
    """Find the rates after some flows (chosen already) came and others left the changed links."""
    if s.count[N_ACTIVE] == 0:
        return ZERO
    most = max(SMALL_SET, s.count[N_ACTIVE] // 8)
    for i in range(n_changed):
        _drop_ended(s.flow, s.hop, s.cell[s.touched[i]])
        p = s.cell[s.touched[i]].head
        while p >= 0:
            f = s.flow[s.hop[p].owner]
            if f.bottleneck == s.touched[i] and f.member != s.count[STAMP]:
                n_chosen = _choose(s.flow, s.chosen, np.int64(s.hop[p].owner), n_chosen, s.count[STAMP])
            p = s.hop[p].after
    n_settled = ZERO
    while n_chosen <= most:
        _settle(s, n_settled, n_chosen)
        n_settled = n_chosen
        n_groups = _touch(s, n_chosen)
        _refill(s, n_chosen, n_groups)
        n_chosen = _misplaced(s, n_chosen, n_groups)
        if n_chosen == n_settled:
            return n_chosen
    n_chosen = _choose_connected(s, n_chosen)
    _settle(s, n_settled, n_chosen)
    _refill(s, n_chosen, _all_links(s, n_chosen))
    return n_chosen


@njit(cache=True)
def _share_lanes(s, n_chosen):
    """Find all rates where lanes have shares: first what is guaranteed, then what is left, by max-min."""
    n_lanes = s.count[N_LANES]
    n_chosen = _choose_all(s, n_chosen)
    _settle(s, ZERO, n_chosen)
    for i in range(n_chosen):
        s.flow[s.chosen[i]].rate = 0.0
    n_links = _list_links(s.flow, s.hop, s.cell, s.chosen, s.touched, n_chosen, s.count[STAMP])
    links = s.links
    links[:n_links] = s.touched[:n_links]
    n = ZERO
    for i in range(n_links):
        first, total = links[i] * n_lanes, 0.0
        for lane in range(n_lanes):
            c = s.cell[first + lane]
            _drop_ended(s.flow, s.hop, c)
            if c.n_streaming:
                total += s.lane_share[lane]
        for lane in range(n_lanes):
            c = s.cell[first + lane]
            if c.n_streaming:
                s.touched[n] = first + lane
                c.room = s.capacity[links[i]] * s.lane_share[lane] / total
                n += 1
    _fill(s, n_chosen, n, ONE)
    for i in range(n_links):
        room = s.capacity[links[i]]
        for lane in range(n_lanes):
            p = s.cell[links[i] * n_lanes + lane].head
            while p >= 0:
                room -= s.flow[s.hop[p].owner].rate * (s.weight[p] if s.weight.size else 1.0)
                p = s.hop[p].after
        s.touched[i] = links[i]
        s.cell[links[i]].room = room if room > s.capacity[links[i]] * CLOSE else 0.0
    _fill(s, n_chosen, n_links, n_lanes)
    s.count[N_SOLVES] += 1
    return n_chosen


@njit(cache=True)
def _release(count, heap, flows, flow):
    """A flow is free to begin at its ``start_s``: plan the end of its latency."""
    f = flows[flow]
    f.phase = PENDING
    _schedule(count, heap, flows, flow, f.start_s + f.latency_s)


@njit(cache=True)
def begin(s, first, stop):
    """Take in new flows: release those that wait for nobody."""
    for flow in range(first, stop):
        if s.flow[flow].waiting == 0:
            _release(s.count, s.heap, s.flow, flow)


@njit(cache=True)
def _end(count, heap, flows, successor, left, flow, end):
    """A flow is over: count it, and release whom it kept waiting. Returns whether it was the last of its batch."""
    f = flows[flow]
    f.phase, f.end_s = DONE, end
    count[N_LEFT] -= 1
    left[f.batch] -= 1
    for i in range(f.first_next, f.stop_next):
        following = flows[successor[i]]
        following.start_s = max(following.start_s, end)
        following.waiting -= 1
        if following.waiting == 0:
            _release(count, heap, flows, successor[i])
    return left[f.batch] == 0


@njit(cache=True)
def _happen(s, horizon):
    """Let everything happen that is due, and whatever becomes due by that.

    Returns newly streaming flows (in ``queue``), changed links (in ``touched``), the mean of the instants, and whether
    the last flow of a batch has ended.
    """
    count, heap, flows, hops, cells = s.count, s.heap, s.flow, s.hop, s.cell
    n_new, n_changed, n_events, total, finished = ZERO, ZERO, ZERO, 0.0, False
    while count[N_HEAP] and flows[heap[0]].due_s <= horizon:
        n_due = _take_due(count, heap, flows, s.due, horizon)
        n_events += n_due
        for i in range(n_due):
            flow = s.due[i]
            f = flows[flow]
            total += f.due_s
            if f.phase == PENDING and f.remaining > 0 and f.stop > f.first:
                s.clock[NOW] = max(s.clock[NOW], f.due_s)
                _enter(count, flows, hops, cells, s.active, flow, f.due_s)
                s.queue[n_new] = flow
                n_new += 1
                n_changed = _mark_changed(flows, hops, cells, s.touched, flow, n_changed)
                continue
            if f.phase == STREAMING:
                if s.bins.shape[0]:
                    _log(s, flow, f.due_s)
                _leave(count, flows, hops, cells, s.active, flow)
                n_changed = _mark_changed(flows, hops, cells, s.touched, flow, n_changed)
            finished |= _end(count, heap, flows, s.successor, s.left, flow, f.due_s)
    count[N_EVENTS] += n_events
    for i in range(n_changed):
        cells[s.touched[i]].changed = 0
    return n_new, n_changed, total / n_events, finished


@njit(cache=True)
def _plan_ends(s, n_chosen):
    for i in range(n_chosen):
        f = s.flow[s.chosen[i]]
        if f.place < 0 or abs(f.rate - f.level) > SAME * f.level:
            _schedule(s.count, s.heap, s.flow, s.chosen[i], s.clock[NOW] + f.remaining / f.rate)


@njit(cache=True)
def run(s, until):
    """Process events up to an instant, or until the last flow of a batch has ended.

    Returns whether a batch has.
    """
    finished = False
    while s.count[N_HEAP] and not finished:
        now = s.flow[s.heap[0]].due_s
        if now > until:
            break
        window = s.clock[WINDOW]
        n_new, n_changed, middle, finished = _happen(s, now + max(now * SAME, window))
        s.clock[NOW] = max(s.clock[NOW], middle if window > 0 else now)
        s.count[STAMP] += 1
        n_chosen = ZERO
        for i in range(n_new):
            n_chosen = _choose(s.flow, s.chosen, s.queue[i], n_chosen, s.count[STAMP])
        n_chosen = _share_lanes(s, n_chosen) if s.count[N_LANES] > 1 else _repair(s, n_chosen, n_changed)
        _plan_ends(s, n_chosen)
    return finished


@njit(cache=True)
def change_capacity(s, link, capacity):
    """Give a link another capacity, now."""
    s.capacity[link] = capacity
    s.count[STAMP] += 1
    n_chosen = _choose_all(s, ZERO)
    if s.count[N_LANES] > 1:
        n_chosen = _share_lanes(s, n_chosen)
    else:
        _settle(s, ZERO, n_chosen)
        _refill(s, n_chosen, _all_links(s, n_chosen))
    _plan_ends(s, n_chosen)


@njit(cache=True)
def _enqueue(w, task, team):
    w.queue_task[w.ends[QUEUED]] = task
    w.queue_team[w.ends[QUEUED]] = team
    w.ends[QUEUED] += 1


@njit(cache=True)
def _finish(w, task, team, end):
    """A team is done with a task: whoever waited only for that is ready."""
    w.end_s[w.first[task] + team] = end
    w.ends[LEFT] -= 1
    kind = w.kind[task]
    start, stop = w.begin[kind, team], w.begin[kind, team + 1]
    for i in range(w.next_start[task], w.next_start[task + 1]):
        following = np.int64(w.successor[i])
        first, teams = w.first[following], w.team[w.kind[following]]
        for place in range(start, stop):
            other = np.int64(teams[w.member[kind, place]])
            work = first + other
            w.start_s[work] = max(w.start_s[work], end)
            w.waiting[work] -= 1
            if w.waiting[work] == 0:
                _enqueue(w, following, other)


@njit(cache=True)
def _work_off(s, w):
    """Do what is ready: what has no links ends when it ends, ahead of the clock; messages are planned."""
    while w.ends[TAKEN] < w.ends[QUEUED]:
        task, team = np.int64(w.queue_task[w.ends[TAKEN]]), np.int64(w.queue_team[w.ends[TAKEN]])
        w.ends[TAKEN] += 1
        work, idle = w.first[task] + team, w.duration_s[w.slot[task]]
        start, flow = w.start_s[work], w.channel[task] + team
        if w.channel[task] >= 0 and w.size[flow] > 0:
            s.flow[flow].remaining = w.size[flow]
            s.flow[flow].phase = PENDING
            w.doing[flow] = task
            _schedule(s.count, s.heap, s.flow, flow, start + idle)
            continue
        if w.row[task] >= 0:
            idle *= w.pace[w.row[task], w.member[w.kind[task], w.begin[w.kind[task], team]]]
        if w.noise.size:
            idle *= w.noise[work]
        s.count[N_EVENTS] += 1
        _finish(w, task, team, start + idle)
    w.ends[QUEUED] = w.ends[TAKEN] = 0


@njit(cache=True)
def _happen_in_teams(s, w, horizon):
    """Let messages begin and end that are due, and work off what becomes ready by that.

    Returns newly streaming flows (in ``queue``) and changed links (in ``touched``). A flow may end and begin anew at
    one instant: lists are rid of it before it enters them again.
    """
    count, heap, flows, hops, cells = s.count, s.heap, s.flow, s.hop, s.cell
    n_new, n_changed = ZERO, ZERO
    while count[N_HEAP] and flows[heap[0]].due_s <= horizon:
        n_due = _take_due(count, heap, flows, s.due, horizon)
        count[N_EVENTS] += n_due
        for i in range(n_due):
            flow = s.due[i]
            f = flows[flow]
            n_changed = _mark_changed(flows, hops, cells, s.touched, flow, n_changed)
            if f.phase == PENDING:
                for p in range(f.first, f.stop):
                    _drop_ended(flows, hops, cells[hops[p].link])
                s.clock[NOW] = max(s.clock[NOW], f.due_s)
                _enter(count, flows, hops, cells, s.active, flow, f.due_s)
                s.queue[n_new] = flow
                n_new += 1
                continue
            _leave(count, flows, hops, cells, s.active, flow)
            f.phase = DONE
            task = np.int64(w.doing[flow])
            _finish(w, task, flow - w.channel[task], f.due_s)
        _work_off(s, w)
    for i in range(n_changed):
        cells[s.touched[i]].changed = 0
    return n_new, n_changed


@njit(cache=True)
def run_teams(s, w):
    """Run all tasks; what is left of ``w.ends`` waits in a circle."""
    for task in range(w.slot.size):
        for team in range(w.first[task + 1] - w.first[task]):
            if w.waiting[w.first[task] + team] == 0:
                _enqueue(w, task, team)
    _work_off(s, w)
    while s.count[N_HEAP]:
        now = s.flow[s.heap[0]].due_s
        n_new, n_changed = _happen_in_teams(s, w, now + now * SAME)
        s.clock[NOW] = max(s.clock[NOW], now)
        s.count[STAMP] += 1
        n_chosen = ZERO
        for i in range(n_new):
            n_chosen = _choose(s.flow, s.chosen, s.queue[i], n_chosen, s.count[STAMP])
        _plan_ends(s, _repair(s, n_chosen, n_changed))
