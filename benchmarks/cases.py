"""The networks, images and regions that bounds are measured on: public ones, and the demonstration's own.

Radii are in raw units (grey levels from 0 to 1) and regions are kept inside the valid range. All are boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

import irverify as iv
from irverify.data import DIGITS_EPS, DIGITS_NETWORK, DataSet, digits, load_dataset
from irverify.ir.graph import Graph

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_DEVIATION = (0.2471, 0.2435, 0.2616)
"""How the inputs of the residual networks are normalised, outside the network."""


@dataclass(frozen=True)
class Case:
    """A network and where it stands under the data folder, the images it is asked about, and the radius."""

    name: str
    network: str
    images: Callable[[Path], DataSet]
    eps: float
    normalised: bool = False
    steps: tuple[int, int] = (30, 10)
    """Steps of alpha for margins and for the bounds in between: as many as it needs for margins as tight as
    auto_LiRPA's."""

    def pipeline(self, method: str) -> str:
        """Our pass for a method, which is its name but for alpha, since auto_LiRPA's optimises the bounds in between
        too unless it is given them."""
        return f"alpha{{steps={self.steps[0]},intermediate={self.steps[1]}}}" if method == "alpha" else method

    def file(self, data: Path) -> Path:
        return data / self.network

    def load(self, data: Path, batch: int) -> Problem:
        """The first `batch` images that the network classifies correctly, as one problem."""
        graph = iv.compile(self.file(data))
        images = self.images(data)
        shape = graph.inputs[0].type.shape
        clean = torch.from_numpy(images.images).reshape(-1, *shape)
        labels = torch.from_numpy(images.labels)
        lower, upper = (torch.clamp(clean + sign * self.eps, *images.valid_range) for sign in (-1.0, 1.0))
        if self.normalised:
            clean, lower, upper = (_normalised(tensor) for tensor in (clean, lower, upper))
        logits = graph.evaluate(clean)
        assert isinstance(logits, Tensor)
        chosen = (logits.argmax(1) == labels).nonzero().flatten()[:batch]
        if chosen.numel() < batch:
            raise ValueError(f"{self.name}: only {chosen.numel()} images are classified correctly, wanted {batch}")
        return Problem(graph, iv.Box(lower[chosen], upper[chosen]), labels[chosen])


@dataclass(frozen=True)
class Problem:
    """A network, a batch of boxes and the label of each."""

    graph: Graph
    region: iv.Box
    labels: Tensor


def _normalised(images: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(part).reshape(3, 1, 1) for part in (CIFAR_MEAN, CIFAR_DEVIATION))
    return (images - mean) / deviation


def _mnist(data: Path) -> DataSet:
    return load_dataset(f"mnist:{data / 'mnist'}").select(range(100))


def _cifar(data: Path) -> DataSet:
    """The label and then pixels, row by row, red, green and blue of each together."""
    table = numpy.loadtxt(data / "cifar10" / "cifar10_test_first100.csv", delimiter=",", dtype=numpy.int64)
    pixels = table[:, 1:].reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2) / 255
    return DataSet("cifar10", pixels.astype(numpy.float32), table[:, 0])


def _digits(data: Path) -> DataSet:
    return digits("test")


CASES = (
    Case("wk17a", "networks/wk17a.onnx", _mnist, 0.1),
    Case("mnistfc 256x2", "vnncomp/mnistfc/onnx/mnist-net_256x2.onnx.gz", _mnist, 0.03),
    Case("mnistfc 256x4", "vnncomp/mnistfc/onnx/mnist-net_256x4.onnx.gz", _mnist, 0.03, steps=(45, 8)),
    Case("mnistfc 256x6", "vnncomp/mnistfc/onnx/mnist-net_256x6.onnx.gz", _mnist, 0.03),
    Case("resnet_2b", "vnncomp/cifar10_resnet/onnx/resnet_2b.onnx.gz", _cifar, 2 / 255, normalised=True),
    Case("resnet_4b", "vnncomp/cifar10_resnet/onnx/resnet_4b.onnx.gz", _cifar, 1 / 255, normalised=True),
    Case("verivital max pooling", "vnncomp/verivital/onnx/Convnet_maxpool.onnx.gz", _mnist, 0.02, steps=(20, 10)),
    Case("verivital average pooling", "vnncomp/verivital/onnx/Convnet_avgpool.onnx.gz", _mnist, 0.02),
    Case("eran sigmoid", "vnncomp/eran/onnx/ffnnSIGMOID__Point_6x200.onnx.gz", _mnist, 0.012),
    Case("demo", str(DIGITS_NETWORK), _digits, DIGITS_EPS, steps=(45, 15)),
)
