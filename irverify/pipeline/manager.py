"""The pass manager: runs a pipeline over a graph, checks rewrites, keeps facts and times passes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from irverify.allocator import expect_large_blocks
from irverify.autocast import without_autocast
from irverify.errors import UsageError
from irverify.ir.check import check as check_graph
from irverify.ir.check import check_again, same_function
from irverify.ir.graph import Graph
from irverify.ir.params import reading_once
from irverify.pipeline.base import Analysis, Pass, Rewrite, parse_passes
from irverify.pipeline.facts import Bounds, Facts
from irverify.pipeline.spec import SpecRows, spec_operands, with_spec
from irverify.pipeline.state import GivenBounds, State, Timing, inject
from irverify.regions import Region, regions_for

if sys.platform != "win32":
    import resource

Given: TypeAlias = Region | Sequence[Region] | Mapping[str, Region]
"""One region for a network with one input, else one for each input, in order or by name."""
Hook: TypeAlias = Callable[[Literal["before", "after"], Pass, State], None]
"""Is told of every pass before and after it runs; prints the graph, say."""


@dataclass(frozen=True)
class PassManager:
    """Runs passes in order.

    The checker runs on the first graph and after every rewrite; with `check` each rewrite that keeps the function is
    also compared with what it replaced, by evaluation on random inputs, of the regions where it holds only there
    (GraphError names the first value that differs).
    """

    passes: tuple[Pass, ...]
    check: bool = False
    hook: Hook | None = None

    @without_autocast()
    def run(self, state: State) -> State:
        """Runs every pass on `state`, which is changed, and returns it."""
        expect_large_blocks()  # analyses compute in temporaries of some megabytes
        check_again(state.graph)
        state.execute = self._analyse
        for step in self.passes:
            if isinstance(step, Analysis):
                state.require(step, fresh=True)
            elif isinstance(step, Rewrite):
                self._rewrite(step, state)
            else:
                raise UsageError(f"expected an analysis or a rewrite, got {step!r}")
        return state

    def _analyse(self, analysis: Analysis, state: State) -> Facts:
        with _Clock(analysis, state, self.hook) as clock, reading_once():
            facts = analysis.run(state)
            clock.statistics.update(facts.statistics)
        return facts

    def _rewrite(self, rewrite: Rewrite, state: State) -> None:
        before = state.graph
        with _Clock(rewrite, state, self.hook) as clock:
            after = rewrite.run(state)
            clock.statistics.update(nodes_before=len(before), nodes_after=len(after))
            if after is not before:
                check_graph(after)
                if self.check and rewrite.keeps_function:
                    same_function(before, after, inputs=_samples(state) if rewrite.on_regions else None)
            clock.statistics.update(rewrite.report(state, after))
            if after is not before:
                carried = rewrite.carried(state, after)
                state.replace_graph(after, keeps_values=rewrite.keeps_values)
                state.adopt(carried)


@dataclass
class _Clock:
    """Measures one pass, tells the hook, and writes the timing down unless the pass fails."""

    step: Pass
    state: State
    hook: Hook | None
    statistics: dict[str, int | float] = field(default_factory=dict)
    _started: float = 0.0
    _peak: int = 0

    def __enter__(self) -> _Clock:
        if self.hook is not None:
            self.hook("before", self.step, self.state)
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        self._peak = _peak_memory()
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            return
        seconds = time.perf_counter() - self._started
        memory = max(0, _peak_memory() - self._peak)
        self.state.timings.append(Timing(str(self.step), seconds, memory, self.statistics))
        if self.hook is not None:
            self.hook("after", self.step, self.state)


def _peak_memory() -> int:
    """The peak so far, in bytes: of the CUDA allocator if it is in use, else of the process; 0 where nobody tells."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run(
    graph: Graph,
    pipeline: str | Pass | Sequence[Pass],
    region: Given | None = None,
    *,
    spec: SpecRows | None = None,
    operands: Mapping[str, Tensor] | None = None,
    bounds: Mapping[str, GivenBounds] | None = None,
    check: bool = False,
    hook: Hook | None = None,
) -> State:
    """Runs a pipeline such as `"fold-batchnorm,fuse-linear,ibp,stability"` and returns what it leaves.

    `region` is what analyses hold for (a batch of one for each example); a pipeline of rewrites needs none. `spec` is
    a pair (C, d) of rows `[batch, rows, out]` and `[batch, rows]` (batch may be 1): the specification C y + d of the
    flattened outputs becomes the last value of the graph. `operands` are values of the graph's own runtime operands.
    `bounds` are tighter bounds that you vouch for, by the name of the value; what analyses compute is intersected
    with them, and they are lost with a value that a rewrite removes. With `check` each rewrite is compared by
    evaluation. `hook(moment, pass, state)` is called before and after each pass.

    Raises UsageError for a pipeline that makes no sense or lacks a region, UnsupportedError where an analysis has no
    rule for some operator (all of them are listed), RegionError for a region that does not fit.
    """
    passes = parse_passes(pipeline)
    values = dict(operands or {})
    if spec is not None:
        graph = with_spec(graph, spec[0].shape[-2])
        values.update(zip(spec_operands(graph), spec, strict=True))
    state = started(graph, region, values)
    inject(state, bounds or {})
    return PassManager(passes, check, hook).run(state)


def started(graph: Graph, region: Given | None, operands: Mapping[str, Tensor]) -> State:
    """What a pipeline begins with; see `run`."""
    state = State(graph, None if region is None else fitted(graph, region))
    state.operands = _operands(state, operands)
    _input_bounds(state)
    return state


def run_alone(
    graph: Graph, pipeline: str | Pass | Sequence[Pass], region: Given, operands: Mapping[str, Tensor]
) -> State:
    """The same as `run`, where nobody asks for bounds but those of the outputs: an analysis that is one walk (interval,
    ibp) takes half of the memory then."""
    passes = parse_passes(pipeline)
    state = started(graph, region, operands)
    if len(passes) == 1 and isinstance(passes[0], Analysis) and passes[0].single_walk:
        state.keep = frozenset(graph.outputs)
    return PassManager(passes).run(state)


def optimize(graph: Graph, pipeline: str | Pass | Sequence[Pass], *, check: bool = False) -> Graph:
    """The graph that a pipeline of rewrites makes."""
    return run(graph, pipeline, check=check).graph


def fitted(graph: Graph, region: Given) -> tuple[Region, ...]:
    """A region for each input, on the graph's device and of the input's element type (narrower: rounded outward)."""
    inputs = graph.inputs
    regions = regions_for(region, [node.name for node in inputs], [node.type.shape for node in inputs])
    device = graph.leaves[0].device if graph.leaves else None
    return tuple(part.to(dtype=node.type.dtype, device=device) for part, node in zip(regions, inputs, strict=True))


def _samples(state: State, count: int = 4) -> dict[str, Tensor]:
    """Points of the regions, `count` of them inside and as many extreme ones for each example, with the operands of
    that example, by name `[2 count batch, *shape]`."""
    regions = state.given_regions("check")
    seed = 0
    result = {}
    for node, region in zip(state.graph.inputs, regions, strict=True):
        drawn = []
        for corners in (False, True):
            generator = torch.Generator(region.device).manual_seed(seed)
            drawn.append(region.sample(count, generator, corners=corners).flatten(0, 1))
            seed += 1
        result[node.name] = torch.cat(drawn)
    for name, tensor in state.operands.items():
        result[name] = tensor.repeat(2 * count, *(1,) * (tensor.ndim - 1))
    return result


def _input_bounds(state: State) -> None:
    if state.regions is not None:
        for node, region in zip(state.graph.inputs, state.regions, strict=True):
            state.bounds[node.name] = Bounds(*region.box(), "region")


def _operands(state: State, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The runtime operands by name, each `[batch, *shape]`, checked."""
    nodes = {node.name: node for node in state.graph.operands}
    unknown = sorted(set(given) - set(nodes))
    if unknown:
        raise UsageError(f"expected operands {sorted(nodes)}, got {unknown}", where=f"graph {state.graph.name!r}")
    device = state.regions[0].device if state.regions else None
    result = {}
    for name, tensor in given.items():
        expected = (state.batch, *nodes[name].type.shape)
        batched = tensor if tensor.ndim == len(expected) else tensor[None]
        try:
            fit = batched.to(dtype=nodes[name].type.dtype, device=device)
            result[name] = fit if fit.shape == expected else fit.expand(expected)
        except RuntimeError:
            raise UsageError(f"expected operand %{name} {list(expected)}, got {list(tensor.shape)}") from None
    return result
