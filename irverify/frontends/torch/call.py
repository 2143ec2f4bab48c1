"""One ATen call as a rule sees it: what it reads, what it may add, and the reasons why it has no counterpart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, fx

from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Cast, Constant, Expand, Operator, Reshape
from irverify.ir.params import Derived, Param, value
from irverify.ir.types import TensorType


@dataclass(frozen=True)
class Value:
    """A value of the IR, by name."""

    name: str


@dataclass(frozen=True)
class Const:
    """A tensor that depends on no input. A live one may change between evaluations, so what is computed from it is
    `Derived`."""

    param: Param
    live: bool


class Unsupported(Exception):
    """Raised by a rule: the reason why a call has no counterpart in the IR."""


class BatchMixed(Unsupported):
    """Raised by a rule: the call does not treat every example alone."""


class InTrainingMode(Unsupported):
    """Raised by a rule: the call does what only training does."""


Rule: TypeAlias = "Callable[[Call], Value | Const | Sequence[Value | Const]]"
AnyRule = TypeVar("AnyRule", bound=Rule)
RULES: dict[str, Rule] = {}
"""ATen operator (without its overload) -> rule."""


def rule(*operators: str) -> Callable[[AnyRule], AnyRule]:
    """Registers a rule for ATen operators."""

    def register(function: AnyRule) -> AnyRule:
        for name in operators:
            if name in RULES:
                raise ValueError(f"two rules for aten.{name}")
            RULES[name] = function
        return function

    return register


@dataclass
class Call:
    """One ATen call: its arguments by name, its result's type, and how to add what stands for it.

    `lead` is 1 where axis 0 is the batch axis, which the IR leaves out, else 0.
    """

    builder: GraphBuilder
    node: fx.Node
    arguments: dict[str, Any]
    lead: int
    label: str
    source: str

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.arguments.get(name, default)

    @property
    def word(self) -> str:
        """The operator without its overload: `conv2d`."""
        return operator_word(self.node.target)

    @property
    def result(self) -> Tensor:
        """A fake tensor like the (first) result, batch axis included."""
        meta = self.node.meta["val"]
        return meta if isinstance(meta, Tensor) else meta[0]

    @property
    def results(self) -> tuple[Tensor, ...]:
        return tuple(self.node.meta["val"])

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's shape, without the batch axis."""
        return self.inner(self.result)

    @property
    def dtype(self) -> torch.dtype:
        return self.result.dtype

    def inner(self, fake: Tensor) -> tuple[int, ...]:
        """The shape of a fake tensor without the batch axis. Raises BatchMixed unless that is axis 0, and only it."""
        shape = tuple(fake.shape)
        if self.lead and (not shape or not is_symbol(shape[0])):
            raise BatchMixed(f"its result {describe(shape)} does not keep the batch on axis 0")
        if any(re.match(r"u\d", str(extent)) for extent in shape):
            raise Unsupported("its result's shape depends on the values of its operands")
        rest = shape[self.lead :]
        if any(isinstance(extent, torch.SymInt) for extent in rest):
            raise BatchMixed(f"its result {describe(shape)} mixes the batch into another axis")
        return tuple(int(extent) for extent in rest)

    def type(self, value: Value) -> TensorType:
        return self.builder.type(value.name)

    def rank(self, value: Value) -> int:
        """Number of axes in the module, batch axis included."""
        return self.type(value).rank + self.lead

    def axis(self, value: Value, axis: int) -> int:
        """An axis of the module's tensor as one of the IR's value. Raises BatchMixed for the batch axis."""
        inner = axis % self.rank(value) - self.lead
        if inner < 0:
            raise BatchMixed("it works along the batch axis")
        return inner

    def value(self, name: str) -> Value:
        """An argument that has to be a value of the network."""
        argument = self.arguments[name]
        if not isinstance(argument, Value):
            raise Unsupported(f"its {name} does not depend on the input")
        return argument

    def const(self, name: str) -> Const:
        """An argument that has to be a constant tensor."""
        argument = self.arguments[name]
        if not isinstance(argument, Const):
            raise Unsupported(f"its {name} depends on the input")
        return argument

    def optional(self, name: str) -> Const | None:
        return None if self.arguments.get(name) is None else self.const(name)

    def param(self, name: str) -> Param | None:
        """An argument that is a constant tensor or absent."""
        const = self.optional(name)
        return None if const is None else const.param

    def add(self, op: Operator, *inputs: Value) -> Value:
        """Appends a node and returns its value."""
        name = self.builder.add(op, *(value.name for value in inputs), name=self.label, source=self.source)
        return Value(name)

    def reshaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        return value if self.type(value).shape == shape else self.add(Reshape(shape), value)

    def expanded(self, value: Value, shape: tuple[int, ...]) -> Value:
        return value if self.type(value).shape == shape else self.add(Expand(shape), value)

    def typed(self, value: Value, dtype: torch.dtype) -> Value:
        return value if self.type(value).dtype == dtype else self.add(Cast(dtype), value)

    def constant(self, const: Const) -> Value:
        """A constant, already without batch axis, as a value."""
        return self.add(Constant(const.param))

    def scalar(self, number: float | int | bool) -> Const:
        """A number as a constant of the result's element type."""
        return Const(torch.tensor(number, dtype=self.dtype, device=self.result.device), live=False)


def derive(function: Callable[..., Tensor], *consts: Const) -> Const:
    """`function` of constants: computed now where nothing can change, else whenever it is needed."""
    if any(const.live for const in consts):
        return Const(Derived(function, *(const.param for const in consts)), live=True)
    with torch.no_grad():
        return Const(function(*(const.param for const in consts)), live=False)


def current(const: Const) -> Tensor:
    """The tensor that a constant is now, for its shape and, where it is not live, its elements."""
    return value(const.param).detach()


def is_symbol(extent: Any) -> bool:
    """Whether an extent is the batch size itself (export makes one symbol only), not an expression of it."""
    return isinstance(extent, torch.SymInt) and re.fullmatch(r"s\d+", str(extent)) is not None


def depends_on_batch(meta: Any) -> bool:
    """Whether a traced result, or the shape of one, is an expression of the batch size."""
    if isinstance(meta, Tensor):
        return any(isinstance(extent, torch.SymInt) for extent in meta.shape)
    if isinstance(meta, tuple | list):
        return any(map(depends_on_batch, meta))
    return isinstance(meta, torch.SymInt | torch.SymFloat | torch.SymBool)


def describe(shape: Sequence[Any]) -> str:
    return f"[{', '.join('batch' if is_symbol(extent) else str(extent) for extent in shape)}]"


def operator_word(target: Any) -> str:
    """`conv2d` for `aten.conv2d.padding`; other targets by their own name."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.removeprefix("aten::")
    return str(getattr(target, "__name__", target))
