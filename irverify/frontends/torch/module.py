"""`read_module`: a graph from a module and an example of its input, in the layout that the module itself shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from irverify.errors import ShapeError, UnsupportedError, UsageError
from irverify.frontends.differential import compare
from irverify.frontends.torch import arithmetic, indexing, layers, normalising, pooling, products, shapes
from irverify.frontends.torch.export import Exported, decomposed, export
from irverify.frontends.torch.lowering import Lowering, Problems
from irverify.ir.check import check as check_graph
from irverify.ir.graph import Graph, convert, without_dead_values
from irverify.ir.ops import Input
from irverify.ir.params import value

BatchAxis = Literal["auto", 0] | None
MAX_ROUNDS = 4
"""How often what has no rule is written in simpler terms before it is given up."""
RULE_FILES = (arithmetic, indexing, layers, normalising, pooling, products, shapes)
"""Importing them fills the table of rules."""


class ModuleOrigin:
    """A module as the source model of a graph. It is run as it is: its parameters, its element type, its device.

    `shapes` are those of its outputs without batch axis, or None where it has no batch axis.
    """

    def __init__(
        self, module: nn.Module, examples: Sequence[Tensor], shapes: Sequence[tuple[int, ...]] | None
    ) -> None:
        self.description = f"the module {type(module).__name__}"
        self._module = module
        self._types = [(example.dtype, example.device) for example in examples]
        self._shapes = shapes
        self._training = {name for name, part in module.named_modules() if part.training}

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The module's output tensors, in the order of the graph's outputs.

        Raises UsageError where the module has been put into training mode since it was read.
        """
        changed = [name for name, part in self._module.named_modules() if part.training and name not in self._training]
        if changed:
            raise UsageError(
                f"expected a module in evaluation mode, got training mode in {', '.join(changed) or 'the module'}",
                where=self.description,
                hint="call module.eval() before verifying",
            )
        if len(inputs) != len(self._types):
            raise ShapeError(f"expected {len(self._types)} inputs, got {len(inputs)}", where=self.description)
        converted = [tensor.to(device, dtype) for tensor, (dtype, device) in zip(inputs, self._types, strict=True)]
        with torch.no_grad():
            outputs = self._module(*converted)
        leaves = [part.to(inputs[0].device) for part in pytree.tree_leaves(outputs) if isinstance(part, Tensor)]
        if self._shapes is None:
            return tuple(leaves)
        # A module that squeezes drops the batch axis of a single example: it is put back.
        batch = inputs[0].shape[0]
        return tuple(
            leaf.reshape(batch, *shape) if leaf.numel() == batch * math.prod(shape) else leaf
            for leaf, shape in zip(leaves, self._shapes, strict=False)
        )


def read_module(
    module: nn.Module, example: Tensor | Sequence[Tensor], batch_axis: BatchAxis = "auto", check: bool = True
) -> Graph:
    """The graph of a module in evaluation mode; its parameters are the module's own.

    `example` is one input (or a tuple of them, one for each argument of forward), with or without batch axis. With
    `batch_axis` 0 the module has to treat axis 0, of the example or added to it, as a batch axis; with None the whole
    tensor is one example; "auto" takes axis 0 as batch where every operator treats it as one, else adds one, else takes
    the whole tensor. With `check` the graph is compared with the module on random inputs.

    Raises UnsupportedError listing every operator without a counterpart, or every one that mixes the batch; UsageError
    for an example that is none, and for a module in training mode; ImportMismatch where graph and module differ.
    """
    examples = _examples(module, example)
    _refuse_training(module)
    graph = _first_that_fits(module, examples, batch_axis)
    check_graph(graph)
    if check:
        _compare(graph)
    return graph


def _compare(graph: Graph) -> None:
    """Raises ImportMismatch unless graph and module agree, on a batch and on its examples one at a time."""
    origin = graph.origin
    assert origin is not None
    if any(value(parameter).device.type != "cpu" for parameter in graph.parameters().values()):
        graph = convert(graph, device="cpu")
    compare(graph, origin.run)
    if all(isinstance(node.op, Input) and node.op.batch_axis == 0 for node in graph.inputs):

        def one_at_a_time(*inputs: Tensor) -> tuple[Tensor, ...]:
            singles = [origin.run(*(tensor[None] for tensor in example)) for example in zip(*inputs, strict=True)]
            return tuple(map(torch.cat, zip(*singles, strict=True)))

        compare(graph, one_at_a_time)


def _examples(module: nn.Module, example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The examples on the module's device and, where they are floats, of its element type."""
    examples = tuple(example) if isinstance(example, tuple | list) else (example,)
    if not examples or not all(isinstance(part, Tensor) for part in examples):
        raise UsageError("expected a tensor or a tuple of tensors as example input", where=type(module).__name__)
    if not all(part.is_floating_point() for part in examples):
        types = ", ".join(str(part.dtype) for part in examples)
        raise UsageError(f"expected examples of a float type, got {types}", where=type(module).__name__)
    first = next((part for part in module.parameters() if part.is_floating_point()), None)
    if first is not None:
        examples = tuple(part.to(first.device, first.dtype) for part in examples)
    return tuple(part.detach() for part in examples)


def _refuse_training(module: nn.Module) -> None:
    """Raises UsageError where a layer would compute something else in training than in evaluation."""
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU)
    active = [f"{name or 'the module'} ({type(part).__name__})" for name, part in module.named_modules()
              if part.training and isinstance(part, kinds) and getattr(part, "p", 1.0) != 0.0]  # fmt: skip
    if active:
        raise _in_training(module, active)


def _in_training(module: nn.Module, items: Sequence[str]) -> UsageError:
    return UsageError(
        f"expected a module in evaluation mode, got layers in training mode: {', '.join(items)}",
        where=type(module).__name__,
        hint="call module.eval() first; parameters stay trainable",
    )


def _first_that_fits(module: nn.Module, examples: tuple[Tensor, ...], batch_axis: BatchAxis) -> Graph:
    """The graph in the first layout in which the module can be read."""
    if batch_axis not in ("auto", 0, None):
        raise UsageError(f"expected batch_axis 'auto', 0 or None, got {batch_axis!r}")
    failures: list[UnsupportedError] = []
    for layout, batched in _layouts(examples, batch_axis):
        try:
            return _read(module, layout, batched)
        except UnsupportedError as error:
            failures.append(error)
            if isinstance(error, _NoOperator):  # another layout will not help
                break
    listed = [failure for failure in failures if failure.items]
    raise (listed or failures)[0]


def _layouts(examples: tuple[Tensor, ...], batch_axis: BatchAxis) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    if batch_axis is not None:
        if all(example.ndim > 0 for example in examples):
            yield examples, True
        yield tuple(example[None] for example in examples), True
    if batch_axis != 0:
        yield examples, False


class _NoOperator(UnsupportedError):
    """Operators without a counterpart, in whatever layout."""


def _read(module: nn.Module, examples: tuple[Tensor, ...], batched: bool) -> Graph:
    """The graph in one layout. Raises UnsupportedError with everything that is in the way."""
    exported: Exported | None = export(module, examples, batched)
    first: Problems | None = None
    for _ in range(MAX_ROUNDS):
        assert exported is not None
        lowering = Lowering(exported, type(module).__name__, batched)
        outputs = lowering.run()
        problems = lowering.problems
        if not problems:
            if not outputs:
                raise UnsupportedError("expected a module that gives tensors", where=type(module).__name__)
            shapes = [lowering.builder.type(output).shape for output in outputs]
            origin = ModuleOrigin(module, examples, shapes if batched else None)
            return without_dead_values(lowering.builder.graph(outputs, origin))
        first = first or problems
        if problems.training or not problems.unsupported:
            break
        exported = decomposed(module, exported, set(problems.unsupported))
        if exported is None:
            break
    assert first is not None
    raise _refusal(module, first)


def _refusal(module: nn.Module, problems: Problems) -> UnsupportedError | UsageError:
    if problems.training:
        return _in_training(module, problems.training)
    lines = [line for group in problems.unsupported.values() for line in group]
    if problems.mixed:
        return UnsupportedError(
            "expected axis 0 to be a batch axis, got operators that mix examples (or are unsupported)",
            items=[*problems.mixed, *lines],
            where=type(module).__name__,
            hint="batch_axis=None takes the whole input as one example",
        )
    return _NoOperator(
        "expected calls that have a counterpart in the IR, got others",
        items=lines,
        where=type(module).__name__,
    )
