"""The analytic model's first choice among the schedules that the tuner timed, beside the best of them."""
from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import tempfile

import serving
from gpu_bench import Case, graph_of, timings

FEWEST = 8  # schedules that were timed: of fewer the best says nothing
GOAL = 0.95


@dataclasses.dataclass
class Choice:
    name: str
    timed: int
    best_ns: int
    first_ns: int  # of what was expected to be the best
    expected_ns: int

    @property
    def share(self) -> float:
        return self.best_ns / self.first_ns


def tool() -> str | None:
    for folder in (serving.BIN, serving.ROOT / "build/release/tests"):
        if os.access(folder / "bench_ranking", os.X_OK):
            return str(folder / "bench_ranking")
    return None


def choice(case: Case, kernels: list) -> Choice | None:
    """kernels: of exe.explain(tried=...) after a search."""
    kernel, program = max(kernels, key=lambda k: k.flops), tool()
    timed = timings(kernel)
    if not program or len(timed) < FEWEST:
        return None
    with tempfile.NamedTemporaryFile(suffix=".kgraph") as model:
        model.write(graph_of(case, 1).serialize())
        model.flush()
        command = [program, model.name] + (["--fast-math"] if case.fast_math else [])
        answer = subprocess.run(command, input="\n".join(timed) + "\n", capture_output=True, text=True, check=True)
    expected = [(ns, opts) for opts, ns in zip(timed, map(int, answer.stdout.split())) if ns]
    if not expected:
        return None
    ns, first = min(expected)
    return Choice(case.name, len(timed), min(timed.values()), timed[first], ns)


def table(choices: list[Choice]) -> None:
    if not choices:
        return
    print("\n| the model's first choice | schedules timed | best us | first choice us | expected us | share |\n|---|---|---|---|---|---|")
    for c in choices:
        print(f"| {c.name} | {c.timed} | {c.best_ns / 1000:.1f} | {c.first_ns / 1000:.1f} | {c.expected_ns / 1000:.1f} | {c.share:.2f} |")
    mean = math.exp(sum(math.log(c.share) for c in choices) / len(choices))
    print(f"ranking: {len(choices)} shapes, geometric mean {mean:.3f} (goal {GOAL}), least {min(c.share for c in choices):.2f}", flush=True)
