"""A graph of the same function that does less: what nothing reads, says nothing or says the same is left out.

Rules, in the order in which they are tried at each node, until none applies: those of `canonicalize`; gathers moved
towards what makes their elements (`gathers`); weights reduced to what they use (`columns`); identical and constant
neurons merged (`units`); a few results of affine chains as one dense map (`affine_chains`); those of `fuse-linear`
without elision.

The new parameters are derived from the old ones and follow them, but for zeros, duplicates and constants: those that
there are when the pass runs are taken for good.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from irverify.ir.graph import Graph
from irverify.passes.affine_chains import pull_back
from irverify.passes.canonicalize import canonical
from irverify.passes.columns import merge_terms, read_less, split_sums
from irverify.passes.fuse_linear import composed
from irverify.passes.gathers import flatten_later, move_gather
from irverify.passes.rewriting import Replacement, Rule, Site, joined_source, rewritten
from irverify.passes.units import merge_units
from irverify.pipeline.base import Rewrite
from irverify.pipeline.state import State


@dataclass(frozen=True)
class Compact(Rewrite):
    """Leave out what is not read, zero, constant or there twice; compose affine maps where that is less work."""

    name = "compact"
    keeps_values = True

    def run(self, state: State) -> Graph:
        return compacted(state.graph, state.retired)


def compacted(graph: Graph, reserved: Collection[str] = ()) -> Graph:
    """The graph itself where there is nothing to do. No new value has a `reserved` name."""
    return rewritten(graph, _compact, reserved)


def _fused(site: Site) -> Replacement | None:
    if not site.inputs or not site.sole_use(site.inputs[0]):
        return None
    op = composed(site)
    return None if op is None else Replacement(op, site.maker().inputs, joined_source(site.maker(), site.node))


RULES: tuple[Rule, ...] = (
    canonical, move_gather, flatten_later, read_less, merge_units, split_sums, merge_terms, pull_back, _fused,
)  # fmt: skip


def _compact(site: Site) -> Replacement | str | None:
    for rule in RULES:
        result = rule(site)
        if result is not None:
            return result
    return None
