"""Each rule of interval arithmetic against bounds computed by hand. Both analyses agree on all of these operators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from irverify.errors import UnsupportedError
from irverify.ir.text import parse_graph
from irverify.pipeline import State, run
from irverify.regions import Box

ANALYSES = ("interval", "ibp")


def box(*pairs: tuple[float, float], shape: tuple[int, ...] | None = None) -> Box:
    """A batch of one box from (lower, upper) of each coordinate."""
    ends = torch.tensor(pairs, dtype=torch.float64)
    size = (1, *(shape or (len(pairs),)))
    return Box(ends[:, 0].reshape(size), ends[:, 1].reshape(size))


def analyse(analysis: str, body: str, *regions: Box, **operands: Tensor) -> State:
    declared = "".join(
        f"%x{index}: f64[{','.join(map(str, region.shape))}] = input()\n" for index, region in enumerate(regions)
    )
    graph = parse_graph(f'graph "test" {{\n{declared}{body}\nreturn %y\n}}')
    return run(graph, analysis, regions, operands=operands)


def bounds(analysis: str, body: str, *regions: Box, **operands: Tensor) -> list[tuple[float, float]]:
    found = analyse(analysis, body, *regions, **operands).bounds["y"]
    return list(zip(found.lower.flatten().tolist(), found.upper.flatten().tolist(), strict=True))


ONE_VALUE = [
    # affine
    ("linear(%x0) {weight=tensor([[2, -3]]), bias=tensor([1])}", [(-1, 1), (0, 2)], [(-7, 3)]),
    ("linear(%x0) {weight=tensor([[2, -3]])}", [(1, 1), (2, 2)], [(-4, -4)]),
    ("scale_shift(%x0) {scale=tensor([2, -1]), shift=tensor(1)}", [(-1, 1), (0, 2)], [(-1, 3), (-1, 1)]),
    ("scale_shift(%x0) {shift=tensor(1)}", [(-1, 1)], [(0, 2)]),
    ("batch_norm(%x0) {mean=tensor([1, 0]), variance=tensor([4, 1]), weight=tensor([2, -1]), epsilon=0.0}",
     [(1, 3), (0, 2)], [(0, 2), (-2, 0)]),
    ("neg(%x0)", [(-1, 2)], [(-2, 1)]),
    ("add(%x0, %x0, %x0)", [(-1, 2)], [(-3, 6)]),
    ("sub(%x0, %x0)", [(-1, 2)], [(0, 0)]),
    ("identity(%x0)", [(-1, 2)], [(-1, 2)]),
    ("slice(%x0) {starts=(1,), stops=(2,), steps=(1,)}", [(0, 1), (-3, 2)], [(-3, 2)]),
    ("gather(%x0) {indices=tensor([1, 1], i64), axis=0}", [(0, 1), (-3, 2)], [(-3, 2), (-3, 2)]),
    ("pad(%x0) {padding=((1, 0),)}", [(1, 2)], [(0, 0), (1, 2)]),
    ("expand(%x0) {shape=(2, 1)}", [(1, 2)], [(1, 2), (1, 2)]),
    ("concat(%x0, %x0) {axis=0}", [(1, 2)], [(1, 2), (1, 2)]),
    ("reduce_sum(%x0) {axes=(0,)}", [(1, 2), (-3, 1)], [(-2, 3)]),
    ("reduce_mean(%x0) {axes=(0,)}", [(1, 2), (-3, 1)], [(-1, 1.5)]),
    # monotone
    ("relu(%x0)", [(-1, 2), (-2, -1), (1, 2)], [(0, 2), (0, 0), (1, 2)]),
    ("leaky_relu(%x0) {slope=0.5}", [(-2, 2)], [(-1, 2)]),
    ("clip(%x0) {lower=-1.0, upper=1.0}", [(-2, 0.5), (0, 3)], [(-1, 0.5), (0, 1)]),
    ("sigmoid(%x0)", [(0, math.inf)], [(0.5, 1)]),
    ("tanh(%x0)", [(0, 1)], [(0, math.tanh(1))]),
    ("exp(%x0)", [(0, 1)], [(1, math.e)]),
    # with jumps: an end within rounding of one counts as on either side of it
    ("step(%x0)", [(0.1, 2), (-2, -0.1), (-1, 1), (0, 1), (-1, 0), (-1, 1e-15)],
     [(1, 1), (0, 0), (0, 1), (0, 1), (0, 1), (0, 1)]),
    ("step(%x0) {inclusive=True}", [(1e-15, 2), (-2, -1e-15), (0, 1)], [(0, 1), (0, 1), (0, 1)]),
    ("trunc(%x0)", [(-1.5, 1.5), (1.1, 1.9), (2, 2.5)], [(-1, 1), (1, 1), (1, 2)]),
    # neither
    ("abs(%x0)", [(-1, 2), (-3, -1), (1, 2)], [(0, 2), (1, 3), (1, 2)]),
    ("pow(%x0) {exponent=2.0}", [(-1, 2), (-3, -1), (1, 2)], [(0, 4), (1, 9), (1, 4)]),
    ("pow(%x0) {exponent=3.0}", [(-1, 2), (-3, -1)], [(-1, 8), (-27, -1)]),
    ("pow(%x0) {exponent=0.0}", [(-1, 2)], [(1, 1)]),
    ("pow(%x0) {exponent=0.5}", [(0, 4)], [(0, 2)]),
    ("pow(%x0) {exponent=-0.5}", [(1, 4)], [(0.5, 1)]),
    ("pow(%x0) {exponent=-1.0}", [(2, 4), (-4, -2)], [(0.25, 0.5), (-0.5, -0.25)]),
    ("pow(%x0) {exponent=-2.0}", [(2, 4), (-4, -2)], [(0.0625, 0.25), (0.0625, 0.25)]),
    ("mul(%x0, %x0)", [(-1, 2)], [(0, 4)]),
    ("div(%x0, %x0)", [(1, 2)], [(1, 1)]),
    ("softmax(%x0)", [(0, math.log(2)), (0, 0)], [(0.5, 2 / 3), (1 / 3, 0.5)]),
    ("softmax(%x0)", [(0, 1)], [(1, 1)]),
]  # fmt: skip


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize(("operator", "given", "expected"), ONE_VALUE)
def test_of_one_value(
    analysis: str, operator: str, given: list[tuple[float, float]], expected: list[tuple[float, float]]
) -> None:
    given = [(lower, min(upper, 1e300)) for lower, upper in given]
    found = bounds(analysis, f"%y = {operator}", box(*given))
    assert found == [pytest.approx(pair, rel=1e-14, abs=1e-14) for pair in expected]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_a_jump_of_a_scalar(analysis: str) -> None:
    body = "%s = reduce_sum(%x0) {axes=(0,)}\n%y = step(%s)"
    assert bounds(analysis, body, box((0.5, 1), (-0.5, 1))) == [(0, 1)]


TWO_VALUES = [
    ("sub(%x0, %x1)", (-1, 2), (0, 5), (-6, 2)),
    ("mul(%x0, %x1)", (-1, 2), (-3, 4), (-6, 8)),
    ("mul(%x0, %x1)", (1, 2), (3, 4), (3, 8)),
    ("mul(%x0, %x1)", (1, 1), (-3, 4), (-3, 4)),
    ("div(%x0, %x1)", (-1, 2), (2, 4), (-0.5, 1)),
    ("div(%x0, %x1)", (1, 2), (-4, -2), (-1, -0.25)),
    ("maximum(%x0, %x1)", (-1, 2), (0, 1), (0, 2)),
    ("minimum(%x0, %x1)", (-1, 2), (0, 1), (-1, 1)),
    ("add(%x0, %x1)", (-1, 2), (0, 1), (-1, 3)),
]


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize(("operator", "first", "second", "expected"), TWO_VALUES)
def test_of_two_values(
    analysis: str,
    operator: str,
    first: tuple[float, float],
    second: tuple[float, float],
    expected: tuple[float, float],
) -> None:
    assert bounds(analysis, f"%y = {operator}", box(first), box(second)) == [pytest.approx(expected, rel=1e-15)]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_matmul_of_two_values(analysis: str) -> None:
    """[a b] [c; d] with a in [-1, 2], b in [1, 2], c in [-3, 4], d in [0, 1]: [-6, 8] + [0, 2]."""
    first, second = box((-1, 2), (1, 2), shape=(1, 2)), box((-3, 4), (0, 1), shape=(2, 1))
    assert bounds(analysis, "%y = matmul(%x0, %x1)", first, second) == [(-6, 10)]


def test_matmul_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    ends = [torch.randn((2, 2, 5, 3), generator=generator, dtype=torch.float64) for _ in range(4)]
    first = Box(torch.minimum(ends[0], ends[1]), torch.maximum(ends[0], ends[1]))
    second = Box(torch.minimum(ends[2], ends[3]).mT.contiguous(), torch.maximum(ends[2], ends[3]).mT.contiguous())
    whole = analyse("interval", "%y = matmul(%x0, %x1)", first, second).bounds["y"]
    monkeypatch.setattr("irverify.passes.products.CHUNK", 64)
    blocks = analyse("interval", "%y = matmul(%x0, %x1)", first, second).bounds["y"]
    assert torch.equal(whole.lower, blocks.lower)
    assert torch.equal(whole.upper, blocks.upper)


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize(
    ("interval", "sine", "cosine"),
    [
        ((0, 1), (0, math.sin(1)), (math.cos(1), 1)),
        ((1, 2), (math.sin(1), 1), (math.cos(2), math.cos(1))),
        ((2, 3), (math.sin(3), math.sin(2)), (math.cos(3), math.cos(2))),
        ((3, 5), (-1, math.sin(3)), (-1, math.cos(5))),
        ((-2, 2), (-1, 1), (math.cos(2), 1)),
        ((0, 7), (-1, 1), (-1, 1)),
        ((100, 101), (math.sin(100), math.sin(101)), (math.cos(100), 1)),
        # An end on a maximum up to rounding counts as holding it.
        ((0, math.pi / 2 - 1e-16), (0, 1), (math.cos(math.pi / 2), 1)),
    ],
)
def test_waves(analysis: str, interval: tuple[float, float], sine: object, cosine: object) -> None:
    assert bounds(analysis, "%y = sin(%x0)", box(interval)) == [pytest.approx(sine, rel=1e-14, abs=1e-15)]
    assert bounds(analysis, "%y = cos(%x0)", box(interval)) == [pytest.approx(cosine, rel=1e-14, abs=1e-15)]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_convolution(analysis: str) -> None:
    """Kernel [1 -2] over [0, 1], [2, 3], [4, 4] with a zero in front."""
    image = box((0, 1), (2, 3), (4, 4), shape=(1, 3))
    body = (
        "%y = conv(%x0) {weight=tensor([[[1, -2]]]), bias=tensor([1]), stride=(1,), padding=((1, 0),), dilation=(1,)}"
    )
    assert bounds(analysis, body, image) == [(-1, 1), (-5, -2), (-5, -4)]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_transposed_convolution(analysis: str) -> None:
    image = box((0, 1), (2, 3), shape=(1, 2))
    body = (
        "%y = conv_transpose(%x0) {weight=tensor([[[1, -2]]]), stride=(1,), padding=((0, 0),), output_padding=(0,), "
        "dilation=(1,)}"
    )
    assert bounds(analysis, body, image) == [(0, 1), (0, 3), (-6, -4)]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_product_with_a_constant_matrix(analysis: str) -> None:
    """For a in [0, 1], b in [1, 2], W = [[1 0] [-1 -2]]: [a b] W = [a - b, -2 b] and W [a b]^T = [a, -a - 2 b]."""
    body = "%y = const_matmul(%x0) {weight=tensor([[1, 0], [-1, -2]])"
    assert bounds(analysis, f"{body}}}", box((0, 1), (1, 2), shape=(1, 2))) == [(-2, 0), (-4, -2)]
    assert bounds(analysis, f"{body}, left=True}}", box((0, 1), (1, 2), shape=(2, 1))) == [(0, 1), (-5, -2)]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_pooling(analysis: str) -> None:
    image = box((0, 1), (2, 3), (4, 4), (-1, 5), shape=(1, 4))
    windows = "kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,)"
    assert bounds(analysis, f"%y = max_pool(%x0) {{{windows}}}", image) == [(2, 3), (4, 5)]
    average = f"%y = average_pool(%x0) {{{windows}, counted=((0, 0),)}}"
    assert bounds(analysis, average, image) == [(1, 2), (1.5, 4.5)]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_cast_rounds_outward(analysis: str) -> None:
    (pair,) = bounds(analysis, "%y = cast(%x0) {dtype=f32}", box((0.1, 0.7)))
    assert pair[0] <= 0.1
    assert pair[1] >= 0.7
    assert pair == pytest.approx((0.1, 0.7), rel=1e-7)


@pytest.mark.parametrize("analysis", ANALYSES)
def test_specification(analysis: str) -> None:
    """m = C (W x + b) + d: 2 x1 - x2 + 3 for the first example, -x1 + x2 + 2 for the second."""
    body = """
    %C: f64[1,2] = operand()
    %d: f64[1] = operand()
    %y = spec(%x0, %C, %d) {weight=tensor([[1, 0], [-1, 1]]), bias=tensor([1, 2])}
    """
    lower, upper = torch.tensor([[-1.0, 0.0]] * 2).double(), torch.tensor([[1.0, 2.0]] * 2).double()
    rows = torch.tensor([[[1.0, -1.0]], [[0.0, 1.0]]]).double()
    constants = torch.tensor([[4.0], [0.0]]).double()
    found = bounds(analysis, body, Box(lower, upper), C=rows, d=constants)
    assert found == [(-1, 5), (1, 5)]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_a_specification_with_perturbed_rows_is_refused(analysis: str) -> None:
    body = "%r = reshape(%x0) {shape=(1, 2)}\n%d: f64[1] = operand()\n%y = spec(%x0, %r, %d)"
    with pytest.raises(UnsupportedError, match="depend on the input"):
        analyse(analysis, body, box((0, 1), (0, 1)), d=torch.zeros(1, 1))


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize(
    ("operator", "interval", "problem"),
    [
        ("div(%x0, %x0)", (-1, 1), "divisor may be zero"),
        ("div(%x0, %x0)", (0, 1), "divisor may be zero"),
        ("pow(%x0) {exponent=-1.0}", (-1, 1), "base may be zero"),
        ("pow(%x0) {exponent=-2.0}", (0, 1), "base may be zero"),
        ("pow(%x0) {exponent=0.5}", (-0.1, 1), "base may be negative"),
        ("pow(%x0) {exponent=-0.5}", (0, 1), "base may be zero"),
    ],
)
def test_outside_the_domain(analysis: str, operator: str, interval: tuple[float, float], problem: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"%y = .*{problem}"):
        analyse(analysis, f"%y = {operator}", box(interval))


@pytest.mark.parametrize("analysis", ANALYSES)
def test_an_overflow_is_a_clean_error(analysis: str) -> None:
    body = "%e = exp(%x0)\n%y = linear(%e) {weight=tensor([[1, -1]])}"
    with pytest.raises(UnsupportedError, match="%y = linear: the bounds of %e are infinite"):
        analyse(analysis, body, box((0, 1000), (0, 1000)))


@pytest.mark.parametrize("analysis", ANALYSES)
def test_bounds_are_differentiable_in_the_parameters(analysis: str) -> None:
    """d/dw of the bounds of w x on [1, 2] at w = -3: lower 2 (it is w u), upper 1 (it is w l)."""
    weight = torch.tensor([[-3.0]], dtype=torch.float64, requires_grad=True)
    graph = parse_graph(
        'graph "test" {\n%x: f64[1] = input()\n%y = linear(%x) {weight=@w}\nreturn %y\n}', {"w": weight}
    )
    found = run(graph, analysis, box((1, 2))).bounds["y"]
    assert torch.autograd.grad(found.lower.sum(), weight, retain_graph=True)[0].item() == pytest.approx(2)
    assert torch.autograd.grad(found.upper.sum(), weight)[0].item() == pytest.approx(1)


def test_a_constant_and_what_is_made_of_it_are_exact() -> None:
    body = "%c = constant() {tensor=tensor([1, 2])}\n%s = sin(%c)\n%y = add(%x0, %s)"
    state = analyse("ibp", body, box((0, 1), (0, 1)))
    assert torch.equal(state.bounds["s"].lower, state.bounds["s"].upper)
    assert state.bounds["y"].width.tolist() == [[1.0, 1.0]]
