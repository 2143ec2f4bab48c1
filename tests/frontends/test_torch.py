"""Modules become graphs that share their parameters, compute what they compute, and leave them alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from irverify.errors import ImportMismatch, UnsupportedError, UsageError
from irverify.frontends.differential import compare
from irverify.frontends.torch import read_module
from irverify.ir.check import check
from irverify.ir.graph import Graph
from irverify.ir.ops import Input


class Block(nn.Module):
    """A residual block with batch normalisation and an in-place activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.conv2(self.act(self.bn(self.conv1(x)))) + x)
        return out


class ResNet(nn.Module):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.layers = nn.Sequential(Block(4), Block(4))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 36, 3)
        self.register_buffer("mean", torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.stem((x - self.mean) / 0.5))
        out: Tensor = self.head(self.drop(torch.flatten(x, 1)))
        return out


def trained(module: nn.Module) -> nn.Module:
    """In evaluation mode, with running statistics that are not those of the initialisation."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None:
            assert part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


def agree(graph: Graph, module: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(graph.evaluate(*inputs), module(*inputs), rtol=1e-4, atol=1e-5)


def test_residual_network() -> None:
    module = trained(ResNet())
    graph = read_module(module, torch.randn(1, 8, 8))
    agree(graph, module, torch.randn(5, 1, 8, 8))
    assert graph.name == "ResNet"
    assert graph["layers.1.conv2"].source == "torch conv2d at layers.1.conv2"
    assert [graph[name].op.name for name in graph["layers.0.add"].inputs] == ["conv", "conv"]
    assert graph.origin is not None
    assert graph.origin.description == "the module ResNet"


def test_parameters_and_buffers_are_the_modules_own() -> None:
    module = trained(ResNet())
    graph = read_module(module, torch.randn(1, 1, 8, 8))
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    parameters = graph.parameters()
    for name in ("stem.weight", "layers.0.bn.mean", "layers.0.bn.variance", "layers.1.bn.bias", "head.bias"):
        assert id(parameters[name]) in own, name
    assert parameters["head.weight"] is module.get_parameter("head.weight")


def test_gradients_reach_the_module_and_steps_are_followed() -> None:
    module = trained(ResNet())
    graph = read_module(module, torch.randn(1, 1, 8, 8))
    x = torch.randn(4, 1, 8, 8)
    outputs = graph.evaluate(x)
    assert isinstance(outputs, Tensor)
    outputs.square().sum().backward()
    ours = {name: parameter.grad for name, parameter in module.named_parameters()}
    module.zero_grad()
    module(x).square().sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-4)
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    agree(graph, module, x)
    module.get_buffer("mean").fill_(-1.0)
    agree(graph, module, x)
    module.get_parameter("head.weight").data.mul_(2)
    agree(graph, module, x)


def test_derived_parameters_are_followed_too() -> None:
    class Derived(nn.Module):
        mask: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.normal = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
            self.weight = nn.Parameter(torch.randn(3, 3))
            self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.normal(x) @ (self.weight * self.mask).t() - 2 * self.weight[0]
            return out

    module = Derived().eval()
    graph = read_module(module, torch.randn(3))
    x = torch.randn(4, 3)
    agree(graph, module, x)
    outputs = graph.evaluate(x)
    assert isinstance(outputs, Tensor)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    torch.optim.SGD(module.parameters(), lr=0.5).step()
    agree(graph, module, x)
    module.get_buffer("mask").zero_()
    agree(graph, module, x)


def test_the_module_is_left_alone() -> None:
    module = trained(ResNet())
    before = copy.deepcopy(module.state_dict())
    modes = [part.training for part in module.modules()]
    torch.manual_seed(7)
    expected = torch.get_rng_state()
    read_module(module, torch.ones(1, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), expected)
    assert [part.training for part in module.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_training_mode_is_refused() -> None:
    module = ResNet()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UsageError, match=r"layers.0.bn \(BatchNorm2d\), .*drop \(Dropout\) \(call module.eval\(\)"):
        read_module(module, torch.randn(1, 1, 8, 8))
    assert module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])

    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(x, 0.5, self.training)

    with pytest.raises(UsageError, match="dropout: it drops at random"):
        read_module(Functional(), torch.randn(1, 3))
    read_module(Functional().eval(), torch.randn(1, 3))
    read_module(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).train(), torch.randn(1, 2))


def test_the_origin_refuses_a_module_put_into_training_mode() -> None:
    module = trained(ResNet())
    origin = read_module(module, torch.randn(1, 1, 8, 8)).origin
    assert origin is not None
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(origin.run(x.double())[0], module(x).detach())
    module.train()
    with pytest.raises(UsageError, match=r"call module.eval\(\) before verifying"):
        origin.run(x)


def test_batch_axis_of_an_example_without_one() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    for example in (torch.randn(6), torch.randn(1, 6), torch.randn(7, 6)):
        graph = read_module(module, example)
        assert graph.inputs[0].type.shape == (6,)
        agree(graph, module, torch.randn(3, 6))


class Mixing(nn.Module):
    """Its reshape runs over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.reshape(3, 6))
        return out


def test_no_batch_axis() -> None:
    module = Mixing()
    graph = read_module(module, torch.randn(2, 9))
    assert isinstance(graph.inputs[0].op, Input)
    assert graph.inputs[0].op.batch_axis is None
    assert graph.inputs[0].type.shape == (2, 9)
    agree(graph, module, torch.randn(2, 9))


def test_batch_axis_is_refused_where_the_batch_is_mixed() -> None:
    class Transposing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.t().relu()

    class Centring(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    class Flipping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(0)

    class Attending(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x, 0)

    class Flattening(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten()

    for module, word in (
        (Transposing(), "t: it moves the batch axis"),
        (Centring(), "mean: it works along the batch axis"),
        (Flipping(), "flip: it works along the batch axis"),
        (Attending(), "softmax: it works along the batch axis"),
        (Flattening(), r"flatten: its result \[.*\] does not keep the batch on axis 0"),
    ):
        with pytest.raises(UnsupportedError, match=word):
            read_module(module, torch.randn(3, 4), batch_axis=0)
        graph = read_module(module, torch.randn(3, 4))
        assert isinstance(graph.inputs[0].op, Input)
        x = torch.randn(graph.inputs[0].type.shape if graph.inputs[0].op.batch_axis is None else (1, 3, 4))
        agree(graph, module, x)


def test_unbatched_layers_with_one_example_in_front() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.MaxPool2d(2))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x).reshape(1, 3).sum()
            return out

    module = trained(Fixed())
    graph = read_module(module, torch.randn(1, 2, 4, 4), batch_axis=None)
    agree(graph, module, torch.randn(1, 2, 4, 4))
    with pytest.raises(UnsupportedError, match=r"conv2d at 0: it works on 2 examples at once"):
        read_module(nn.Sequential(nn.Conv2d(2, 3, 3)), torch.randn(2, 2, 4, 4), batch_axis=None)


def test_several_inputs_and_outputs() -> None:
    class Pair(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
            return {"sum": left + right[:, :2], "parts": (left.relu(), right * 2)}

    module = Pair()
    graph = read_module(module, (torch.randn(1, 2), torch.randn(1, 3)))
    assert [node.name for node in graph.inputs] == ["left", "right"]
    left, right = torch.randn(5, 2), torch.randn(5, 3)
    outputs = graph.evaluate(left, right)
    for ours, theirs in zip(outputs, (left + right[:, :2], left.relu(), right * 2), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_weight_sharing() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = torch.tanh(self.cell(x))
            return x

    module = Recurrent()
    graph = read_module(module, torch.randn(1, 4))
    agree(graph, module, torch.randn(2, 4))
    weights = [parameter for name, parameter in graph.parameters().items() if name.endswith("weight")]
    assert len(weights) == 3
    assert all(weight is module.cell.weight for weight in weights)
    assert str(graph).count("@cell.weight") == 3


def test_all_unsupported_calls_are_listed_with_their_modules() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.Softplus())

        def forward(self, x: Tensor) -> Tensor:
            return torch.sort(self.inner(x)).values.relu() + torch.erf(x)

    with pytest.raises(UnsupportedError) as caught:
        read_module(Odd(), torch.randn(1, 4))
    assert caught.value.items == ("softplus at inner.1", "sort", "erf")
    assert "Odd" in str(caught.value)


def test_value_dependent_control_flow_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedError, match=r"Branching: torch.export cannot trace the module"):
        read_module(Branching(), torch.randn(1, 4))


def test_random_and_stateful_modules_are_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(4)

    class Counting(nn.Module):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(UnsupportedError, match="rand: its result is random"):
        read_module(Noisy(), torch.randn(1, 4))
    with pytest.raises(UnsupportedError, match="count"):
        read_module(Counting(), torch.randn(1, 4))


@pytest.mark.parametrize("example", [(), None, torch.tensor([1, 2]), [1.0, 2.0]])
def test_examples_that_are_none(example: Any) -> None:
    with pytest.raises(UsageError, match="expected"):
        read_module(nn.Linear(2, 2), example)


def test_comparison_finds_a_wrong_import() -> None:
    module = nn.Linear(2, 2)
    graph = read_module(module, torch.randn(1, 2))
    other = nn.Linear(2, 2)
    with pytest.raises(ImportMismatch, match="computes something else"):
        compare(graph, lambda *inputs: (other(*inputs).detach(),))


def test_examples_take_the_modules_type() -> None:
    graph = read_module(nn.Linear(2, 2).double(), torch.randn(1, 2))
    assert graph.inputs[0].type.dtype == torch.float64
    check(graph)


def test_a_module_that_behaves_differently_for_one_example_is_found() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.shape[0] > 1 else x

    with pytest.raises(ImportMismatch):
        read_module(Odd(), torch.randn(1, 2))


def test_the_origin_keeps_the_batch_axis_of_a_module_that_squeezes() -> None:
    class Squeezing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().squeeze()

    origin = read_module(Squeezing(), torch.randn(1, 2)).origin
    assert origin is not None
    assert origin.run(torch.randn(1, 2))[0].shape == (1, 2)
