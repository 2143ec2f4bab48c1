"""The graph of a network in training: one graph for all losses of a step, whose batch normalisations take mean and
variance of the clean batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from irverify.backends.torch.leaves import Leaves
from irverify.backends.torch.normalising import batch_norms, check_modes, update
from irverify.backends.torch.steps import statistics
from irverify.errors import UsageError
from irverify.frontends.compile import Example
from irverify.frontends.compile import compile as compile_graph
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import BatchNorm, Constant, Input
from irverify.ir.params import Derived

Total: TypeAlias = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes that share a batch, differentiable, the same in each of them."""


class Held(Derived):
    """A parameter that is whichever tensor was set last, and keeps the gradients of that."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        super().__init__(lambda: self.tensor)

    def value(self) -> Tensor:
        return self.tensor


class TrainingGraph:
    """A module as all losses of a training step see it.

    `take(x)`, once a step, gives the clean logits, as the module would, and updates the running statistics of its batch
    normalisations as PyTorch would. From then on `graph` normalises as the clean batch does, with differentiable mean
    and variance: every loss and bound that is computed from it is one of the same network. A batch normalisation in
    evaluation mode keeps its running statistics. The graph is one and the same in all steps.

    Where a batch is divided among processes, `total` sums over them; the statistics are then those of the whole batch.
    """

    def __init__(self, module: nn.Module, example: Example = None, total: Total | None = None) -> None:
        """`example`: one input, with or without batch axis. Raises what `iv.compile` raises, and UsageError for a
        network that has several inputs."""
        self.module, self._total = module, total
        modes = [(part, part.training) for part in module.modules()]
        try:
            compiled = compile_graph(module.eval(), example)
        finally:
            for part, mode in modes:
                part.training = mode
        if len(compiled.inputs) != 1 or compiled.operands:
            raise UsageError("expected a network with one input", where=f"graph {compiled.name!r}")
        leaves = Leaves(module, nn.Module())
        leaves.cover(compiled)
        self._norms = batch_norms(compiled, leaves)
        self._held: dict[str, tuple[Held, Held]] = {}
        nodes = [self._holding(node) if node.name in self._norms else node for node in compiled]
        self.graph = Graph(nodes, compiled.outputs, compiled.name, compiled.origin)

    def _holding(self, node: Node) -> Node:
        assert isinstance(node.op, BatchNorm)
        norm = self._norms[node.name]
        assert norm.running_mean is not None and norm.running_var is not None  # `batch_norms` finds no other
        mean, variance = self._held[node.name] = Held(norm.running_mean), Held(norm.running_var)
        return Node(node.name, node.op.replace(mean=mean, variance=variance), node.inputs, node.type, node.source)

    def take(self, x: Tensor, whole: int | None = None) -> Tensor:
        """The logits `[batch, classes]` of the clean inputs `[batch, *shape]`; `whole` is how many examples the batch
        has in all processes together.

        Raises UsageError for a batch without a variance, UnsupportedError for dropout in training mode.
        """
        check_modes(self.module, self._norms)
        values: dict[str, Tensor] = {}
        for node in self.graph:
            operands = [values[name] for name in node.inputs]
            if node.name in self._norms:
                self._settle(node, operands[0], whole or len(x))
            if isinstance(node.op, Input):
                values[node.name] = x.reshape(-1, *node.type.shape)
            elif isinstance(node.op, Constant):
                values[node.name] = node.op.evaluate().expand(len(x), *node.type.shape)
            else:
                values[node.name] = node.op.evaluate(*operands)
        return torch.cat([values[name].flatten(1) for name in self.graph.outputs], dim=1)

    def _settle(self, node: Node, operand: Tensor, whole: int) -> None:
        """Sets what a batch normalisation normalises with from here on."""
        norm, (mean, variance) = self._norms[node.name], self._held[node.name]
        if not norm.training:
            assert norm.running_mean is not None and norm.running_var is not None
            mean.tensor, variance.tensor = norm.running_mean, norm.running_var
            return
        mean.tensor, variance.tensor = statistics(operand)
        if self._total is not None and whole != len(operand):
            found, share = (mean.tensor, variance.tensor), len(operand) / whole
            mean.tensor, variance.tensor = _over_processes(*found, share, self._total)
        update(norm, mean.tensor.detach(), variance.tensor.detach(), whole * operand[0, 0].numel())

    @property
    def follows_batch(self) -> bool:
        """Whether some batch normalisation takes the statistics of the batch."""
        return any(norm.training for norm in self._norms.values())


def _over_processes(mean: Tensor, variance: Tensor, share: float, total: Total) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of a whole batch from those of its parts: with shares s_i of the examples

    mean = sum_i s_i mean_i        variance = sum_i s_i (variance_i + (mean_i - mean)^2)
    """
    together = total(share * mean)
    return together, total(share * (variance + (mean - together).square()))
