"""Masked training: what is pruned, that it stays pruned, and that everything else understands it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

import irverify as iv
from irverify.data import digits
from irverify.errors import ShapeError, UsageError
from irverify.ir.ops import Relu
from irverify.train import masks
from irverify.train.export import export
from irverify.train.masked_relu import MaskedReLU
from irverify.train.networks import network

PIECES = torch.tensor([[-1, 0, 1], [1, 0, -1]])


def linear(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return layer


def small() -> nn.Sequential:
    return nn.Sequential(linear([[1.0, -0.1], [0.3, 0.02]]), nn.ReLU(), linear([[0.01, 2.0]]))


def data(count: int = 100) -> tuple[Tensor, Tensor]:
    found = digits("train").select(range(count))
    return torch.from_numpy(found.images), torch.from_numpy(found.labels)


def test_weights_below_a_threshold_become_zero() -> None:
    module = small()
    found = masks.prune_weights(module, 0.1)
    assert module.get_parameter("0.weight").tolist() == torch.tensor([[1.0, -0.1], [0.3, 0.0]]).tolist()  # not below
    assert module.get_parameter("2.weight").tolist() == [[0.0, 2.0]]
    assert (found.layers, found.count, found.total) == ({"0": (1, 4), "2": (1, 2)}, 2, 6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sparsity": 0.5}, {"0": (2, 4), "2": (1, 2)}),
        ({"sparsity": 0.5, "over": "network"}, {"0": (2, 4), "2": (1, 2)}),
        ({"sparsity": 0.7, "over": "network"}, {"0": (3, 4), "2": (1, 2)}),
        ({"sparsity": 0.7}, {"0": (2, 4), "2": (1, 2)}),
        ({"threshold": 10.0, "only": ["2"]}, {"0": (0, 4), "2": (2, 2)}),
    ],
)
def test_sparsity_and_layers(options: dict[str, object], expected: dict[str, tuple[int, int]]) -> None:
    assert masks.prune_weights(small(), **options).layers == expected  # type: ignore[arg-type]


def test_what_was_pruned_stays_and_counts() -> None:
    module = small()
    masks.prune_weights(module, 0.05)
    with torch.no_grad():
        module.get_parameter("0.weight").fill_(1.0)
    found = masks.prune_weights(module, sparsity=0.5)
    assert found.layers == {"0": (2, 4), "2": (1, 2)}
    assert module.get_parameter("0.weight")[1, 1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected a threshold or a sparsity"),
        ({"threshold": 0.1, "sparsity": 0.1}, "expected a threshold or a sparsity"),
        ({"threshold": -1.0}, "expected a finite threshold >= 0, got -1"),
        ({"threshold": float("nan")}, "expected a finite threshold >= 0, got nan"),
        ({"sparsity": 1.0}, "expected a sparsity from 0 to below 1, got 1"),
        ({"sparsity": 0.1, "over": "all"}, "expected over to be layer or network, got 'all'"),
        ({"sparsity": 0.1, "only": ["3"]}, r"expected names of linear layers or convolutions \(0, 2\), got 3"),
    ],
)
def test_mistakes_with_weights(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        masks.prune_weights(small(), **options)  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_no_small_ones() -> None:
    module = small()
    with torch.no_grad():
        module.get_parameter("0.weight")[0, 0] = torch.nan
    with pytest.raises(UsageError, match="0: expected finite weights"):
        masks.prune_weights(module, 0.1)
    with pytest.raises(UsageError, match="expected linear layers or convolutions in the module, got none"):
        masks.prune_weights(nn.ReLU(), 0.1)


def momentum(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-3, nesterov=True)


@pytest.mark.parametrize("make", [momentum, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_no_optimiser_undoes_it(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    module, (x, y) = network("mlp-2x100", (1, 8, 8), 10), data()
    optimiser = make(list(module.parameters()))
    handle = masks.keep(module, optimiser)

    def step() -> None:
        optimiser.zero_grad()
        cross_entropy(module(x), y).backward()
        optimiser.step()

    step()
    masks.prune_weights(module, sparsity=0.5)  # with momentum in all weights
    gone = {name: part == 0 for name, part in module.named_parameters() if name.endswith("weight")}
    before = {name: part.detach().clone() for name, part in module.named_parameters()}
    for _ in range(3):
        step()
    for name, part in module.named_parameters():
        if name in gone:
            assert torch.equal(part == 0, gone[name])
        assert not torch.equal(part, before[name])
    handle.remove()
    step()
    assert any(bool((module.get_parameter(name)[zero] != 0).any()) for name, zero in gone.items())


def test_masked_relu_by_hand() -> None:
    x = torch.tensor([[[1.0, 2.0, -3.0], [-4.0, -5.0, -6.0]], [[-1.0, -2.0, 3.0], [4.0, 5.0, 6.0]]])
    expected = [[[1.0, 0.0, -3.0], [-4.0, 0.0, 0.0]], [[0.0, 0.0, 3.0], [4.0, 0.0, 6.0]]]
    part = MaskedReLU(PIECES)
    assert part(x).tolist() == expected
    for piece, result in ((-1, relu(x)), (0, torch.zeros_like(x)), (1, x)):
        assert torch.equal(MaskedReLU(torch.full((2, 3), piece))(x), result)
    assert list(part.state_dict()) == ["piece"]
    with pytest.raises(ShapeError, match=r"expected inputs \[batch, 2, 3\], got \[2, 3\]"):
        part(x[0])


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), kinds=st.sets(st.integers(-1, 1), min_size=1),
       seed=st.integers(0, 99))  # fmt: skip
def test_masked_relu_is_one_of_three_functions_at_each_element(shape: list[int], kinds: set[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.tensor(sorted(kinds), dtype=torch.int8)
    piece = chosen[torch.randint(len(chosen), shape, generator=generator)]
    x = torch.randn((3, *shape), generator=generator, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    expected = torch.where(piece == 1, other, torch.where(piece == 0, 0 * other, relu(other)))
    found = MaskedReLU(piece)(x)
    assert torch.equal(found, expected)
    weights = torch.randn(x.shape, generator=generator)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(x.grad, other.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_activity_decides_which_relus_go(share: float) -> None:
    torch.manual_seed(1)
    module, (x, _) = network("digits-small", (1, 8, 8), 10), data()
    values = {"1": module[:1](x), "3": module[:3](x), "6": module[:6](x)}
    found = masks.activity(module, x)
    assert found.total == 100
    masks.prune_relus(module, found, share)
    for name, z in values.items():
        active = (z > 0).sum(0)
        assert torch.equal(found.active[name], active)
        part = module.get_submodule(name)
        piece = part.piece if isinstance(part, MaskedReLU) else torch.full(active.shape, -1)
        rare, usual = active <= share * 100, active >= 100 - share * 100
        assert torch.equal(piece == 0, rare)
        assert torch.equal(piece == 1, usual & ~rare)
    if share == 0:  # on these images nothing has changed
        torch.testing.assert_close(module(x), network_like(module)(x))


def network_like(module: nn.Module) -> nn.Module:
    """The same weights with all ReLUs."""
    whole = network("digits-small", (1, 8, 8), 10)
    whole.load_state_dict({name: part for name, part in module.state_dict().items() if not name.endswith("piece")})
    return whole


def test_pruning_more_keeps_what_was_pruned() -> None:
    torch.manual_seed(1)
    module, (x, _) = network("digits-small", (1, 8, 8), 10), data()
    few = masks.prune_relus(module, x, 0.1, only=["[13]"])
    assert set(few.layers) == {"1", "3"}
    before = {name: module.get_buffer(f"{name}.piece").clone() for name in few.layers}
    more = masks.prune_relus(module, x, 0.3)
    assert (set(more.layers), more.count > few.count) == ({"1", "3", "6"}, True)
    for name, piece in before.items():
        now = module.get_buffer(f"{name}.piece")
        assert torch.equal(now[piece >= 0], piece[piece >= 0])


def test_mistakes_with_relus() -> None:
    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return relu(x)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.act(self.act(x) - 1)
            return y

    x = torch.rand(5, 2)
    for module, share, message in (
        (small(), 0.5, "expected a share from 0 to below 0.5, got 0.5"),
        (Functional(), 0.1, "expected nn.ReLU modules in the module, got none"),
        (Twice(), 0.1, "expected ReLUs that are called once, got act"),
        (nn.ReLU(), 0.1, "expected a module that has ReLUs, got one"),
    ):
        with pytest.raises(UsageError, match=message):
            masks.prune_relus(module, x, share)


def test_counting_leaves_the_module_as_it_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(inplace=True), nn.Linear(20, 3))
    module[1].eval()
    before = {name: part.clone() for name, part in module.state_dict().items()}
    found = masks.activity(module, torch.rand(700, 64))
    assert [part.training for part in module] == [True, False, True, True]
    assert all(torch.equal(before[name], part) for name, part in module.state_dict().items())
    assert (found.total, int(found.active["2"].max()) <= 700) == (700, True)


def test_state_goes_to_a_module_that_was_not_pruned() -> None:
    torch.manual_seed(0)
    module, (x, _) = network("digits-small", (1, 8, 8), 10), data()
    masks.prune_weights(module, sparsity=0.3)
    masks.prune_relus(module, x, 0.2)
    other = network("digits-small", (1, 8, 8), 10)
    masks.load(other, module.state_dict())
    assert torch.equal(other(x), module(x))
    assert masks.pruned_weights(other) == masks.pruned_weights(module)
    again = network("digits-small", (1, 8, 8), 10)
    masks.prune_relus(again, -x, 0.0)  # other masks, which the state replaces
    masks.load(again, module.state_dict())
    assert torch.equal(again(x), module(x))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        masks.load(network("mlp-2x100", (1, 8, 8), 10), module.state_dict())


def test_graphs_files_and_encodings_have_only_the_relus_that_are_left(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, (x, y) = network("digits-small", (1, 8, 8), 10), data(20)
    whole = iv.compile(module.eval(), x[:1])
    with torch.no_grad():
        module.get_parameter("0.bias")[0] = -9.0  # a channel that is off
        module.get_parameter("2.bias")[1] = 9.0  # one that is on
    found = masks.prune_relus(module, x, 0.2)
    left = found.total - found.count
    graph = iv.compile(module, x[:1])
    written = export(tmp_path, module, x[:1], "", {})
    region = iv.Linf(x[:3].double(), 0.05, clip=(0, 1))
    for lowered in (graph, written, iv.compile(tmp_path / "model.safetensors")):
        assert sum(node.type.size for node in lowered if isinstance(node.op, Relu)) == left
        torch.testing.assert_close(lowered.evaluate(x), module(x).detach(), rtol=1e-4, atol=1e-5)
        state = iv.run(lowered, "ibp,stability", region)
        assert sum(labels.piece[0].numel() for labels in state.stability.values()) == left
    before = iv.formulate(whole, iv.Linf(x[0], 0.05, clip=(0, 1)), iv.robust(int(y[0])))
    after = iv.formulate(graph, iv.Linf(x[0], 0.05, clip=(0, 1)), iv.robust(int(y[0])))
    unstable = [sum(made.statistics.unstable.values()) for made in (before, after)]
    assert unstable[1] <= left
    assert unstable[1] < unstable[0]
    assert before.statistics.binaries - after.statistics.binaries == unstable[0] - unstable[1]


def test_bounds_and_losses_take_masked_networks() -> None:
    torch.manual_seed(0)
    module, (x, y) = network("digits-small", (1, 8, 8), 10), data(20)
    masks.prune_relus(module, x, 0.2)
    bounded = iv.BoundGraph(module, x[:1], "ibp")
    graph = iv.compile(module.eval(), x[:1])
    total = (
        iv.losses.ibp(bounded, x, y, 0.05, 0.5, clip=(0, 1))
        + iv.losses.dual(graph, x, y, 0.05, clip=(0, 1))
        + iv.losses.adversarial(graph, x, y, 0.05, clip=(0, 1))
        + iv.regularizers.rs_loss(graph, x, 0.05, clip=(0, 1))
    )
    total.backward()
    assert all(bool(part.grad.isfinite().all()) for part in module.parameters() if part.grad is not None)
    margins = iv.margins(graph, iv.Linf(x, 0.05, clip=(0, 1)), y, method="crown")
    for _ in range(20):
        near = (x + 0.05 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        logits = module(near).detach()
        assert bool((logits.gather(1, y[:, None]) - logits >= margins - 1e-4).all())


@pytest.mark.parametrize(
    ("inputs", "message"), [(torch.zeros(0, 2), "at least one"), (torch.tensor([[torch.nan, 1.0]]), "NaN")]
)
def test_activity_of_nothing_or_of_what_is_no_number(inputs: Tensor, message: str) -> None:
    module = small()
    with pytest.raises(UsageError, match=message):
        masks.prune_relus(module, inputs)
    assert type(module[1]) is nn.ReLU


def test_weights_that_are_computed_of_others_cannot_be_masked() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    with pytest.raises(UsageError, match="a parameter of the layer"):
        masks.prune_weights(module, sparsity=0.5)


def test_a_bound_graph_of_the_network_before_is_refused() -> None:
    module, inputs = small(), torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    labels = torch.zeros(3, dtype=torch.long)
    bounded = iv.BoundGraph(module, inputs[:1])
    masks.prune_weights(module, 0.1)
    assert torch.equal(bounded(inputs, 0.0, labels).logits, module(inputs))
    for share in (0.3, 0.4):  # one in three goes with the second one
        masks.prune_relus(module, inputs, share)
        if share == 0.4:
            with pytest.raises(UsageError, match="the same parts"):
                bounded(inputs, 0.0, labels)
        bounded = iv.BoundGraph(module, inputs[:1])
        assert torch.equal(bounded(inputs, 0.0, labels).logits, module(inputs))
