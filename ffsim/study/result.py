"""The answer to a scenario: headline, range, breakdown, memory, bill and provenance, as plain rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ffsim.compute import find_kernel
from ffsim.config import Source
from ffsim.economics import Bill
from ffsim.study.scenario import Scenario
from ffsim.study.warnings import warnings_about
from ffsim.training import (
    Condition,
    Doubt,
    OperatorTable,
    StepResult,
    bubble_parts,
    combined_range,
    limits,
    operator_table,
    step_parts,
)
from ffsim.units import percent, significant

if TYPE_CHECKING:
    import pandas as pd


SCHEMA = "ffsim.result/1"
DAY_S = 86_400.0
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an answer comes from: version, fingerprint of all inputs, seed."""

    version: str
    sha256: str
    seed: int


PHASE_NAMES = {"F": "forward_s", "R": "recomputed_s", "B": "input_gradient_s", "W": "weight_gradient_s"}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A simulated pre-training run.

    Attributes:
        step: one optimizer step.
        bill: of the whole run.
        doubt: range of the step; none at depth ``bounds`` or where no ranges are wanted.
    """

    scenario: Scenario
    step: StepResult
    bill: Bill
    doubt: Doubt | None
    provenance: Provenance

    @cached_property
    def headline(self) -> dict[str, float]:
        """The figures people ask for, in SI units with the unit in the name.

        MFU and FLOP/s follow the convention of DeepSeek's papers: causal attention, no recomputation, no MTP; peak is
        the dense BF16 rate. The bill's totals include the published stages that are not simulated.
        """
        step, bill = self.step, self.bill
        inputs, layout = step.prepared.inputs, step.prepared.layout
        peak, capacity = inputs.cluster.gpu.peak["bf16"].value, inputs.cluster.gpu.memory.value
        held = max(rank.total for rank in step.prepared.memory)
        figures = {
            "step_s": step.step_s,
            "tokens_per_day": step.tokens_per_step / step.step_s * DAY_S,
            "flop_per_s_per_gpu": step.flop_per_s_per_gpu(),
            "mfu_frac": step.flop_per_s_per_gpu() / peak,
            "flop_per_s_per_gpu_noncausal": step.flop_per_s_per_gpu(causal=False),
            "mfu_noncausal_frac": step.flop_per_s_per_gpu(causal=False) / peak,
            "peak_memory_bytes": held,
            "memory_margin_bytes": capacity - held,
            "memory_margin_frac": 1 - held / capacity,
            "gpus": float(layout.gpus),
            "gpu_hours_per_ttoken": bill.gpu_hours / inputs.spec.tokens * 1e12,
            "gpu_hours": bill.gpu_hours,
            "days": bill.days,
            "days_per_ttoken": bill.days / inputs.spec.tokens * 1e12,
            "cost_usd": bill.cost_usd,
            "total_gpu_hours": bill.total_gpu_hours,
            "total_cost_usd": bill.total_cost_usd,
            "energy_j": bill.energy_j,
            "energy_cost_usd": bill.energy_cost_usd,
        }
        if step.breakdown is not None:
            exposed = {row["path"]: row["seconds"] for row in self.exposed()}
            figures["bubble_s"] = exposed["step/bubble"]
            figures["exposed_communication_s"] = sum(
                seconds for path, seconds in exposed.items() if path.startswith("step/exposed/")
            )
        return figures

    @cached_property
    def range(self) -> dict[str, dict[str, float]]:
        """Low and high of every figure that rests on inputs with ranges; at depth ``bounds`` those of prices and power.

        Money and energy vary with the step and with prices, power and PUE, all taken as independent.
        """
        h, doubt, bill = self.headline, self.doubt, self.bill
        fast, slow = (doubt.low_s / self.step.step_s, doubt.high_s / self.step.step_s) if doubt else (1.0, 1.0)
        ranges: dict[str, tuple[float, float]] = {}
        if doubt is not None:
            rising = ("step_s", "gpu_hours_per_ttoken", "gpu_hours", "days", "days_per_ttoken")
            rates = ("flop_per_s_per_gpu", "mfu_frac", "flop_per_s_per_gpu_noncausal", "mfu_noncausal_frac")
            ranges |= {name: (h[name] * fast, h[name] * slow) for name in rising}
            ranges |= {name: (h[name] / slow, h[name] / fast) for name in ("tokens_per_day", *rates)}
            ranges["peak_memory_bytes"] = (doubt.peak_low_bytes, doubt.peak_high_bytes)
            capacity = self.step.prepared.inputs.cluster.gpu.memory.value
            margins = (capacity - doubt.peak_high_bytes, capacity - doubt.peak_low_bytes)
            ranges["memory_margin_bytes"] = margins
            ranges["memory_margin_frac"] = (margins[0] / capacity, margins[1] / capacity)
            others = h["total_gpu_hours"] - h["gpu_hours"]
            ranges["total_gpu_hours"] = (h["gpu_hours"] * fast + others, h["gpu_hours"] * slow + others)
        published = h["total_cost_usd"] - h["cost_usd"]
        for name, fixed, figures in (
            ("cost_usd", 0.0, bill.cost_figures),
            ("total_cost_usd", published, bill.cost_figures),
            ("energy_j", 0.0, bill.energy_figures),
            ("energy_cost_usd", 0.0, bill.energy_cost_figures),
        ):
            simulated = h[name] - fixed
            ends = [(simulated * fast + fixed, simulated * slow + fixed)]
            ends += [
                (h[name] * low / figure.value, h[name] * high / figure.value)
                for figure in figures
                if figure.value
                for low, high in (figure.bounds,)
            ]
            ranges[name] = combined_range(h[name], ends)
        return {name: {"low": low, "high": high} for name, (low, high) in ranges.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about this answer that its range does not cover."""
        return warnings_about(self.step, self.doubt)

    def exposed(self) -> list[Row]:
        """Where the step goes, mean over pipeline ranks: every instant has one cause; the leaves sum to the step."""
        breakdown = self.step.breakdown
        if breakdown is None:
            return []
        return [
            {
                "path": f"step/{name}",
                "seconds": float(np.mean(values)),
                "frac": float(np.mean(values)) / self.step.step_s,
            }
            for name, values in breakdown.exposed.items()
            if values.any() or name == "bubble"
        ]

    def busy(self) -> list[Row]:
        """How long each activity is under way, mean over pipeline ranks; overlap is counted twice."""
        breakdown = self.step.breakdown
        if breakdown is None:
            return []
        return [
            {"activity": name, "seconds": float(np.mean(values)), "frac": float(np.mean(values)) / self.step.step_s}
            for name, values in sorted(breakdown.busy.items())
        ]

    def operations(self) -> list[Row]:
        """Time in schedule operations by kind (forward, backward, its halves, overlapped pair), mean over ranks."""
        breakdown = self.step.breakdown
        if breakdown is None:
            return []
        names = {
            "F": "forward",
            "B": "backward",
            "Bi": "input gradient",
            "W": "weight gradient",
            "FB": "overlapped pair",
        }
        return [
            {"operation": names[kind], "seconds": float(np.mean(values))}
            for kind, values in breakdown.operations.items()
        ]

    @cached_property
    def parts(self) -> dict[str, float]:
        """The step as DeepSeek published it of V3: operations by kind, bubble, optimizer. Empty at depth ``bounds``."""
        return step_parts(self.step)

    def bubble(self) -> list[Row]:
        """Where the bubble comes from, mean over pipeline ranks; the causes sum to ``parts.bubble_s``."""
        return [{"cause": cause, "seconds": seconds} for cause, seconds in bubble_parts(self.step).items()]

    def memory(self) -> list[Row]:
        """Bytes per GPU by pipeline rank, its stages and kind."""
        return [
            {"rank": rank.rank, "stages": list(rank.stages), "kind": kind, "bytes": size}
            for rank in self.step.prepared.memory
            for kind, size in rank.by_kind.items()
        ]

    def stages(self) -> list[Row]:
        """What every pipeline stage holds."""
        return [
            {
                "stage": number,
                "first_layer": stage.layers[0],
                "layers": stage.layers[1] - stage.layers[0],
                "pieces": list(stage.pieces),
            }
            for number, stage in enumerate(self.step.prepared.stages)
        ]

    def operator_table(self, condition: Condition | None = None) -> OperatorTable:
        """The operators of one pass over each piece; where most passes run, or alone or beside communication."""
        return operator_table(self.step.prepared, condition)

    def operators(self) -> list[Row]:
        """Shape, work, time and share of the roofline of every operator, where most passes run."""
        return self.operator_table().rows()

    def passes(self) -> dict[str, Row]:
        """Kernel seconds of one pass over each piece of the model, by phase, where most passes run."""
        found: dict[str, Row] = {}
        for row in self.operator_table().totals():
            found.setdefault(row["piece"], {})[PHASE_NAMES[row["phase"]]] = row["seconds"]
        return found

    def sensitivities(self) -> list[Row]:
        """What step and peak memory become when each uncertain input moves to the ends of its range.

        Largest effect on the step first; inputs that move neither are left out.
        """
        if self.doubt is None:
            return []
        return [
            {
                "input": row.name,
                "value": row.value,
                "low": row.low,
                "high": row.high,
                "step_at_low_s": row.step_at_low_s,
                "step_at_high_s": row.step_at_high_s,
                "peak_memory_at_low_bytes": row.peak_at_low_bytes,
                "peak_memory_at_high_bytes": row.peak_at_high_bytes,
                "source": str(row.source),
            }
            for row in self.doubt.sensitivities
        ]

    @cached_property
    def limits(self) -> dict[str, float]:
        """Share of the step that each resource, 10 % faster, would save; most first. Empty at depth ``bounds``."""
        if self.step.timeline is None:
            return {}
        return {limit.resource: limit.saved_frac for limit in limits(self.step)}

    def explain(self) -> str:
        """One sentence: which resource holds up the step, and by how much it is ahead of the next."""
        if not self.limits:
            return "Nothing was simulated, so nothing is known about what holds up the step: use depth folded or full."
        (first, saved), (second, less) = list(self.limits.items())[:2]
        return (
            f"The step is held up first by {first} (10 % faster saves {percent(saved, 2)}), "
            f"then by {second} ({percent(less, 2)})."
        )

    def sources(self) -> list[Row]:
        """Sources of the main inputs."""
        inputs = self.step.prepared.inputs
        cluster, model = inputs.cluster, inputs.model
        named: dict[str, Source] = {
            "GPU peak rate (BF16)": cluster.gpu.peak["bf16"].source,
            "GPU memory bandwidth": cluster.gpu.memory_bandwidth.source,
            "NIC usable share": cluster.nic.usable_share.source,
            "node power": cluster.spec.nodes.power.source,
            "rental price": cluster.spec.rental.source,
            "PUE": cluster.spec.pue.source,
            "energy price": cluster.spec.energy_price.source,
            "model": model.source,
            "precision": inputs.precision.source,
            "attention kernels": find_kernel(inputs.profile, "attention_forward", "bf16").fit.source,
            "expert kernels beside computing": inputs.kernels.beside_compute_share.source,
        }
        if inputs.expert_tokens is not None:
            named["expert loads"] = inputs.expert_tokens.source
        for dtype in inputs.profile.formats("gemm"):
            named[f"{dtype} products"] = find_kernel(inputs.profile, "gemm", dtype).fit.source
        return [{"input": name, "source": str(source)} for name, source in named.items()]

    def to_dict(self) -> Row:
        """Everything as plain data: what ``--format json`` prints."""
        bounds = self.step.bounds
        prepared = self.step.prepared
        return {
            "schema": SCHEMA,
            "scenario": {
                "cluster": prepared.inputs.cluster.name,
                "workload": self.scenario.workload,
                "set": list(self.scenario.overrides),
                "depth": self.scenario.depth,
                "seed": self.scenario.seed,
            },
            "headline": self.headline,
            "parts": self.parts,
            "bounds": {"step_s": {"lower": bounds.lower, "upper": bounds.upper}},
            "range": self.range,
            "warnings": list(self.warnings),
            "breakdown": {"exposed": self.exposed(), "busy": self.busy(), "operations": self.operations()},
            "memory": self.memory(),
            "stages": self.stages(),
            "bill": [
                {"name": line.name, "gpu_hours": line.gpu_hours, "simulated": line.simulated}
                for line in self.bill.lines
            ],
            "sensitivity": self.sensitivities(),
            "passes": self.passes(),
            "operator_time_basis": prepared.times.basis_share,
            "events": self.step.n_events,
            "provenance": {
                "ffsim_version": self.provenance.version,
                "scenario_sha256": self.provenance.sha256,
                "seed": self.provenance.seed,
                "sources": self.sources(),
            },
        }

    def frame(self, table: str) -> pd.DataFrame:
        """One of the tables as a frame: exposed, busy, operations, operators, memory, stages, sensitivities."""
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks need

        return pd.DataFrame(getattr(self, table)())

    def __repr__(self) -> str:
        headline = self.headline
        return (
            f"RunResult({self.scenario.workload} on {self.step.prepared.inputs.cluster.name}: "
            f"step {headline['step_s']:.3f} s, MFU {headline['mfu_frac']:.1%}, {headline['cost_usd'] / 1e6:.3f} MUSD)"
        )

    def _repr_html_(self) -> str:
        import pandas as pd  # noqa: PLC0415

        ranges = self.range
        rows = [
            {
                "figure": name,
                "value": significant(value),
                "low": significant(ranges[name]["low"]) if name in ranges else "",
                "high": significant(ranges[name]["high"]) if name in ranges else "",
            }
            for name, value in self.headline.items()
        ]
        table: str = pd.DataFrame(rows).to_html(index=False)
        return f"<p><code>{escape(repr(self))}</code></p>{table}"
