"""From a model to a graph: node after node, with everything that cannot be expressed reported together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
import torch
from onnx import ModelProto, NodeProto

from irverify.errors import GraphError, IRVerifyError, ShapeError, UnsupportedError
from irverify.frontends.onnx.batch import input_shape, true_inputs
from irverify.frontends.onnx.lowering import Call, Scope
from irverify.frontends.onnx.nodes import FLOAT_TYPES, OnnxNode, to_array, type_name
from irverify.frontends.onnx.rules import FOLDS, RULES
from irverify.frontends.onnx.values import BatchMixing, Known, Operand, Refused, Value
from irverify.ir.graph import GraphBuilder, without_dead_values
from irverify.ir.ops import Constant, Input
from irverify.ir.types import TensorType

MALFORMED = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What numpy, torch and Python raise over operands and attributes that do not fit each other."""
LARGEST = 1 << 31
"""No value may have more elements."""
LISTING_HINT = "`irverify supports --onnx-operators` lists what is supported"


@dataclass(frozen=True)
class Imported:
    """A lowered model: the graph without its origin, and where each value of the model is in it."""

    builder: GraphBuilder
    outputs: tuple[str, ...]
    places: dict[str, str]
    """Name in the model -> name in the graph, in the order of computation."""


class Importer:
    """Lowers one model under one reading of its batch axis."""

    def __init__(self, model: ModelProto, scope: Scope, outputs: Sequence[str]) -> None:
        self.model = model
        self.scope = scope
        self.outputs = outputs
        self.builder = GraphBuilder(model.graph.name or "graph")
        self.operands: dict[str, Operand] = {}
        self.problems: list[tuple[str, IRVerifyError]] = []
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def run(self) -> Imported:
        """Raises UnsupportedError with all offenders, GraphError for a model that is broken."""
        nodes = [OnnxNode(proto) for proto in self._live()]
        if self.model.graph.sparse_initializer:
            raise UnsupportedError("sparse initialisers are not supported")
        for node in nodes:
            if node.op not in RULES and node.op not in FOLDS:
                self.problems.append((str(node), Refused(f"operator {node.op} is not supported")))
        self._inputs()
        for node in nodes:
            if node.op in RULES or node.op in FOLDS:
                self._lower(node)
        results = [self._output(name) for name in self.outputs]
        self._raise_problems()
        return self._finished([result for result in results if result is not None])

    def _live(self) -> list[NodeProto]:
        """The nodes that some output depends on."""
        needed = set(self.outputs)
        live = []
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                needed.update(_captured(node))
                live.append(node)
        return live[::-1]

    def _inputs(self) -> None:
        for entry in true_inputs(self.model.graph):
            where = f"onnx input {entry.name!r}"
            try:
                dtype = type_name(entry.type.tensor_type.elem_type)
                if dtype not in FLOAT_TYPES:
                    raise Refused(f"expected a floating-point type, got {dtype}")
                shape = input_shape(entry, self.scope)
                type_ = TensorType(shape, getattr(torch, dtype))
                axis = 0 if self.scope.batched else None
                self.operands[entry.name] = Value(self.builder.add(Input(type_, axis), name=entry.name, source=where))
            except UnsupportedError as error:
                self.problems.append((where, error))

    def _lower(self, node: OnnxNode) -> None:
        """Lowers one node, or notes why not; nodes behind one that failed are passed over."""
        try:
            operands = [self._operand(name) if name else None for name in node.inputs]
            if any(operand is None for operand, name in zip(operands, node.inputs, strict=True) if name):
                return
            with numpy.errstate(all="ignore"):
                results = self._results(node, operands)
            if len(results) < len([name for name in node.outputs if name]):
                raise Refused(f"only the first {len(results)} results are supported")
        except (UnsupportedError, ShapeError) as error:
            self.problems.append((str(node), error))
            return
        except GraphError as error:
            raise GraphError(error.message, where=error.where or str(node), hint=error.hint) from error
        except MALFORMED as error:
            self.problems.append((str(node), Refused(f"operands and attributes do not fit: {error}")))
            return
        for name, result in zip(node.outputs, results, strict=False):
            if name in self.operands:
                raise GraphError(f"expected each value to be computed once, got {name!r} again", where=str(node))
            if name:
                self.operands[name] = result

    def _operand(self, name: str) -> Operand | None:
        if name not in self.operands and name in self._stored:
            self.operands[name] = Known(to_array(self._stored[name], f"initialiser {name!r}"), name)
        if name not in self.operands and not self.problems:
            raise GraphError(f"expected a value computed before, got {name!r}, which nothing before computes")
        return self.operands.get(name)

    def _results(self, node: OnnxNode, operands: Sequence[Operand | None]) -> list[Operand]:
        call = Call(node, operands, self.builder, self.scope)
        known = not any(isinstance(operand, Value) for operand in operands)
        if known and node.op in FOLDS:
            results = FOLDS[node.op](call)
        elif node.op not in RULES:
            raise Refused(f"operator {node.op} is supported for constants only, not for what depends on an input")
        elif known:
            return self._folded(node, operands)
        else:
            results = RULES[node.op](call)
        return results if isinstance(results, list) else [results]

    def _folded(self, node: OnnxNode, operands: Sequence[Operand | None]) -> list[Operand]:
        """The results of a node all of whose operands are constants, computed by a graph of its own."""
        builder = GraphBuilder()
        call = Call(node, operands, builder, Scope(self.scope.opset, batched=False))
        results = RULES[node.op](call)
        folded: list[Operand] = []
        for result in results if isinstance(results, list) else [results]:
            if isinstance(result, Value):
                values = builder.graph([result.name]).values({})
                folded.append(Known(values[result.name][0].numpy(), next(iter(node.outputs))))
            else:
                folded.append(result)
        return folded

    def _output(self, name: str) -> str | None:
        where = f"onnx output {name!r}"
        operand = self._operand(name)
        if operand is None or isinstance(operand, Value):
            return operand.name if operand else None
        try:
            call = Call(OnnxNode(NodeProto()), (), self.builder, self.scope)
            if self.scope.batched:
                call.mixing(f"the output {name!r} is a constant")
            return self.builder.add(Constant(operand.tensor()), source=where)
        except (UnsupportedError, *MALFORMED) as error:
            self.problems.append((where, Refused(str(error)) if not isinstance(error, UnsupportedError) else error))
            return None

    def _raise_problems(self) -> None:
        if not self.problems:
            return
        items = [f"{where}: {error.message}" for where, error in self.problems]
        if any(isinstance(error, BatchMixing) for _, error in self.problems):
            hint = "batch_axis=None reads the whole tensor as one example"
            raise UnsupportedError("the model does not treat axis 0 as a batch axis throughout", items=items, hint=hint)
        missing = any("operator" in error.message for _, error in self.problems)
        raise UnsupportedError(
            "the model uses what is not supported", items=items, hint=LISTING_HINT if missing else None
        )

    def _finished(self, outputs: Sequence[str]) -> Imported:
        """The nodes that the outputs depend on and all inputs, under the names that the values have in the model."""
        wanted: dict[str, str] = {}
        for name, operand in self.operands.items():
            if isinstance(operand, Value):
                wanted.setdefault(operand.name, name)
        builder = GraphBuilder(self.builder.name)
        renamed: dict[str, str] = {}
        for node in without_dead_values(self.builder.graph(outputs)):
            operands = (renamed[operand] for operand in node.inputs)
            name = wanted.get(node.name, node.name)
            renamed[node.name] = builder.add(node.op, *operands, name=name, source=node.source)
            if node.type.size > LARGEST:
                raise UnsupportedError(
                    f"expected values of at most {LARGEST} elements, got {node.type}", where=str(node)
                )
        places = {
            name: renamed[operand.name]
            for name, operand in self.operands.items()
            if isinstance(operand, Value) and operand.name in renamed
        }
        return Imported(builder, tuple(renamed[name] for name in outputs), places)


def _captured(node: NodeProto) -> Iterator[str]:
    """Names of values that subgraphs of the node read."""
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _captured(inner)
