"""Every shipped schedule by name."""

from __future__ import annotations

from ffsim.schedules.controllable_memory import ONE_F_ONE_B_V, V_HALF, V_MIN
from ffsim.schedules.dualpipe import DUALPIPE, DUALPIPE_V
from ffsim.schedules.family import Family
from ffsim.schedules.gpipe import GPIPE
from ffsim.schedules.interleaved import INTERLEAVED
from ffsim.schedules.one_f_one_b import ONE_F_ONE_B
from ffsim.schedules.zero_bubble import ZB_1_5P, ZB_H1, ZB_H2
from ffsim.schedules.zero_bubble_v import ZB_V

FAMILIES = (
    GPIPE,
    ONE_F_ONE_B,
    INTERLEAVED,
    ONE_F_ONE_B_V,
    ZB_H1,
    ZB_1_5P,
    ZB_H2,
    ZB_V,
    V_HALF,
    V_MIN,
    DUALPIPE,
    DUALPIPE_V,
)
SCHEDULES: dict[str, Family] = {family.name: family for family in FAMILIES}
