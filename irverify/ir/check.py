"""The checker: what every graph has to hold, and whether a rewrite computes the same as what it replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from irverify.errors import GraphError, IRVerifyError
from irverify.ir.graph import NAME, Graph, Node
from irverify.ir.literals import declared_types, has_type, type_words
from irverify.ir.ops import BatchNorm, Constant, Input, Operand
from irverify.ir.params import value


def check(graph: Graph, *, dead_values: bool = False) -> None:
    """Raises GraphError unless the graph is well formed, with all problems of the first kind that is found.

    In this order: names, inputs defined before their use (hence no cycle), number of inputs, attributes of their
    declared types, types that the operators infer, values that nobody reads (allowed with `dead_values`, between the
    parts of a rewrite), parameters that are finite and of their value's element type.
    """
    kinds: list[Callable[[Graph], Iterator[str]]] = [_names, _order, _arities, _attributes, _types, _parameters]
    if not dead_values:
        kinds.insert(-1, _dead)
    for kind in kinds:
        problems = list(kind(graph))
        if problems:
            listing = problems[0] if len(problems) == 1 else "".join(f"\n  - {problem}" for problem in problems)
            raise GraphError(listing, where=f"graph {graph.name!r}")


def check_again(graph: Graph) -> None:
    """`check` with dead values allowed, for a graph that may have been checked before: structure cannot change, and
    parameters are looked at again once one of them was written to.

    A write through `parameter.data` leaves no trace and is not noticed here. NaN that it brings shows in the bounds,
    which are checked whenever they are computed.
    """
    stamp = _stamp(graph)
    if stamp is None or _CHECKED.get(graph) != stamp:
        check(graph, dead_values=True)
        if stamp is not None:
            _CHECKED[graph] = stamp


_Stamp = tuple[tuple[object, ...], ...]
_CHECKED: WeakKeyDictionary[Graph, _Stamp] = WeakKeyDictionary()
"""What the parameters of a graph were when it was checked."""


def _stamp(graph: Graph) -> _Stamp | None:
    """What changes when a parameter is written to, moved or replaced; None where that cannot be told."""
    try:
        return tuple((leaf.data_ptr(), leaf._version, leaf.dtype, leaf.shape) for leaf in graph.leaves)
    except RuntimeError:  # tensors of inference mode have no versions, those under a function transform no addresses
        return None


def _names(graph: Graph) -> Iterator[str]:
    for node in graph:
        if NAME.fullmatch(node.name) is None:
            yield f"{node}: expected a name of letters, digits and _.$-, got {node.name!r}"


def _order(graph: Graph) -> Iterator[str]:
    known: set[str] = set()
    for node in graph:
        for operand in node.inputs:
            if operand not in graph:
                yield f"{node}: expected inputs in the graph, got %{operand}"
            elif operand not in known:
                yield f"{node}: expected inputs defined before, got %{operand} (or the graph has a cycle)"
        known.add(node.name)
    if not graph.outputs:
        yield "expected an output, got none"
    for output in graph.outputs:
        if output not in graph:
            yield f"expected outputs in the graph, got %{output}"


def _arities(graph: Graph) -> Iterator[str]:
    for node in graph:
        wanted, got = node.op.arity, len(node.inputs)
        if (wanted is None and got == 0) or (wanted is not None and wanted != got):
            yield f"{node}: expected {'one or more' if wanted is None else wanted} inputs, got {got}"


def _attributes(graph: Graph) -> Iterator[str]:
    for node in graph:
        hints = declared_types(type(node.op))
        for field, attribute in node.op.fields().items():
            if not has_type(attribute, hints[field]):
                yield f"{node}: expected {type_words(hints[field])} for {field}, got {attribute!r}"


def _types(graph: Graph) -> Iterator[str]:
    for node in graph:
        try:
            inferred = node.op.infer(*graph.operand_types(node))
        except IRVerifyError as error:
            yield f"{node}: {error}"
        else:
            if inferred != node.type:
                yield f"{node}: expected type {inferred}, got {node.type}"


def _dead(graph: Graph) -> Iterator[str]:
    for node in graph:
        given = isinstance(node.op, Input | Operand)
        if not given and not graph.users(node.name) and node.name not in graph.outputs:
            yield f"{node}: expected a reader or an output, got a value that nobody reads"


def _parameters(graph: Graph) -> Iterator[str]:
    finite: dict[int, bool] = {}
    for node in graph:
        for field, parameter in node.op.parameters().items():
            tensor = value(parameter).detach()
            if id(parameter) not in finite:
                finite[id(parameter)] = bool(torch.isfinite(tensor).all())
            if not finite[id(parameter)]:
                count = int((~torch.isfinite(tensor)).sum())
                yield f"{node}: expected finite numbers in {field}, got {count} that are NaN or infinite"
            elif _type_differs(node, tensor):
                yield f"{node}: expected {field} of type {node.type.dtype}, got {tensor.dtype}"
        if isinstance(node.op, BatchNorm) and not bool((value(node.op.variance) + node.op.epsilon > 0).all()):
            yield f"{node}: expected variance + epsilon > 0 in every channel"


def _type_differs(node: Node, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != node.type.dtype and not isinstance(node.op, Constant)


TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far two evaluations of one function may lie apart, relative to the value's greatest magnitude (at least 1)."""


def tolerance_for(dtype: torch.dtype) -> float:
    return TOLERANCES.get(dtype, 2e-2)


def sample_inputs(graph: Graph, samples: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Random `[samples, *shape]` for every input and operand by name: half of each normal, half uniform in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for node in (*graph.inputs, *graph.operands):
        drawn = torch.randn((samples, *node.type.shape), generator=generator, dtype=torch.float64)
        uniform = torch.rand((samples - samples // 2, *node.type.shape), generator=generator, dtype=torch.float64)
        drawn[samples // 2 :] = uniform
        result[node.name] = drawn.to(device=_device(graph), dtype=node.type.dtype)
    return result


def _device(graph: Graph) -> torch.device:
    """Where the parameters are."""
    return next((value(parameter).device for parameter in graph.parameters().values()), torch.device("cpu"))


def deviation(first: Tensor, second: Tensor) -> float:
    """The greatest distance of two tensors of one shape, relative to the greatest finite magnitude (at least 1).

    NaN at the same places and equal infinities count as agreement; every other NaN or infinity as infinitely far.
    """
    first, second = first.detach().double(), second.detach().to(first.device, torch.float64)
    agree = (first == second) | (first.isnan() & second.isnan())
    if bool(agree.all()):
        return 0.0
    finite = first[first.isfinite()].abs()
    scale = max(1.0, float(finite.max()) if finite.numel() else 1.0)
    distance = float(((first - second).abs() / scale)[~agree].max())
    return distance if distance < torch.inf else torch.inf


@torch.no_grad()
def same_function(
    first: Graph,
    second: Graph,
    *,
    samples: int = 4,
    tolerance: float | None = None,
    seed: int = 0,
    inputs: Mapping[str, Tensor] | None = None,
) -> float:
    """Compares two graphs on random inputs and returns their greatest deviation (see `deviation`).

    `inputs` are what to compare them on instead: `[samples, *shape]` for every input and operand by name.

    Raises GraphError where an output differs by more than `tolerance` (by default 1e-9 in float64, 1e-4 where a value
    is in float32), naming the first value of `second` that has a namesake in `first` and differs from it. Agreement on
    samples is evidence, not a proof.
    """
    _check_interfaces(first, second)
    inputs = sample_inputs(first, samples, seed) if inputs is None else inputs
    before, after = first.values(inputs), second.values(inputs)
    allowed = tolerance_for(first.coarsest) if tolerance is None else tolerance
    worst = 0.0
    for old, new in zip(first.outputs, second.outputs, strict=True):
        distance = deviation(before[old], after[new])
        worst = max(worst, distance)
        if not distance <= allowed:
            raise GraphError(
                f"expected output %{new} to agree with %{old} within {allowed:g}, got a deviation of {distance:.3g}"
                f"{_first_difference(second, before, after, allowed)}",
                where=f"graph {second.name!r}",
            )
    return worst


def _check_interfaces(first: Graph, second: Graph) -> None:
    for what, ours, theirs in (
        ("inputs", [(node.name, node.type) for node in first.inputs], [(n.name, n.type) for n in second.inputs]),
        ("operands", [(node.name, node.type) for node in first.operands], [(n.name, n.type) for n in second.operands]),
        ("outputs", [("", first[name].type) for name in first.outputs], [("", second[n].type) for n in second.outputs]),
    ):
        if ours != theirs:
            wanted, got = (", ".join(f"{name} {type_}".strip() for name, type_ in side) for side in (ours, theirs))
            raise GraphError(f"expected {what} {wanted}, got {got}", where=f"graph {second.name!r}")


def _first_difference(graph: Graph, before: dict[str, Tensor], after: dict[str, Tensor], allowed: float) -> str:
    """Where two evaluations part, in words: the first value in the order of `graph` that differs from its namesake."""
    for node in graph:
        if node.name in before:
            ours, theirs = before[node.name], after[node.name]
            if ours.shape != theirs.shape:
                shapes = f"{list(theirs.shape)}, not {list(ours.shape)}"
                return f"; the first value that differs is {node}, of shape {shapes}"
            distance = deviation(ours, theirs)
            if not distance <= allowed:
                return f"; the first value that differs is {node}, by {distance:.3g}"
    return "; no value with a namesake before it differs"
