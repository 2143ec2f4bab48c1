"""auto_LiRPA behind the same face as irverify's `margins`. Optional: `version()` says whether it is installed.

It gets the network as a PyTorch module that evaluates irverify's own graph operator by operator, so that both start
from the same layers, and the margins as rows C with the last layer elided, which it does by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d

from benchmarks.cases import Problem
from irverify.ir.graph import Graph
from irverify.ir.ops import AveragePool, Conv, Input, Operator
from irverify.ir.params import value
from irverify.pipeline import optimize

METHODS = {"ibp": "IBP", "crown": "CROWN", "crown-ibp": "CROWN-IBP", "alpha": "CROWN-Optimized"}
"""What it calls the methods that both have."""


def version() -> str | None:
    """Its version; None where it is not installed."""
    if importlib.util.find_spec("auto_LiRPA") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: str = importlib.import_module("auto_LiRPA").__version__
    return found


class Module(nn.Module):
    """A graph with one input and one output as a PyTorch module."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = optimize(graph, "canonicalize,fold-batchnorm")
        self.weights = nn.ParameterList()
        self.steps = []
        for node in self.graph:
            changes = {
                name: nn.Parameter(value(tensor).detach(), requires_grad=False)
                for name, tensor in node.op.parameters().items()
            }
            self.weights.extend(changes.values())
            self.steps.append((node.name, node.op.replace(**changes), node.inputs))

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {}
        for name, op, inputs in self.steps:
            values[name] = x if isinstance(op, Input) else _evaluated(op, *(values[operand] for operand in inputs))
        return values[self.graph.outputs[0]]


def _evaluated(op: Operator, *operands: Tensor) -> Tensor:
    """As the operators of PyTorch that it knows: ours make an average pooling of a convolution, and read a convolution
    of one element with strides from a slice."""
    if isinstance(op, AveragePool) and not any(map(any, op.padding)):
        return avg_pool2d(operands[0], op.kernel, op.stride)
    if type(op) is Conv and len(op.stride) == 2 and all(before == after for before, after in op.padding):
        weight, bias = value(op.weight), None if op.bias is None else value(op.bias)
        padding = [before for before, _ in op.padding]
        return conv2d(operands[0], weight, bias, op.stride, padding, op.dilation, op.groups)
    return op.evaluate(*operands)


class Lirpa:
    """One problem prepared for auto_LiRPA; `margins` computes, and is all that is timed."""

    def __init__(self, problem: Problem, mode: str, steps: int) -> None:
        self.mode = mode
        tool = importlib.import_module("auto_LiRPA")
        lower, upper = problem.region.box()
        perturbation = tool.PerturbationLpNorm(x_L=lower, x_U=upper)
        options: dict[str, Any] = {"conv_mode": mode, "optimize_bound_args": {"iteration": steps}}
        with _quiet():
            self.model = tool.BoundedModule(Module(problem.graph).eval(), problem.region.center, bound_opts=options)
        self.input = tool.BoundedTensor(problem.region.center, perturbation)
        self.rows = competitors(problem)

    def margins(self, method: str) -> Tensor:
        """Lower bounds of label minus each other class, `[batch, classes - 1]`."""
        arguments = {"x": (self.input,), "C": self.rows, "method": METHODS[method], "bound_upper": False}
        with _quiet(), contextlib.nullcontext() if method == "alpha" else torch.no_grad():
            lower: Tensor = self.model.compute_bounds(**arguments)[0]
        return lower.detach()


def modes(problem: Problem) -> tuple[str, ...]:
    """Its ways to treat convolutions, where there are any."""
    convolutions = any(isinstance(node.op, Conv) for node in problem.graph)
    return ("patches", "matrix") if convolutions else ("patches",)


def competitors(problem: Problem) -> Tensor:
    """Rows label minus each other class, `[batch, classes - 1, classes]`."""
    classes = problem.graph[problem.graph.outputs[0]].type.size
    identity = torch.eye(classes)
    rows = identity[problem.labels].unsqueeze(1) - identity
    return rows[others(problem.labels, classes)].reshape(-1, classes - 1, classes)


def others(labels: Tensor, classes: int) -> Tensor:
    """True for each class but the label, `[batch, classes]`."""
    return torch.arange(classes) != labels.unsqueeze(1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It prints, warns and logs as it goes."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
