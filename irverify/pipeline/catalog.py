"""The catalog of passes: name, kind, where the class is, a summary, and the options. Read without importing torch.

The classes are imported when a pass is used. A test holds that catalog and classes agree.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias

from irverify.errors import UsageError

Value: TypeAlias = bool | int | float | str | None
"""What an option can be set to."""
Kind: TypeAlias = Literal["analysis", "estimator", "rewrite"]
"""What a pass does: computes facts that hold, guesses ranges (never a certificate), or makes a new graph."""


@dataclass(frozen=True)
class Option:
    """One option of a pass: its `name` in the pipeline text, its type, its default.

    `type` is `bool`, `int`, `float` or `str`; with `optional` the word `none` is accepted as well; where there are
    `choices`, one of these words.
    """

    name: str
    type: Literal["bool", "int", "float", "str"]
    default: Value
    choices: tuple[str, ...] = ()
    optional: bool = False

    def __str__(self) -> str:
        kind = "|".join(self.choices) if self.choices else self.type
        return f"{self.name}: {kind}{' or none' if self.optional else ''} = {print_value(self.default)}"


@dataclass(frozen=True)
class Entry:
    """One pass: `home` is where its class stands, as `module:Class`; `changes`: it is a rewrite to another function."""

    name: str
    kind: Kind
    home: str
    summary: str
    options: tuple[Option, ...] = ()
    changes: bool = False

    def option(self, name: str) -> Option:
        """The option of that name. Raises UsageError with the options there are."""
        for option in self.options:
            if option.name == name:
                return option
        known = [option.name for option in self.options]
        raise UsageError(
            f"unknown option {name!r} of pass {self.name}",
            hint=suggestion(name, known) or (f"it has {', '.join(known)}" if known else "it has no options"),
        )

    def load(self) -> type:
        """The class of the pass, imported."""
        module, _, name = self.home.partition(":")
        found = getattr(importlib.import_module(module), name)
        if not isinstance(found, type):
            raise TypeError(f"expected a class at {self.home}, got {found!r}")
        return found


def print_value(value: Value) -> str:
    """A value of an option as the pipeline text spells it, but for quotes."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, int | float) else value


def suggestion(name: str, known: list[str]) -> str | None:
    """A hint that names what `name` may have meant; None where nothing is near."""
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else None


def _table(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


CATALOG: dict[str, Entry] = _table(
    Entry(
        "canonicalize",
        "rewrite",
        "irverify.passes.canonicalize:Canonicalize",
        "Fold constants, drop identities and dead values, merge neighbours that say one thing.",
    ),
    Entry(
        "fold-batchnorm",
        "rewrite",
        "irverify.passes.fold_batchnorm:FoldBatchnorm",
        "Fold batch normalisation into the layer before it; elsewhere make it a scale_shift.",
    ),
    Entry(
        "fuse-linear",
        "rewrite",
        "irverify.passes.fuse_linear:FuseLinear",
        "Compose neighbouring affine maps, and the last layer with the specification (elision).",
        (Option("elide", "bool", True),),
    ),
    Entry(
        "compact",
        "rewrite",
        "irverify.passes.compact:Compact",
        "Leave out what is not read, zero, constant or there twice; compose affine maps where that is less work.",
    ),
    Entry(
        "eliminate-stable",
        "rewrite",
        "irverify.passes.eliminate_stable:EliminateStable",
        "Stable activations become affine or constant, exactly on the regions, and what that frees is left out.",
        (Option("compact", "bool", True),),
    ),
    Entry(
        "prune-weights",
        "rewrite",
        "irverify.passes.prune:PruneWeights",
        "Small weights become exact zeros; changes the function by at most `output_change`.",
        (
            Option("threshold", "float", None, optional=True),
            Option("sparsity", "float", None, optional=True),
            Option("over", "str", "layer", ("channel", "layer", "network")),
            Option("only", "str", None, optional=True),
        ),
        changes=True,
    ),
    Entry(
        "prune-relus",
        "rewrite",
        "irverify.passes.prune:PruneRelus",
        "Neurons nearly always on one piece stay there; changes the function by at most `output_change`.",
        (
            Option("share", "float", 0.0),
            Option("only", "str", None, optional=True),
            Option("by", "str", "neuron", ("neuron", "channel")),
        ),
        changes=True,
    ),
    Entry(
        "interval",
        "analysis",
        "irverify.passes.interval:IntervalArithmetic",
        "Bounds by naive interval arithmetic: four products a layer.",
    ),
    Entry(
        "improved-interval",
        "analysis",
        "irverify.passes.improved_interval:ImprovedInterval",
        "Intervals with everything that is certainly linear composed (paper 1, app. C.2, eq. 9), on any graph.",
        (Option("memory", "int", 4096),),
    ),
    Entry(
        "ibp",
        "analysis",
        "irverify.passes.ibp:Ibp",
        "Bounds by interval bound propagation: centre and radius, two products a layer.",
    ),
    Entry(
        "fast-lin",
        "analysis",
        "irverify.passes.crown:FastLin",
        "Backward linear bounds with parallel lines, the lower slope u / (u - l) (paper 2, sec. 3).",
        (Option("memory", "int", 4096),),
    ),
    Entry(
        "crown",
        "analysis",
        "irverify.passes.crown:Crown",
        "Backward linear bounds, adaptive lower slope: 1 where u > -l, else 0 (Zhang et al. 2018).",
        (Option("memory", "int", 4096),),
    ),
    Entry(
        "crown-zero",
        "analysis",
        "irverify.passes.crown:CrownZero",
        "Backward linear bounds with lower slope 0: never looser than ibp on ReLU networks.",
        (Option("memory", "int", 4096),),
    ),
    Entry(
        "crown-ibp",
        "analysis",
        "irverify.passes.crown:CrownIbp",
        "Backward linear bounds of the outputs, intermediate bounds by intervals (paper 2, sec. 5).",
        (Option("memory", "int", 4096),),
    ),
    Entry(
        "dual",
        "analysis",
        "irverify.passes.dual:Dual",
        "Bounds by dual networks, graphs of the IR built layer by layer (paper 5, sec. 3.1).",
    ),
    Entry(
        "alpha",
        "analysis",
        "irverify.passes.alpha:Alpha",
        "Backward linear bounds whose lines are optimised by gradient ascent, from those of crown (Xu et al. 2021).",
        (
            Option("steps", "int", 20),
            Option("lr", "float", 0.4),
            Option("intermediate", "int", 0),
            Option("stop-above", "float", None, optional=True),
            Option("memory", "int", 4096),
        ),
    ),
    Entry(
        "dual-proj",
        "estimator",
        "irverify.passes.projections:DualProj",
        "Estimate of dual bounds from k random projections (paper 5, sec. 3.2, alg. 1); no certificate.",
        (
            Option("k", "int", 50),
            Option("estimator", "str", "median", ("median", "geometric")),
            Option("seed", "int", 0),
            Option("delta", "float", 0.01),
            Option("last", "str", "exact", ("exact", "projected")),
        ),
    ),
    Entry(
        "singleprop-zero",
        "estimator",
        "irverify.passes.singleprop:SinglePropZero",
        "Estimate in one forward pass of linear bounds with lower slope 0 (paper 3, eq. 8); no certificate.",
    ),
    Entry(
        "singleprop-fastlin",
        "estimator",
        "irverify.passes.singleprop:SinglePropFastLin",
        "Estimate in one forward pass of linear bounds with parallel lines (paper 3, eq. 7); no certificate.",
    ),
    Entry(
        "forward",
        "analysis",
        "irverify.passes.forward:Forward",
        "Linear bounds over the inputs, propagated forward: for networks with few inputs.",
        (
            Option("lower", "str", "adaptive", ("adaptive", "zero", "same")),
            Option("memory", "int", 4096),
        ),
    ),
    Entry(
        "lp",
        "analysis",
        "irverify.backends.milp.analyses:Lp",
        "Bounds of the outputs by linear programs over the triangle relaxation, with the bounds in between of crown.",
        (
            Option("time", "float", None, optional=True),
            Option("workers", "int", None, optional=True),
            Option("intermediate", "str", "crown"),
        ),
    ),
    Entry(
        "lp-tighten",
        "analysis",
        "irverify.backends.milp.analyses:LpTighten",
        "Bounds of every unstable pre-activation by linear programs, layer by layer, and then of the outputs.",
        (
            Option("time", "float", None, optional=True),
            Option("workers", "int", None, optional=True),
            Option("signs", "bool", False),
        ),
    ),
    Entry(
        "milp-tighten",
        "analysis",
        "irverify.backends.milp.analyses:MilpTighten",
        "Bounds of unstable pre-activations and of outputs by mixed-integer programs: exact, but for a margin.",
        (
            Option("time", "float", None, optional=True),
            Option("workers", "int", None, optional=True),
            Option("signs", "bool", False),
            Option("limit", "float", 5.0),
            Option("solver", "str", "scip", ("scip", "highs")),
        ),
    ),
    Entry(
        "gap",
        "analysis",
        "irverify.passes.gap:Gap",
        "How far the network is above its linear bounds where these are least (paper 2, eq. 8).",
        (Option("lines", "str", "crown", ("crown", "crown-zero", "fast-lin")),),
    ),
    Entry(
        "stability",
        "analysis",
        "irverify.passes.stability:StabilityAnalysis",
        "Which piece of each piecewise linear activation is certain: active, inactive or unstable.",
    ),
)
"""Name -> entry, in the order in which passes are listed. `register` adds to it."""


def register_entry(entry: Entry) -> None:
    """Adds a pass. Raises UsageError where the name is taken by another one."""
    if entry.name in CATALOG:
        taken = CATALOG[entry.name].home
        raise UsageError(f"a pass named {entry.name} is registered already", where=entry.home, hint=f"it is {taken}")
    CATALOG[entry.name] = entry


def find(name: str) -> Entry:
    """The entry of a pass. Raises UsageError with near matches."""
    if name in CATALOG:
        return CATALOG[name]
    hint = suggestion(name, list(CATALOG)) or f"there are {', '.join(CATALOG)}"
    raise UsageError(f"unknown pass {name!r}", hint=hint)
