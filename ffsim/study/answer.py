"""From a question to its answer: simulate, bill and doubt a scenario."""

from __future__ import annotations

from ffsim._version import __version__
from ffsim.economics import Bill, bill
from ffsim.study.result import Provenance, RunResult
from ffsim.study.scenario import Scenario, fingerprint, load
from ffsim.training import StepResult, doubt, prepare, simulate


def run(scenario: Scenario) -> RunResult:
    """Simulate a scenario.

    Raises:
        ScenarioError: something wrong with its files.
        ModelDomainError: something in it is not modelled.
        InfeasiblePlan: the plan does not divide or does not fit.

    >>> result = run(Scenario(cluster="h800-2048", workload="deepseek-v3-pretrain", depth="bounds"))
    >>> 15 < result.step.step_s < 20
    True
    """
    inputs = load(scenario)
    step = simulate(prepare(inputs), scenario.depth, scenario.seed)
    return RunResult(
        scenario=scenario,
        step=step,
        bill=_bill(step),
        doubt=doubt(step) if scenario.ranges and scenario.depth != "bounds" else None,
        provenance=Provenance(version=__version__, sha256=fingerprint(inputs, scenario), seed=scenario.seed),
    )


def _bill(step: StepResult) -> Bill:
    inputs = step.prepared.inputs
    seconds = inputs.spec.tokens / step.tokens_per_step * step.step_s
    others = [(stage.name, stage.gpu_time) for stage in inputs.spec.other_stages]
    return bill(inputs.cluster, step.prepared.layout.gpus, seconds, inputs.spec.title, others)
