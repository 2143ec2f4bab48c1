"""A module as a flat graph of ATen calls, by `torch.export`, with the module's own tensors beside it."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from irverify.errors import UnsupportedError

MIN_BATCH = 3
"""Export specialises extents of 0 and 1, also those of half a batch or of one example less, so the batch axis of an
example is made at least this long."""


@dataclass(frozen=True)
class Exported:
    """ATen calls in order. `inputs` and `outputs` are nodes of `graph`; `tensors` holds what its other placeholders
    stand for: the module's own parameters and buffers (`live`), or constants."""

    program: torch.export.ExportedProgram
    inputs: tuple[fx.Node, ...]
    outputs: tuple[Any, ...]
    tensors: dict[fx.Node, Tensor]
    live: frozenset[fx.Node]

    @property
    def graph(self) -> fx.Graph:
        graph: fx.Graph = self.program.graph
        return graph


def export(module: nn.Module, examples: Sequence[Tensor], batched: bool) -> Exported:
    """Traces `module` on fake tensors like `examples`; with `batched`, axis 0 of every input is one symbolic extent.

    The module is not run on data and nothing of it changes. Raises UnsupportedError where it cannot be traced: its
    control flow depends on values, say, or axis 0 cannot have any extent.
    """
    shapes: Any = None
    if batched:
        axis = torch.export.Dim("batch", min=MIN_BATCH)
        shapes = tuple({0: axis} for _ in examples)
        examples = [_lengthened(example) for example in examples]
    try:
        with _quiet():
            program = torch.export.export(
                module, tuple(examples), dynamic_shapes=_by_parameter(module, shapes), strict=False
            )
            if any(_mutates(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
    except Exception as error:
        # Whatever forward or the tracer raises: the module cannot be read, and that is all there is to say.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UnsupportedError(
            f"torch.export cannot trace the module: {' '.join(lines[:2])}", where=type(module).__name__
        ) from error
    return _resolved(module, program)


def decomposed(module: nn.Module, exported: Exported, operators: set[str]) -> Exported | None:
    """The same program with these operators written in terms of simpler ones; None where PyTorch has no such terms."""
    with _quiet():
        table = torch.export.default_decompositions()
        chosen = {operator: rule for operator, rule in table.items() if str(operator) in operators}
        if not chosen and not any("wrap_with_set_grad_enabled" in operator for operator in operators):
            return None
        return _resolved(module, exported.program.run_decompositions(chosen))


def _by_parameter(module: nn.Module, shapes: Any) -> Any:
    """Shapes in the structure that `torch.export` wants: as one tuple where forward takes `*args`."""
    if shapes is None:
        return None
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    named = [kind for kind in kinds if kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    return (*shapes[: len(named)], tuple(shapes[len(named) :]))


def _lengthened(example: Tensor) -> Tensor:
    if example.ndim == 0:
        raise UnsupportedError("expected an example with an axis, got a number")
    if example.shape[0] >= MIN_BATCH:
        return example
    return example[:1].expand(MIN_BATCH, *example.shape[1:]).contiguous()


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _resolved(module: nn.Module, program: torch.export.ExportedProgram) -> Exported:
    signature = program.graph_signature
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    inputs: list[fx.Node] = []
    tensors: dict[fx.Node, Tensor] = {}
    live: set[fx.Node] = set()
    for spec in signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(node)
            continue
        target = str(spec.target)
        if spec.kind == InputKind.PARAMETER:
            tensors[node] = module.get_parameter(target)
        elif spec.kind == InputKind.BUFFER:
            tensors[node] = module.get_buffer(target)
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            tensors[node] = program.constants[target]
        else:
            raise UnsupportedError(f"expected tensors only, got {spec.kind.name.lower()} {target}")
        if spec.kind != InputKind.CONSTANT_TENSOR or _is_attribute(module, target):
            live.add(node)
    written = [str(spec.target) for spec in signature.output_specs if spec.kind == OutputKind.BUFFER_MUTATION]
    if written:
        raise UnsupportedError(
            "expected a module whose forward changes nothing, got one that writes buffers",
            items=written,
            where=type(module).__name__,
            hint="if these are running statistics, call module.eval() first",
        )
    results = program.graph.output_node().args[0]
    assert isinstance(results, tuple | list)
    kinds = [spec.kind for spec in signature.output_specs]
    outputs = tuple(result for result, kind in zip(results, kinds, strict=True) if kind == OutputKind.USER_OUTPUT)
    return Exported(program, tuple(inputs), outputs, tensors, frozenset(live))


def _is_attribute(module: nn.Module, path: str) -> bool:
    """Whether a constant is a tensor that the module holds (and may change), not a literal in its code."""
    held: Any = module
    for name in path.split("."):
        held = getattr(held, name, None)
    return isinstance(held, Tensor)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracer's warnings and logs: what goes wrong is raised."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
