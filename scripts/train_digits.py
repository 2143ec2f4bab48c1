"""Trains the residual network that ships with irverify and writes it to irverify/assets/digits.onnx.

    python scripts/train_digits.py [--epochs 120] [--seed 0]        (about two minutes on one core)

The aim is a network of 512 ReLUs that is accurate and robust, and that gives all stages of verification something to
do: intervals decide some digits, the mixed-integer program others, and a few are falsified. Adversarial training (PGD)
makes it robust; a small weight on the interval bound keeps the number of unstable ReLUs low. The loss of a batch is
(1 - kappa) CE(logits at attacked inputs) + kappa CE(worst-case logits of the interval bound); eps and kappa grow
linearly from 0 during the first half of the epochs. Batch norms take their statistics from clean inputs. Perturbed
inputs stay inside [0, 1]. The recipe, the versions and the measured figures are written into the file's metadata.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from irverify.data import DIGITS_EPS, DIGITS_NETWORK, digits

TRAIN_EPS, KAPPA, BATCH, LEARNING_RATE, WEIGHT_DECAY, ATTACK_STEPS = 0.0625, 0.1, 64, 3e-3, 1e-5, 4


@dataclass
class Lanes:
    """What flows through the network together: points [m, ...], whose last n are the centres of boxes, radius [n, ...].

    In training m = 3 n: clean inputs, attacked inputs, centres.
    """

    points: Tensor
    radius: Tensor

    def __add__(self, other: Lanes) -> Lanes:
        return Lanes(self.points + other.points, self.radius + other.radius)

    def relu(self) -> Lanes:
        split = len(self.points) - len(self.radius)
        centre = self.points[split:]
        lower, upper = (centre - self.radius).relu(), (centre + self.radius).relu()
        return Lanes(torch.cat([self.points[:split].relu(), (lower + upper) / 2]), (upper - lower) / 2)


class Unit(nn.Module):
    """A convolution without bias, then a batch norm whose statistics in training are those of the clean inputs."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, value: Lanes) -> Lanes:
        conv, norm = self.conv, self.norm
        points = conv(value.points)
        radius = functional.conv2d(value.radius, conv.weight.abs(), None, conv.stride, conv.padding)
        if self.training:
            clean = points[: len(radius)]
            norm(clean)  # updates the running statistics
            mean, var = clean.mean((0, 2, 3)), clean.var((0, 2, 3), correction=0)
        else:
            mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight * torch.rsqrt(var + norm.eps)
        shift = norm.bias - mean * scale
        return Lanes(points * scale[:, None, None] + shift[:, None, None], radius * scale.abs()[:, None, None])


class ResidualNet(nn.Module):
    """A stem of 8 channels, a block with an identity skip, one of 16 channels with a projected skip, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Unit(1, 8, 3, 2)
        self.block1_conv1, self.block1_conv2 = Unit(8, 8, 3, 1), Unit(8, 8, 3, 1)
        self.block2_conv1, self.block2_conv2 = Unit(8, 16, 3, 2), Unit(16, 16, 3, 1)
        self.block2_skip = Unit(8, 16, 1, 2)
        self.head = nn.Linear(64, 10)

    def features(self, value: Lanes) -> Lanes:
        stem = self.stem(value).relu()
        block1 = (self.block1_conv2(self.block1_conv1(stem).relu()) + stem).relu()
        block2 = (self.block2_conv2(self.block2_conv1(block1).relu()) + self.block2_skip(block1)).relu()
        return Lanes(block2.points.flatten(1), block2.radius.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(Lanes(images, images[:0])).points))

    def attacked_and_worst(self, images: Tensor, attacked: Tensor, labels: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Logits at the attacked inputs; upper bounds of logit_j - logit_label over the box (0 at j = label)."""
        lower, upper = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
        points = torch.cat([images, attacked, (lower + upper) / 2])
        features = self.features(Lanes(points, (upper - lower) / 2))
        _, at_attacked, centre = features.points.chunk(3)
        difference = self.head.weight - self.head.weight[labels][:, None]
        offset = self.head.bias - self.head.bias[labels][:, None]
        worst = torch.einsum("njk,nk->nj", difference, centre) + offset
        return self.head(at_attacked), worst + torch.einsum("njk,nk->nj", difference.abs(), features.radius)


def attack(network: nn.Module, images: Tensor, labels: Tensor, eps: float, steps: int) -> Tensor:
    """Projected gradient ascent on the cross-entropy, from a random start, inside the box and inside [0, 1]."""
    lower, upper = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    current = lower + (upper - lower) * torch.rand_like(images)
    for _ in range(steps):
        current.requires_grad_(True)
        loss = functional.cross_entropy(network(current), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, current)
        current = (current.detach() + 2.5 * eps / steps * gradient.sign()).clamp(lower, upper)
    return current


def train(images: Tensor, labels: Tensor, epochs: int) -> ResidualNet:
    network = ResidualNet()
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    for epoch in range(epochs):
        ramp = min(1.0, epoch / (0.5 * epochs))
        eps, kappa = TRAIN_EPS * ramp, KAPPA * ramp
        for batch in torch.randperm(len(images)).split(BATCH):
            x, y = images[batch], labels[batch]
            network.eval()
            attacked = attack(network, x, y, eps, ATTACK_STEPS)
            network.train()
            logits, worst = network.attacked_and_worst(x, attacked, y, eps)
            fit, bound = functional.cross_entropy(logits, y), functional.cross_entropy(worst, y)
            optimiser.zero_grad()
            ((1 - kappa) * fit + kappa * bound).backward()
            optimiser.step()
            schedule.step()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}/{epochs}: fit {fit.item():.4f}, bound {bound.item():.4f}", flush=True)
    return network.eval()


def measure(network: ResidualNet, images: Tensor, labels: Tensor) -> dict[str, str]:
    """Accuracy on clean inputs, under a strong attack, and certified by intervals, in percent."""

    def percent(right: Tensor) -> str:
        return f"{100 * right.double().mean().item():.2f}"

    figures = {"accuracy": percent(network(images).argmax(1) == labels)}
    for eps in (0.05, TRAIN_EPS, DIGITS_EPS, 0.1):
        robust = torch.ones_like(labels, dtype=torch.bool)
        for _ in range(5):
            robust &= network(attack(network, images, labels, eps, 50)).argmax(1) == labels
        _, worst = network.attacked_and_worst(images, images, labels, eps)
        certified = worst.scatter(1, labels[:, None], -torch.inf).amax(1) < 0
        figures[f"accuracy under attack, eps {eps}"] = percent(robust)
        figures[f"certified by intervals, eps {eps}"] = percent(certified)
    return figures


class Exporter:
    """Builds the ONNX graph node by node, so that batch norms stay batch norms."""

    def __init__(self, network: ResidualNet) -> None:
        self.modules = dict(network.named_modules())
        self.nodes: list[onnx.NodeProto] = []
        self.parameters: list[onnx.TensorProto] = []

    def add(self, op: str, name: str, *inputs: str, **attributes: int | float | list[int]) -> str:
        node = helper.make_node(op, inputs, [name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def parameter(self, name: str, value: Tensor | None) -> str:
        array = cast(Tensor, value).detach().numpy().astype(np.float32)
        self.parameters.append(numpy_helper.from_array(array, name))
        return name

    def unit(self, name: str, source: str) -> str:
        unit = cast(Unit, self.modules[name])
        weight = self.parameter(f"{name}.conv.weight", unit.conv.weight)
        kernel, stride = list(unit.conv.kernel_size), list(unit.conv.stride)
        pads = [size // 2 for size in kernel] * 2
        conv = self.add("Conv", f"{name}.conv", source, weight, kernel_shape=kernel, strides=stride, pads=pads)
        statistics = [
            self.parameter(f"{name}.norm.{part}", getattr(unit.norm, part))
            for part in ("weight", "bias", "running_mean", "running_var")
        ]
        return self.add("BatchNormalization", f"{name}.norm", conv, *statistics, epsilon=unit.norm.eps)

    def relu(self, source: str) -> str:
        return self.add("Relu", f"{source}.relu", source)

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        stem = self.relu(self.unit("stem", "image"))
        inner = self.unit("block1_conv2", self.relu(self.unit("block1_conv1", stem)))
        block1 = self.relu(self.add("Add", "block1", inner, stem))
        inner = self.unit("block2_conv2", self.relu(self.unit("block2_conv1", block1)))
        block2 = self.relu(self.add("Add", "block2", inner, self.unit("block2_skip", block1)))
        flat = self.add("Flatten", "flatten", block2)
        head = cast(nn.Linear, self.modules["head"])
        weight, bias = self.parameter("head.weight", head.weight), self.parameter("head.bias", head.bias)
        self.add("Gemm", "logits", flat, weight, bias, transB=1)
        graph = helper.make_graph(
            self.nodes,
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
            self.parameters,
        )
        model = helper.make_model(graph, producer_name="irverify", opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DIGITS_NETWORK)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)  # the order of additions, and with it the result, does not depend on the machine's cores
    (train_images, train_labels), (test_images, test_labels) = (
        (torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in (digits("train"), digits("test"))
    )
    network = train(train_images, train_labels, arguments.epochs)
    recipe = {
        "made by": "scripts/train_digits.py",
        "seed": str(arguments.seed),
        "epochs": str(arguments.epochs),
        "batch": str(BATCH),
        "optimiser": f"Adam, one cycle up to {LEARNING_RATE}, weight decay {WEIGHT_DECAY}",
        "training eps": str(TRAIN_EPS),
        "kappa": str(KAPPA),
        "attack steps": str(ATTACK_STEPS),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    figures = measure(network, test_images, test_labels)
    onnx.save(Exporter(network).model(recipe | figures), arguments.out)
    print("\n".join(f"{key}: {value}" for key, value in figures.items()))
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
