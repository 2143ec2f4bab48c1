"""From an exported module to IR nodes: every call by its rule, constants by PyTorch itself."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from irverify.errors import IRVerifyError
from irverify.frontends.torch.call import (
    RULES,
    BatchMixed,
    Call,
    Const,
    InTrainingMode,
    Unsupported,
    Value,
    depends_on_batch,
    derive,
    operator_word,
)
from irverify.frontends.torch.export import Exported
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Constant
from irverify.ir.types import TensorType

UNDEFINED = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
"""Operators whose result is whatever the memory held."""


class Lost:
    """What a call gives that could not be lowered; calls that read it are not reported again."""


@dataclass
class Problems:
    """What could not be lowered: operator -> one line for each call."""

    unsupported: dict[str, list[str]] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)
    training: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.unsupported or self.mixed or self.training)

    def add(self, node: fx.Node, place: str, reason: Exception) -> None:
        line = f"{place}: {reason}" if str(reason) else place
        if isinstance(reason, BatchMixed):
            self.mixed.append(line)
        elif isinstance(reason, InTrainingMode):
            self.training.append(line)
        else:
            self.unsupported.setdefault(str(node.target), []).append(line)


class Lowering:
    """Walks the calls of an exported module and adds what stands for them to a graph builder."""

    def __init__(self, exported: Exported, name: str, batched: bool) -> None:
        self.builder = GraphBuilder(name)
        self.problems = Problems()
        self._exported = exported
        self._lead = 1 if batched else 0
        self._batch_axis = 0 if batched else None
        self._results: dict[fx.Node, Any] = {}

    def run(self) -> tuple[str, ...]:
        """Lowers everything that the outputs need and returns their names; `problems` says what could not be."""
        needed = _needed(self._exported)
        for node in self._exported.inputs:
            self._results[node] = self._input(node)
        for node in self._exported.graph.nodes:
            if node in self._exported.tensors:
                self._results[node] = Const(self._exported.tensors[node], node in self._exported.live)
            elif node.op == "call_function" and node in needed:
                self._results[node] = self._lowered(node)
            elif node.op == "get_attr":
                self._results[node] = None  # the body of a higher-order call, which is reported itself
        return tuple(self._output(result) for result in self._exported.outputs if result is not None)

    def _input(self, node: fx.Node) -> Any:
        fake = node.meta.get("val")
        if not isinstance(fake, Tensor):
            return fake
        shape = tuple(int(extent) for extent in fake.shape[self._lead :])
        type_ = TensorType(shape, fake.dtype)
        return Value(self.builder.input(type_, node.name, self._batch_axis, f'torch input "{node.name}"'))

    def _output(self, result: Any) -> str:
        lowered = self._results.get(result) if isinstance(result, fx.Node) else result
        if isinstance(lowered, Value):
            return lowered.name
        if isinstance(lowered, Const):
            if self._lead:
                self.problems.mixed.append(f"output {result}: it has no batch axis, since it depends on no input")
                return ""
            return self.builder.add(Constant(lowered.param), name=str(result), source=f"torch output {result}")
        if not isinstance(lowered, Lost):
            self.problems.unsupported.setdefault("output", []).append(f"output {result}: expected a tensor")
        return ""

    def _lowered(self, node: fx.Node) -> Any:
        if isinstance(node.meta.get("val"), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool):
            return node.meta["val"]  # arithmetic with extents, done by the tracer
        if node.target is operator.getitem:
            source, index = self._results[node.args[0]], node.args[1]  # type: ignore[index]
            return source if isinstance(source, Lost) else source[index]
        operands = [self._results.get(operand) for operand in node.all_input_nodes]
        path = module_path(node)
        word = operator_word(node.target)
        place = f"{word} at {path}" if path else word
        if any(isinstance(part, Lost) for operand in operands for part in _parts(operand)):
            if word not in RULES:
                self.problems.add(node, place, Unsupported())
            return Lost()
        try:
            if not any(isinstance(part, Value) for operand in operands for part in _parts(operand)):
                return self._constant(node)
            label = f"{path}.{word}" if path and not _is_leaf(node) else path or word
            return self._ruled(node, label, f"torch {place}")
        except (Unsupported, IRVerifyError) as error:
            self.problems.add(node, place, error)
        return Lost()

    def _ruled(self, node: fx.Node, label: str, source: str) -> Any:
        call = Call(self.builder, node, self._arguments(node), self._lead, label, source)
        rule_ = RULES.get(call.word)
        if rule_ is None:
            raise Unsupported
        results = rule_(call)
        if isinstance(results, Value):
            return self._checked(call, results, call.result)
        if isinstance(results, Const):
            return results
        return [
            self._checked(call, result, fake) if isinstance(result, Value) else result
            for result, fake in zip(results, call.results, strict=False)
        ]

    def _checked(self, call: Call, value: Value, fake: Tensor) -> Value:
        """The result of a rule, compared with what the tracer says of it."""
        expected, got = call.inner(fake), call.type(value).shape
        if expected != got:
            raise Unsupported(f"its result should be {list(expected)}, but the IR computes {list(got)}")
        return call.typed(value, fake.dtype)

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        """Arguments by their names in the operator's schema, nodes replaced by what they stand for."""
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            raise Unsupported
        args = fx.node.map_arg(node.args, self._results.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self._results.__getitem__)
        arguments: dict[str, Any] = {}
        for place, parameter in enumerate(target._schema.arguments):
            if place < len(args) and not parameter.kwarg_only:
                arguments[parameter.name] = args[place]
            elif parameter.name in kwargs:
                arguments[parameter.name] = kwargs[parameter.name]
            elif parameter.has_default_value():
                arguments[parameter.name] = parameter.default_value
        return arguments

    def _constant(self, node: fx.Node) -> Any:
        """A call that reads constants only is computed by PyTorch itself, now or whenever one of them has changed."""
        if depends_on_batch(node.meta.get("val")):
            if operator_word(node.target) not in RULES:
                raise BatchMixed("its result depends on the batch size")
            return self._ruled(node, node.name, f"torch {node.name}")
        sources = [operand for operand in node.all_input_nodes if isinstance(self._results.get(operand), Const)]
        fixed = {operand: self._results.get(operand) for operand in node.all_input_nodes if operand not in sources}
        target: Any = node.target
        if not isinstance(target, torch._ops.OpOverload):
            raise Unsupported
        if operator_word(target) in UNDEFINED or torch.Tag.nondeterministic_seeded in target.tags:
            raise Unsupported("its result is random or undefined")
        if any(map(depends_on_batch, fixed.values())):
            raise BatchMixed("its result depends on the batch size")

        def computed(*tensors: Tensor) -> Any:
            known = {**fixed, **dict(zip(sources, tensors, strict=True))}
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            return target(*args, **kwargs)

        consts = [self._results[operand] for operand in sources]
        if isinstance(node.meta.get("val"), Tensor):
            return derive(computed, *consts)
        places = range(len(node.meta["val"]))
        return [derive(lambda *tensors, place=place: computed(*tensors)[place], *consts) for place in places]


def module_path(node: fx.Node) -> str:
    """The path of the innermost module whose code made a call: `layer1.0.conv1`; empty for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return re.sub(r"@\d+", "", path)


def _is_leaf(node: fx.Node) -> bool:
    """Whether the innermost module is one of PyTorch's own layers, which make one value."""
    stack = node.meta.get("nn_module_stack") or {}
    kind = list(stack.values())[-1][1] if stack else ""
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return name.startswith("torch.nn.modules.")


def _parts(result: Any) -> Sequence[Any]:
    return result if isinstance(result, tuple | list) else (result,)


def _needed(exported: Exported) -> set[fx.Node]:
    """The nodes that some output depends on."""
    pending = [result for result in exported.outputs if isinstance(result, fx.Node)]
    needed: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += node.all_input_nodes
    return needed
