"""What the benchmarks of a GPU share: cases, how both sides are timed, and the table.

A case is a graph of copies of one thing on different inputs, run as one plan by Kiln and as one CUDA graph by PyTorch, so that neither
side's time holds the host's. There are enough copies for half a millisecond and enough inputs that they do not fit in the second level
cache; results lie in states, which stay where they are. Kiln's time is that of the run on the device, which kilnd reports, PyTorch's
is that of a replay between two events, each divided by the copies. Sides take turns; a number is the median of the turns' medians, a ratio
that of the turns' ratios (above 1: Kiln is faster). Every answer is compared.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import math
import os
import signal
import statistics
import sys
import time
import warnings
from typing import Any, Callable

import ml_dtypes
import numpy as np

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", part) for part in ("", "model", "bench")]
import kiln
import serving
from kiln import _codec

try:
    import torch
    import torch.nn.attention
except ImportError:  # Kiln's half runs without
    torch = None

NUMPY = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
FLOPS = {"f32": 5e13, "f16": 6e14, "bf16": 6e14}  # a second, about: for the number of copies alone
BYTES = 2.7e12
TOLERANCE = {"f32": 1e-4, "f16": 4e-3, "bf16": 2e-2}  # of the largest element
LEAST_US, MOST_COPIES, ALL_INPUTS = 500, 128, 150e6


@dataclasses.dataclass(frozen=True)
class Goal:
    """Ratios to the peer that are wanted, or microseconds."""

    heuristic: float
    tuned: float
    in_us: bool = False

    def __str__(self) -> str:
        return f"{self.heuristic:g} / {self.tuned:g}{' us' if self.in_us else ''}"

    def missed(self, which: str, us: float, ratio: float | None) -> bool:
        want = getattr(self, which)
        return us > want if self.in_us else ratio is not None and round(ratio, 2) < want


@dataclasses.dataclass
class Case:
    """build(g, *inputs) is Kiln's form of it, each of peers, by name, PyTorch's: the fastest counts. flops: of one, for those that are bound by
    them. per: how many things of which the time is wanted are in one. copies: None for as many as needed."""

    name: str
    inputs: list[tuple[tuple[int, ...], str]]
    build: Callable[..., Any]
    peers: dict[str, Callable[..., Any]]
    goal: Goal | None = None
    flops: float = 0
    per: int = 1
    copies: int | None = None
    fast_math: bool = False
    tolerance: float | None = None
    scale: float = 1.0  # of the numbers

    @property
    def dtype(self) -> str:
        return self.inputs[0][1]


# -- inputs -------------------------------------------------------------------------------------------------------------------------

_numbers: dict[str, np.ndarray] = {}


def array(shape: tuple[int, ...], dtype: str, place: int, scale: float) -> np.ndarray:
    """Normal numbers, other ones for every place."""
    if "f32" not in _numbers:
        _numbers["f32"] = np.random.default_rng(0).standard_normal(4194301, np.float32)
    key = f"{dtype} {scale}"
    if key not in _numbers:
        _numbers[key] = (_numbers["f32"] * np.float32(scale)).astype(NUMPY[dtype])
    return np.resize(np.roll(_numbers[key], place * 65537) if place else _numbers[key], shape)


def tensor(a: np.ndarray, device: str) -> Any:
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(a.view(np.int16)).to(device).view(torch.bfloat16)
    return torch.from_numpy(a).to(device)


# -- Kiln ---------------------------------------------------------------------------------------------------------------------------


def inputs_of(case: Case, place: int) -> list[np.ndarray]:
    return [array(shape, dtype, place * len(case.inputs) + i, case.scale) for i, (shape, dtype) in enumerate(case.inputs)]


def nodes_of(g: kiln.Graph, case: Case, copy: int) -> list[Any]:
    return [g.param(f"x{copy}_{i}", dtype, shape) for i, (shape, dtype) in enumerate(case.inputs)]


def graph_of(case: Case, copies: int) -> kiln.Graph:
    g = kiln.Graph()
    for c in range(copies):
        y = case.build(g, *nodes_of(g, case, c))
        g.assign(g.param(f"y{c}", case.dtype, y.shape, state=True), y)
    return g


def copies_of(case: Case, args: argparse.Namespace) -> tuple[int, int]:
    """(how often it is in a graph, how many inputs these have together)"""
    g = kiln.Graph()
    result = case.build(g, *nodes_of(g, case, 0)).shape, case.dtype
    size = sum(math.prod(shape) * np.dtype(NUMPY[dtype]).itemsize for shape, dtype in [*case.inputs, result])
    about = 3 + 1e6 * max(case.flops / FLOPS[case.dtype], size / BYTES)
    most = MOST_COPIES if args.device.startswith("cuda") else 2
    copies = case.copies or min(max(math.ceil(LEAST_US / about), math.ceil(ALL_INPUTS / size), 2), most)
    return copies, min(max(math.ceil(ALL_INPUTS / size), 1), copies)


def run_us(client: kiln.Client, exe: kiln.Executable, request: Any) -> float:
    """The response's own time of a run that leaves its outputs in buffers, which the client does not show."""
    response = client._stub.Run(request)
    for b in _codec.run_outputs(response, exe.outputs, lambda *a: kiln.Buffer(client, *a)).values():
        b.free()
    return response.device_ns / 1000


class Ours:
    """Copies of a case as one executable."""

    def __init__(self, client: kiln.Client, case: Case, args: argparse.Namespace):
        self.client, self.case, self.device = client, case, args.device
        self.copies, self.places = copies_of(case, args)
        options = kiln.Options(device=args.device, fast_math=case.fast_math)
        self.exe = client.compile(graph_of(case, self.copies), options=options)
        self.kernels = self.exe.report()["kernels"] / self.copies
        self.buffers: dict[str, kiln.Buffer] = {}

    def load(self) -> None:
        sets = [[self.client.upload(a, device=self.device) for a in inputs_of(self.case, p)] for p in range(self.places)]
        self.buffers = {f"x{c}_{i}": b for c in range(self.copies) for i, b in enumerate(sets[c % self.places])}
        self.buffers.update(self.exe.state())
        self.request = _codec.run_request(self.exe.executable_id, self.buffers, None, self.exe.inputs)
        self.times(3)

    def times(self, n: int) -> list[float]:
        return [run_us(self.client, self.exe, self.request) / self.copies / self.case.per for _ in range(n)]

    def answer(self) -> np.ndarray:
        return self.buffers[f"y{self.copies - 1}"].numpy()

    def schedule(self) -> str:
        return "; ".join(f"{k.calls}x {k.opts}" for k in self.exe.explain())

    def close(self) -> None:
        for b in {b.buffer_id: b for b in self.buffers.values()}.values():
            b.free()
        self.exe.release()


# -- PyTorch ------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_most(seconds: float):
    """Compiling may take long: then there is one peer less."""
    def stop(*_):
        raise TimeoutError(f"more than {seconds:.0f} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def event_us(call: Callable[[], Any]) -> float:
    """Between two events around what the call queues."""
    a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    a.record()
    call()
    b.record()
    torch.cuda.synchronize()
    return a.elapsed_time(b) * 1000


def clock_us(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


class Theirs:
    """The same copies in one CUDA graph for each form; the fastest is timed."""

    def __init__(self, case: Case, ours: Ours, args: argparse.Namespace):
        self.case, self.copies, self.best, self.failed = case, ours.copies, None, []
        self.on_gpu = args.device.startswith("cuda")
        device = "cuda" if self.on_gpu else "cpu"
        if not self.on_gpu:
            torch.set_num_threads(1)
        self.sets = [[tensor(a, device) for a in inputs_of(case, p)] for p in range(ours.places)]
        torch.set_float32_matmul_precision("high" if case.fast_math else "highest")
        found = []
        for name, call in case.peers.items():
            try:
                with at_most(args.patience), torch.no_grad():
                    play, result = self.recorded(call)
                    found.append((statistics.median(self.times(4, play)), name, play, result))
            except Exception as e:  # a form that this PyTorch does not have for this case
                self.failed.append(f"{name}: {type(e).__name__} {str(e).splitlines()[0] if str(e) else ''}"[:160])
        if found:
            _, self.best, self.play, self.result = min(found, key=lambda f: f[0])

    def recorded(self, call: Callable[..., Any]) -> tuple[Callable[[], Any], Any]:
        def all_copies():
            return [call(*self.sets[c % len(self.sets)]) for c in range(self.copies)]
        if not self.on_gpu:
            return all_copies, all_copies()[-1]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                call(*self.sets[0])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            results = all_copies()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay, results[-1]

    def times(self, n: int, play: Callable[[], Any] | None = None) -> list[float]:
        took = event_us if self.on_gpu else clock_us
        return [took(play or self.play) / self.copies / self.case.per for _ in range(n)]

    def error(self, answer: np.ndarray) -> float:
        """The largest difference beside the largest value."""
        want = self.result.float()
        got = tensor(np.ascontiguousarray(answer), str(want.device)).float().reshape(want.shape)
        return float((got - want).abs().max() / want.abs().max().clamp(min=1e-30))


# -- one case -----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Result:
    case: Case
    us: float
    ratio: float | None
    peer_us: float | None
    error: float | None
    tuned_us: float | None = None
    tuned_ratio: float | None = None
    kernels: list = dataclasses.field(default_factory=list)  # as explained after a search

    def missed(self) -> str:
        goal = self.case.goal
        which = [("heuristic", self.us, self.ratio)] + ([("tuned", self.tuned_us, self.tuned_ratio)] if self.tuned_us else [])
        return ", ".join(w for w, us, ratio in which if goal and goal.missed(w, us, ratio))


def in_turns(ours: Ours, theirs: Theirs | None, args: argparse.Namespace) -> tuple[float, float | None, float | None]:
    """(Kiln's time, the peer's, the ratio)"""
    pairs = []
    for _ in range(args.turns):
        a = statistics.median(ours.times(args.rounds))
        b = statistics.median(theirs.times(args.rounds)) if theirs and theirs.best else None
        pairs.append((a, b))
    us = statistics.median(a for a, _ in pairs)
    if pairs[0][1] is None:
        return us, None, None
    return us, statistics.median(b for _, b in pairs), statistics.median(b / a for a, b in pairs)


def measure(ours: Ours, args: argparse.Namespace, wrong: list[str]) -> Result:
    case = ours.case
    ours.load()
    theirs = Theirs(case, ours, args) if args.peer else None
    if theirs and theirs.failed and args.verbose:
        print(f"  {case.name}: {'; '.join(theirs.failed)}", flush=True)
    us, peer_us, ratio = in_turns(ours, theirs, args)
    r = Result(case, us, ratio, peer_us, theirs.error(ours.answer()) if theirs and theirs.best else None)
    summary = None
    if args.tune:
        summary = ours.exe.tune(args.tune)
        r.kernels = ours.exe.explain(tried=1000)
        r.tuned_us, again, r.tuned_ratio = in_turns(ours, theirs, args)
        if theirs and theirs.best:
            r.error = max(r.error, theirs.error(ours.answer()))
            r.peer_us = (peer_us + again) / 2
    if r.error is not None and not r.error <= (case.tolerance or TOLERANCE[case.dtype]):
        wrong.append(f"{case.name} (error {r.error:.1e})")
    print(row(r, theirs.best if theirs and theirs.best else "-", ours.kernels), flush=True)
    if summary and args.verbose:
        print(f"  {summary.measured} of {summary.tried} timed in {summary.wall:.1f} s, {summary.replaced} replaced, ended: {summary.ended}, "
              f"failures: {summary.failures}", flush=True)
    if args.verbose:
        print(f"  {ours.copies} copies, {ours.places} inputs: {ours.schedule()}", flush=True)
    return r


# -- the table ----------------------------------------------------------------------------------------------------------------------

HEAD = "| what | Kiln us | tuned us | peer us | peer | ratio | tuned | goal | missed | kernels | error |\n" + "|---" * 11 + "|"


def shown(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if value < 100 or digits == 2 else f"{value:.0f}"


def row(r: Result, peer: str, kernels: float) -> str:
    error = "-" if r.error is None else f"{r.error:.0e}"
    return (f"| {r.case.name} | {shown(r.us, 1)} | {shown(r.tuned_us, 1)} | {shown(r.peer_us, 1)} | {peer} | {shown(r.ratio)} | {shown(r.tuned_ratio)} "
            f"| {r.case.goal or '-'} | {r.missed() or '-'} | {kernels:g} | {error} |")


def timings(kernel) -> dict[str, int]:
    """Of exe.explain(tried=...): the median in ns of each schedule that a search has measured."""
    return {t.opts: t.median_ns for t in kernel.tried if t.cause == "measured" and t.median_ns}


def summary(what: str, results: list[Result], low: float = 0.85) -> None:
    """The geometric mean of the ratios, the least, and how many are low."""
    for column, ratios in (("heuristic", [r.ratio for r in results]), ("tuned", [r.tuned_ratio for r in results])):
        ratios = [x for x in ratios if x]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            print(f"{what}, {column}: {len(ratios)} shapes, geometric mean {mean:.3f}, least {min(ratios):.2f}, {sum(x < low for x in ratios)} below {low}", flush=True)


def machine() -> str:
    if torch is None:
        return "without PyTorch"
    return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}, PyTorch {torch.__version__}"


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--only", default="", metavar="TEXT", help="cases whose names hold one of these, separated by commas")
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--tune", type=float, default=0, metavar="SECONDS", help="of each case; then it is timed once more")
    p.add_argument("--quick", action="store_true", help="fewer turns")
    p.add_argument("--small", action="store_true", help="small sizes, which any device can do: what is shown are no measurements")
    p.add_argument("--no-peer", dest="peer", action="store_false")
    p.add_argument("--patience", type=float, default=40, metavar="SECONDS", help="for one form of a peer to be ready")
    p.add_argument("--seconds", type=float, default=math.inf, help="no case begins later")
    p.add_argument("--verbose", action="store_true", help="schedules, what the tuner did, forms of peers that failed")


def prepared(args: argparse.Namespace) -> argparse.Namespace:
    args.turns, args.rounds = (3, 4) if args.quick else (7, 6)
    args.began = time.monotonic()
    warnings.simplefilter("ignore")  # forms that PyTorch does not have say so at length, and fail
    if args.peer and torch is None:
        sys.exit("PyTorch is not installed (--no-peer does without)")
    return args


def small_or(args: argparse.Namespace) -> Callable[[int], int]:
    """What sizes become: themselves, or small ones of the same kind."""
    return (lambda n: n if n < 64 else 64 + n % 8) if args.small else (lambda n: n)


def run(cases: list[Case], args: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """Measures all that are asked for; (results, what is wrong)."""
    results, wrong, late = [], [], []
    cases = [c for c in cases if any(part in c.name for part in args.only.split(","))]
    config = f"[workers]\ndevice = {args.device}\n[tuning]\nbackground = off\n[limits]\nexecutables = 1024\nbuffers = 64G\n"
    with serving.Server(config=config) as server, kiln.connect(server.target) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        ready = [pool.submit(Ours, client, case, args) for case in cases]
        concurrent.futures.wait(ready)
        for case, future in zip(cases, ready):
            if time.monotonic() - args.began > args.seconds:
                late.append(case.name)
                continue
            try:
                ours = future.result()
                results.append(measure(ours, args, wrong))
                ours.close()
            except (kiln.Error, RuntimeError) as e:
                print(f"| {case.name} | {str(e)[:500]} |", flush=True)
                wrong.append(case.name)
            if torch is not None and torch.cuda.is_available():
                torch.cuda.empty_cache()
    if late:
        print(f"not run for want of time: {', '.join(late)}")
    return results, wrong
