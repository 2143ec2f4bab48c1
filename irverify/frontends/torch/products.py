"""Rules for matrix products, of values and of values with constants."""

from __future__ import annotations

import math

from torch import Tensor

from irverify.frontends.torch.arithmetic import inner_const, scaled
from irverify.frontends.torch.call import BatchMixed, Call, Const, Unsupported, Value, current, derive, rule
from irverify.ir.ops import Add, ConstMatMul, Linear, MatMul, ScaleShift, Softmax, Transpose
from irverify.ir.params import Param


@rule("linear")
def linear(call: Call) -> Value:
    return call.add(Linear(call.const("weight").param, call.param("bias")), call.value("input"))


@rule("mm", "bmm", "matmul", "mv", "dot")
def matmul(call: Call) -> Value:
    names = [name for name in call.arguments if name in ("self", "other", "mat2", "vec", "tensor")]
    first, second = (call[name] for name in names)
    return _product(call, first, second)


@rule("addmm", "baddbmm", "addmv", "addbmm")
def addmm(call: Call) -> Value:
    """`beta self + alpha (first second)`."""
    if call.word == "addbmm":
        raise Unsupported("it sums over the batch")
    names = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}[call.word]
    product = _product(call, call[names[0]], call[names[1]])
    alpha, beta = call["alpha"], call["beta"]
    if alpha != 1:
        product = scaled(call, product, call.scalar(alpha))
    if beta == 0:
        return product
    summand = call["self"]
    if isinstance(summand, Const):
        shift = inner_const(call, summand)
        return scaled(call, product, shift=shift if beta == 1 else derive(lambda tensor: beta * tensor, shift))
    if beta != 1:
        summand = scaled(call, summand, call.scalar(beta))
    return call.add(Add(), product, call.expanded(summand, call.shape))


def _product(call: Call, first: Value | Const, second: Value | Const) -> Value:
    """`torch.matmul` of two values, or of a value and a constant on either side."""
    if isinstance(first, Value) and isinstance(second, Value):
        return _product_of_values(call, first, second)
    if isinstance(first, Value):
        assert isinstance(second, Const)
        return _product_with(call, first, second)
    assert isinstance(second, Value)
    return _product_by(call, first, second)


def _product_with(call: Call, operand: Value, const: Const) -> Value:
    """`x W`: a linear layer where W is a matrix or a vector."""
    if current(const).ndim == 1:
        return call.reshaped(call.add(Linear(derive(lambda vector: vector[None], const).param), operand), call.shape)
    if current(const).ndim == 2:
        return call.add(Linear(derive(Tensor.t, const).param), operand)
    weight, shape = _without_batch(call, const, operand), call.type(operand).shape
    operand = call.reshaped(operand, shape if len(shape) > 1 else (1, *shape))
    return call.reshaped(call.add(ConstMatMul(weight), operand), call.shape)


def _product_by(call: Call, const: Const, operand: Value) -> Value:
    """`W x`."""
    if call.lead and call.rank(operand) <= 2:
        raise BatchMixed("it multiplies along the batch axis")
    if current(const).ndim == 1:
        const = derive(lambda vector: vector[None], const)
    weight, shape = _without_batch(call, const, operand), call.type(operand).shape
    operand = call.reshaped(operand, shape if len(shape) > 1 else (*shape, 1))
    return call.reshaped(call.add(ConstMatMul(weight, left=True), operand), call.shape)


def _without_batch(call: Call, const: Const, operand: Value) -> Param:
    """A constant factor without the axis that meets the batch axis."""
    if call.lead and current(const).ndim > call.rank(operand):
        raise BatchMixed("its constant factor has more axes than the value")
    if call.lead and current(const).ndim == call.rank(operand):
        if current(const).shape[0] != 1:
            raise BatchMixed("its constant factor differs along the batch axis")
        return derive(lambda tensor: tensor.squeeze(0), const).param
    return const.param


def _product_of_values(call: Call, first: Value, second: Value) -> Value:
    shapes = [call.type(side).shape for side in (first, second)]
    if call.lead and (len(shapes[0]) != len(shapes[1]) or len(shapes[0]) < 2):
        raise BatchMixed("it multiplies along the batch axis")
    shapes[0] = shapes[0] if len(shapes[0]) > 1 else (1, *shapes[0])
    shapes[1] = shapes[1] if len(shapes[1]) > 1 else (*shapes[1], 1)
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    product = call.add(MatMul(), call.reshaped(first, padded[0]), call.reshaped(second, padded[1]))
    return call.reshaped(product, call.shape)


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Value:
    """`softmax(query key^T scale) value`."""
    if call["attn_mask"] is not None or call["is_causal"] or call["enable_gqa"]:
        raise Unsupported("it masks or groups")
    query, key, operand = (call.value(name) for name in ("query", "key", "value"))
    shape = call.type(key).shape
    if len({len(call.type(part).shape) for part in (query, key, operand)}) > 1 or len(shape) < 2:
        raise BatchMixed("its operands of different rank align the batch axis with another one")
    factor = call["scale"] or 1 / math.sqrt(shape[-1])
    scaled_query = call.add(ScaleShift(call.scalar(factor).param), query)
    turned = call.add(Transpose((*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)), key)
    weights = call.add(Softmax(-1), call.add(MatMul(), scaled_query, turned))
    return call.add(MatMul(), weights, operand)


@rule("einsum")
def einsum(call: Call) -> Value:
    """Two operands, each letter at most once in each: both as stacks of matrices, one product, and back."""
    equation, operands = call["equation"].replace(" ", ""), call["tensors"]
    letters, _, result = equation.partition("->")
    sides = letters.split(",")
    if "." in equation or "->" not in equation or len(operands) != 2 or any(len(set(s)) < len(s) for s in sides):
        raise Unsupported(f"{equation!r} is not a product of two operands with a result")
    if call.lead:
        sides, result = _without_batch_letter(sides, result, operands)
    first, second = sides
    stack = [letter for letter in first if letter in second and letter in result]
    inner = [letter for letter in first if letter in second and letter not in result]
    rows = [letter for letter in first if letter not in second]
    columns = [letter for letter in second if letter not in first]
    if set(rows + columns) - set(result):
        raise Unsupported(f"{equation!r} sums one operand alone")
    extents = _extents(call, sides, operands)
    left = _arranged(call, operands[0], first, (stack, rows, inner), extents)
    right = _arranged(call, operands[1], second, (stack, inner, columns), extents)
    order = [*stack, *rows, *columns]
    product = _stack_product(call, left, right)
    product = call.reshaped(product, tuple(extents[letter] for letter in order))
    permutation = tuple(order.index(letter) for letter in result)
    return product if permutation == tuple(range(len(order))) else call.add(Transpose(permutation), product)


def _without_batch_letter(sides: list[str], result: str, operands: list[Value | Const]) -> tuple[list[str], str]:
    """The letters without that of the batch axis, which is the first of every value and of the result."""
    batch = {side[:1] for side, operand in zip(sides, operands, strict=True) if isinstance(operand, Value)}
    letter = batch.pop()
    constant = [side for side, operand in zip(sides, operands, strict=True) if isinstance(operand, Const)]
    if batch or not letter or result[:1] != letter or any(letter in side for side in constant):
        raise BatchMixed("it works along the batch axis")
    return [side.removeprefix(letter) for side in sides], result[1:]


def _extents(call: Call, sides: list[str], operands: list[Value | Const]) -> dict[str, int]:
    extents: dict[str, int] = {}
    for side, operand in zip(sides, operands, strict=True):
        shape = call.type(operand).shape if isinstance(operand, Value) else tuple(current(operand).shape)
        for letter, extent in zip(side, shape, strict=True):
            if extents.setdefault(letter, extent) != extent:
                raise Unsupported("its operands broadcast")
    return extents


def _arranged(
    call: Call, operand: Value | Const, side: str, groups: tuple[list[str], ...], extents: dict[str, int]
) -> Value | Const:
    """An operand with its letters in the order of the groups, and one axis for each group."""
    order = tuple(side.index(letter) for group in groups for letter in group)
    shape = tuple(math.prod(extents[letter] for letter in group) for group in groups)
    if isinstance(operand, Const):
        return derive(lambda tensor: tensor.permute(order).reshape(shape), operand)
    moved = operand if order == tuple(range(len(order))) else call.add(Transpose(order), operand)
    return call.reshaped(moved, shape)


def _stack_product(call: Call, left: Value | Const, right: Value | Const) -> Value:
    """The product of two stacks of matrices `[stack, rows, inner]` and `[stack, inner, columns]`."""
    if isinstance(left, Value) and isinstance(right, Value):
        return call.add(MatMul(), left, right)
    if isinstance(left, Value):
        assert isinstance(right, Const)
        return call.add(ConstMatMul(right.param), left)
    assert isinstance(right, Value)
    return call.add(ConstMatMul(left.param, left=True), right)
