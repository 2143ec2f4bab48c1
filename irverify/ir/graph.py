"""The graph: a DAG of values in topological order, immutable, and the builder that makes one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from irverify.errors import GraphError, IRVerifyError, ShapeError, is_out_of_memory
from irverify.ir.ops import Constant, Input, Operand, Operator
from irverify.ir.params import Param, leaves
from irverify.ir.types import TensorType

if TYPE_CHECKING:
    import networkx

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.$-]*")


class Origin(Protocol):
    """The source model behind a graph: what counterexamples are replayed on."""

    description: str
    """What it is, for messages and reports, such as `onnxruntime on model.onnx`."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the source model itself for inputs in its own layout, element types converted to its own."""
        ...


@dataclass(frozen=True, slots=True)
class Node:
    """One value: its name, the operator that makes it, the names of its inputs, its type, and what it was in the source
    model (such as `onnx node "Relu_3"`), for messages."""

    name: str
    op: Operator
    inputs: tuple[str, ...]
    type: TensorType
    source: str | None = None

    def __str__(self) -> str:
        origin = f" (from {self.source})" if self.source else ""
        return f"%{self.name} = {self.op.name}{origin}"


class Graph:
    """A DAG of `Node`s in topological order with named outputs. Immutable: rewrites build new graphs.

    Invariants, held by `check`: names are unique; inputs of a node come before it; types are what the operators infer.
    `origin` is the source model, where there is one; rewrites hand it on.
    """

    def __init__(
        self, nodes: Iterable[Node], outputs: Sequence[str], name: str = "graph", origin: Origin | None = None
    ) -> None:
        self.nodes: tuple[Node, ...] = tuple(nodes)
        self.outputs: tuple[str, ...] = tuple(outputs)
        self.name = name
        self.origin = origin
        self._by_name = {node.name: node for node in self.nodes}
        users: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for operand in node.inputs:
                users.setdefault(operand, []).append(node.name)
        self._users = {operand: tuple(names) for operand, names in users.items()}
        self._inputs = tuple(node for node in self.nodes if isinstance(node.op, Input))
        self._operands = tuple(node for node in self.nodes if isinstance(node.op, Operand))
        if len(self._by_name) != len(self.nodes):
            seen: set[str] = set()
            twice = [node.name for node in self.nodes if node.name in seen or seen.add(node.name)]  # type: ignore[func-returns-value]
            raise GraphError(f"expected unique names, got these more than once: {', '.join(twice)}")

    def __getitem__(self, name: str) -> Node:
        try:
            return self._by_name[name]
        except KeyError:
            raise GraphError(f"no value %{name} in graph {self.name!r}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __str__(self) -> str:
        from irverify.ir.text import print_graph  # the text form stands above the graph

        return print_graph(self)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The network inputs, in order."""
        return self._inputs

    @property
    def has_batch_axis(self) -> bool:
        """Whether values in the source model's layout have a batch axis; a graph of constants has none."""
        axes = [node.op.batch_axis for node in self.inputs if isinstance(node.op, Input)]
        return None not in axes and bool(axes or self.operands)

    @property
    def operands(self) -> tuple[Node, ...]:
        """The runtime operands, in order."""
        return self._operands

    def users(self, name: str) -> tuple[str, ...]:
        """The nodes that read a value, one entry for each reading."""
        return self._users[self[name].name]

    def operand_types(self, node: Node) -> tuple[TensorType, ...]:
        return tuple(self[operand].type for operand in node.inputs)

    def values(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every value `[batch, *shape]` for given network inputs and operands `[batch, *shape]`, by name.

        A value is kept after its last use; `evaluate` frees them. Raises ShapeError where an input is missing, of a
        shape that does not fit, or of a type that some operator does not take.
        """
        for node in (*self.inputs, *self.operands):
            if node.name not in inputs:
                raise ShapeError(f"expected a tensor for input %{node.name}, got none", where=self.name)
        self._check_batch({node.name: inputs[node.name] for node in (*self.inputs, *self.operands)})
        return self._tried(inputs, keep=True)

    def evaluate(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs for inputs in the source model's own layout: with its batch axis (of any size) where it has one.

        Raises ShapeError where an input is of a shape that does not fit, or of a type that some operator does not take.
        Returns a tuple where there are several outputs.
        """
        results = self._tried(self.batched(inputs), keep=False)
        outputs = tuple(results[name] for name in self.outputs)
        if not self.has_batch_axis:
            outputs = tuple(output[0] for output in outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def batched(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Inputs in the source model's layout as `[batch, *shape]` by name, checked."""
        expected = (*self.inputs, *self.operands)
        if len(inputs) != len(expected):
            names = ", ".join(f"%{node.name}" for node in expected)
            raise ShapeError(f"expected {len(expected)} inputs ({names}), got {len(inputs)}")
        result: dict[str, Tensor] = {}
        for node, tensor in zip(expected, inputs, strict=True):
            if isinstance(node.op, Input) and node.op.batch_axis is None and isinstance(tensor, Tensor):
                tensor = tensor[None]
            result[node.name] = tensor
        self._check_batch(result)
        return result

    def _check_batch(self, inputs: Mapping[str, Tensor]) -> None:
        """Raises ShapeError unless all are `[batch, *shape]` with one batch size."""
        for name, tensor in inputs.items():
            shape = self[name].type.shape
            if not isinstance(tensor, Tensor):
                given = type(tensor).__name__
                raise ShapeError(f"expected a tensor for input %{name}, got {given}", where=self.name)
            if tensor.ndim == 0 or tuple(tensor.shape[1:]) != shape:
                wanted = ", ".join(map(str, ("batch", *shape)))
                raise ShapeError(
                    f"expected a tensor [{wanted}] for input %{name}, got {list(tensor.shape)}", where=self.name
                )
        sizes = {tensor.shape[0] for tensor in inputs.values()}
        if len(sizes) > 1:
            raise ShapeError(f"expected one batch size for all inputs, got {sorted(sizes)}", where=self.name)

    def _tried(self, inputs: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
        """`_execute`; where that fails and inputs are of other types than the graph's, these are the reason."""
        try:
            return self._execute(inputs, keep)
        except RuntimeError as error:
            for node in (*self.inputs, *self.operands):
                wanted, given = node.type.dtype, inputs[node.name].dtype
                if given != wanted and not is_out_of_memory(error):
                    message = f"expected {wanted} for input %{node.name}, got {given}"
                    raise ShapeError(message, where=self.name, hint=f"convert it: tensor.to({wanted})") from error
            raise

    def _execute(self, inputs: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
        batch = next(iter(inputs.values())).shape[0] if inputs else 1
        remaining = {node.name: len(self._users[node.name]) for node in self.nodes}
        results: dict[str, Tensor] = {}
        for node in self.nodes:
            if isinstance(node.op, Input | Operand):
                results[node.name] = inputs[node.name]
                continue
            if isinstance(node.op, Constant):
                results[node.name] = node.op.evaluate().expand(batch, *node.type.shape)
                continue
            results[node.name] = node.op.evaluate(*(results[operand] for operand in node.inputs))
            for operand in node.inputs:
                remaining[operand] -= 1
                if not keep and remaining[operand] == 0 and operand not in self.outputs:
                    del results[operand]
        return results

    def parameters(self) -> dict[str, Param]:
        """All parameters as `node.field`; a tensor that several nodes share stands under each of its names."""
        return {
            f"{node.name}.{field}": parameter
            for node in self.nodes
            for field, parameter in node.op.parameters().items()
        }

    @cached_property
    def leaves(self) -> tuple[Tensor, ...]:
        """The live tensors that all parameters are, or are derived from, each once."""
        found = {id(leaf): leaf for parameter in self.parameters().values() for leaf in leaves(parameter)}
        return tuple(found.values())

    @cached_property
    def coarsest(self) -> torch.dtype:
        """The floating-point type of a value that rounds the most."""
        floats = [node.type.dtype for node in self.nodes if node.type.dtype.is_floating_point]
        return max(floats, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)

    def to_networkx(self) -> networkx.DiGraph[str]:
        """The DAG as a `networkx.DiGraph`: nodes by name with attribute `node`, an edge for each reading."""
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph(name=self.name)
        for node in self.nodes:
            graph.add_node(node.name, node=node)
        graph.add_edges_from((operand, node.name) for node in self.nodes for operand in node.inputs)
        return graph


class GraphBuilder:
    """Makes a graph node by node; types are inferred as nodes are added."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self._nodes: dict[str, Node] = {}
        self._counter = 0

    def add(self, op: Operator, *inputs: str, name: str | None = None, source: str | None = None) -> str:
        """Appends `op(inputs)` and returns the name of the new value; a name that is taken gets a number.

        Raises GraphError or ShapeError, naming node and source, where it does not fit.
        """
        label = self.fresh(name)
        place = f"%{label} = {op.name}" + (f" (from {source})" if source else "")
        missing = [operand for operand in inputs if operand not in self._nodes]
        if missing:
            raise GraphError(f"expected inputs defined before, got {', '.join('%' + m for m in missing)}", where=place)
        if (op.arity is None and not inputs) or (op.arity is not None and len(inputs) != op.arity):
            wanted = "one or more" if op.arity is None else op.arity
            raise GraphError(f"expected {wanted} inputs, got {len(inputs)}", where=place)
        try:
            type_ = op.infer(*(self._nodes[operand].type for operand in inputs))
        except IRVerifyError as error:
            raise type(error)(error.message, where=place, hint=error.hint) from error
        self._nodes[label] = Node(label, op, tuple(inputs), type_, source)
        return label

    def input(self, type_: TensorType, name: str = "x", batch_axis: int | None = 0, source: str | None = None) -> str:
        return self.add(Input(type_, batch_axis), name=name, source=source)

    def type(self, name: str) -> TensorType:
        return self._nodes[name].type

    def node(self, name: str) -> Node:
        return self._nodes[name]

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def fresh(self, name: str | None = None) -> str:
        """A legal name that is not taken, close to `name`; a number where none is given."""
        if name is None:
            while str(self._counter) in self._nodes:
                self._counter += 1
            return str(self._counter)
        stem = re.sub(r"[^A-Za-z0-9_.$-]+", "_", name).lstrip(".$-") or "v"
        if stem not in self._nodes:
            return stem
        number = 1
        while f"{stem}${number}" in self._nodes:
            number += 1
        return f"{stem}${number}"

    def graph(self, outputs: Sequence[str], origin: Origin | None = None) -> Graph:
        return Graph(self._nodes.values(), outputs, self.name, origin)


def convert(graph: Graph, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Graph:
    """The same graph with floating-point parameters and inputs in another type or on another device.

    The parameters of the result are detached copies (shared ones stay shared): it follows no optimiser any more.
    """
    from irverify.ir.params import Derived

    copies: dict[int, Tensor] = {}

    def moved(parameter: Param) -> Tensor:
        if id(parameter) not in copies:
            if isinstance(parameter, Derived):
                # Computed anew from converted sources, so that it does not inherit the rounding of the old type.
                tensor = parameter.function(*map(moved, parameter.sources)).detach()
            else:
                tensor = parameter.detach()
            wanted = dtype if tensor.is_floating_point() else None
            copies[id(parameter)] = tensor.to(device=device, dtype=wanted, copy=True)
        return copies[id(parameter)]

    return with_parameters(graph, moved, dtype)


def with_parameters(graph: Graph, new: Callable[[Param], Param], dtype: torch.dtype | None = None) -> Graph:
    """The same graph with other parameters, and with inputs and casts of another floating-point type."""
    from irverify.ir.ops import Cast

    def changed(op: Operator) -> Operator:
        if isinstance(op, Input | Operand) and dtype is not None and op.type.dtype.is_floating_point:
            return op.replace(type=op.type.with_dtype(dtype))
        if isinstance(op, Cast) and dtype is not None:
            return op.replace(dtype=dtype)
        return op.replace(**{field: new(parameter) for field, parameter in op.parameters().items()})

    return rewrite(graph, lambda builder, node, inputs: builder.add(
        changed(node.op), *inputs, name=node.name, source=node.source
    ))  # fmt: skip


def without_dead_values(graph: Graph) -> Graph:
    """The graph without the values that no output depends on, or itself; inputs and operands stay."""
    live = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in live:
            live.update(node.inputs)
    kept = [node for node in graph.nodes if node.name in live or isinstance(node.op, Input | Operand)]
    if len(kept) == len(graph):
        return graph
    return Graph(kept, graph.outputs, graph.name, graph.origin)


def rewrite(graph: Graph, rule: Callable[[GraphBuilder, Node, tuple[str, ...]], str]) -> Graph:
    """A new graph: `rule(builder, node, new_inputs)` adds what replaces a node and returns the name of its value."""
    builder = GraphBuilder(graph.name)
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        renamed[node.name] = rule(builder, node, tuple(renamed[operand] for operand in node.inputs))
    return builder.graph([renamed[output] for output in graph.outputs], graph.origin)
