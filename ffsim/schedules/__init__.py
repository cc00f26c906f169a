"""Pipeline schedules as data, their closed forms, and a replay."""

from ffsim.schedules.bubbles import (
    OpTimes,
    dualpipe_bubble,
    dualpipe_v_bubble,
    one_f_one_b_bubble,
    v_half_bubble,
    v_min_bubble,
    zb1p_bubble,
    zb_bubble,
    zb_v_bubble,
)
from ffsim.schedules.catalogue import SCHEDULES
from ffsim.schedules.controllable_memory import one_f_one_b_v, v_half, v_min
from ffsim.schedules.data import Schedule
from ffsim.schedules.dualpipe import dualpipe, dualpipe_v
from ffsim.schedules.family import UNIT_TIMES, Family
from ffsim.schedules.gpipe import gpipe
from ffsim.schedules.interleaved import interleaved
from ffsim.schedules.list_scheduler import ListSchedule, Task, list_schedule
from ffsim.schedules.one_f_one_b import one_f_one_b
from ffsim.schedules.ops import Message, Op
from ffsim.schedules.replay import MessagePlan, Messages, Replay, fixed_costs, plan_messages, replay
from ffsim.schedules.zero_bubble import zero_bubble
from ffsim.schedules.zero_bubble_v import zero_bubble_v

__all__ = [
    "SCHEDULES",
    "UNIT_TIMES",
    "Family",
    "ListSchedule",
    "Message",
    "MessagePlan",
    "Messages",
    "Op",
    "OpTimes",
    "Replay",
    "Schedule",
    "Task",
    "dualpipe",
    "dualpipe_bubble",
    "dualpipe_v",
    "dualpipe_v_bubble",
    "fixed_costs",
    "gpipe",
    "interleaved",
    "list_schedule",
    "one_f_one_b",
    "one_f_one_b_bubble",
    "one_f_one_b_v",
    "plan_messages",
    "replay",
    "v_half",
    "v_half_bubble",
    "v_min",
    "v_min_bubble",
    "zb1p_bubble",
    "zb_bubble",
    "zb_v_bubble",
    "zero_bubble",
    "zero_bubble_v",
]
