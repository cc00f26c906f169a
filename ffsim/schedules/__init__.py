"""Pipeline schedules as data, their closed forms, and a replay."""

from ffsim.schedules.bubbles import (
    OpTimes,
    dualpipe_bubble,
    dualpipe_v_bubble,
    one_f_one_b_bubble,
    zb1p_bubble,
)
from ffsim.schedules.data import Family, Message, Op, Schedule
from ffsim.schedules.dualpipe import DUALPIPE, DUALPIPE_V, dualpipe, dualpipe_v
from ffsim.schedules.one_f_one_b import ONE_F_ONE_B, one_f_one_b
from ffsim.schedules.replay import MessagePlan, Messages, Replay, fixed_costs, plan_messages, replay

SCHEDULES: dict[str, Family] = {"1f1b": ONE_F_ONE_B, "dualpipe": DUALPIPE, "dualpipev": DUALPIPE_V}

__all__ = [
    "SCHEDULES",
    "Family",
    "Message",
    "MessagePlan",
    "Messages",
    "Op",
    "OpTimes",
    "Replay",
    "Schedule",
    "dualpipe",
    "dualpipe_bubble",
    "dualpipe_v",
    "dualpipe_v_bubble",
    "fixed_costs",
    "one_f_one_b",
    "one_f_one_b_bubble",
    "plan_messages",
    "replay",
    "zb1p_bubble",
]
