"""What a search for faster kernels says."""
from __future__ import annotations

import dataclasses

from .v1 import kiln_pb2


@dataclasses.dataclass(frozen=True)
class TuneProgress:
    """How a search is going. Times are seconds; kernel, step ("look", "compile", "time") and opts, its best schedule, are of what is worked on.

    tried: schedules of this kernel, tried_all: of all. first, best: the kernel at the beginning and now. model_first, model_best:
    all kernels of a run, as far as they are measured. left: of the budget. replaced: kernels that are faster than at the beginning.
    """

    kernel: str
    step: str
    opts: str
    kernels: int
    replaced: int
    tried: int
    tried_all: int
    first: float
    best: float
    model_first: float
    model_best: float
    left: float

    @staticmethod
    def _from(p: kiln_pb2.TuneProgress) -> "TuneProgress":
        return TuneProgress(p.kernel, p.step, p.opts, p.kernels, p.replaced, p.tried, p.tried_all, p.first_ns / 1e9, p.best_ns / 1e9,
                            p.model_first_ns / 1e9, p.model_best_ns / 1e9, p.left_ns / 1e9)

    def __str__(self) -> str:
        speed_up = self.model_first / self.model_best if self.model_best else 1
        return (f"{self.model_best * 1e3:.3f} ms, {speed_up:.2f}x; {self.kernel} {self.best * 1e6:.1f} us, {self.tried} tried; "
                f"{self.left:.0f} s left")


@dataclasses.dataclass(frozen=True)
class TunedKernel:
    """One kernel after a search: seconds per call before and after, the least that the device could take, the schedule in use."""

    kernel: str
    calls: int
    first: float
    best: float
    roofline: float
    tried: int
    opts: str


@dataclasses.dataclass(frozen=True)
class TuneSummary:
    """What a search came to. ended: "budget", "exhausted", or "shared" (another node has searched). failures: how many schedules failed, by cause. Times are seconds."""

    ended: str
    wall: float
    first: float
    best: float
    tried: int
    measured: int
    replaced: int
    failures: dict[str, int]
    kernels: list[TunedKernel]

    @property
    def speed_up(self) -> float:
        """How many times faster the kernels of a run are together."""
        return self.first / self.best if self.best else 1.0

    @staticmethod
    def _from(s: kiln_pb2.TuneSummary) -> "TuneSummary":
        kernels = [TunedKernel(k.kernel, k.calls, k.first_ns / 1e9, k.best_ns / 1e9, k.roofline_ns / 1e9, k.tried, k.opts)
                   for k in s.kernels]
        return TuneSummary(s.ended, s.wall_ns / 1e9, s.model_first_ns / 1e9, s.model_best_ns / 1e9, s.tried, s.measured, s.replaced,
                           {f.cause: f.count for f in s.failures}, kernels)


def request(executable: str, budget: float, seed: int) -> kiln_pb2.TuneRequest:
    """The request for a budget in seconds."""
    return kiln_pb2.TuneRequest(executable=executable, budget_ns=int(budget * 1e9), seed=seed)
