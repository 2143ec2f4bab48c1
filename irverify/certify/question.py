"""The question that a sweep asks of every image: is each input near it classified as its label?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from irverify.autocast import without_autocast
from irverify.data import DataSet
from irverify.errors import PropertyError
from irverify.ir.graph import Graph
from irverify.regions import L1, L2, Linf, Region

Norm = Literal["inf", "2", "1"]
BALLS: dict[Norm, type[Linf | L2 | L1]] = {"inf": Linf, "2": L2, "1": L1}


@dataclass(frozen=True)
class Images:
    """A batch of images in the shape of the network's input, float64 `[batch, *shape]`; their places in the data set;
    their labels `[batch]`."""

    indices: tuple[int, ...]
    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, places: Sequence[int]) -> Images:
        chosen = torch.as_tensor(places, dtype=torch.long)
        return Images(tuple(self.indices[place] for place in places), self.pixels[chosen], self.labels[chosen])


class Clean(NamedTuple):
    """What the source model says of one image itself: the class, None where no logit is the largest one; whether all
    logits are finite; whether the label loses, which falsifies."""

    predicted: int | None
    finite: bool
    falsified: bool


@dataclass(frozen=True)
class Question:
    """Is every x with |x - image|_norm <= eps, inside `clip` (None: anywhere), classified as the image's label?

    `graph` is the network as compiled, `images` the whole data set, `eps` in the model's raw input units. PropertyError
    where images and network do not fit, or an image lies outside `clip`.
    """

    graph: Graph
    images: DataSet
    eps: float
    norm: Norm = "inf"
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        graph, images = self.graph, self.images
        if len(graph.inputs) != 1:
            raise PropertyError(f"a data set needs a model with one input, this one has {len(graph.inputs)}")
        type_ = graph.inputs[0].type
        if images.images[0].size != type_.size:
            shape = list(images.images.shape[1:])
            raise PropertyError(f"expected images of shape {list(type_.shape)}, got {shape}", where=images.name)
        if self.classes < 2:
            raise PropertyError(f"expected a model with a logit for each class, got {self.classes} outputs")
        if self.clip is not None and not (images.images.min() >= self.clip[0] and images.images.max() <= self.clip[1]):
            seen = f"{images.images.min()} to {images.images.max()}"
            raise PropertyError(f"expected images inside the range {list(self.clip)}, got values {seen}")

    @property
    def classes(self) -> int:
        return sum(self.graph[name].type.size for name in self.graph.outputs)

    def at(self, eps: float) -> Question:
        """The same question with another radius."""
        return replace(self, eps=eps)

    def check(self, indices: Sequence[int]) -> DataSet:
        """The images at these places of the data set. UsageError for a place that is not there, PropertyError for a
        label that is no class of the network."""
        chosen = self.images.select(indices)
        wrong = (chosen.labels >= self.classes).nonzero()[0]
        if wrong.size:
            index, label = indices[int(wrong[0])], chosen.labels[wrong[0]]
            message = f"image {index} has label {label}, expected 0 to {self.classes - 1}"
            raise PropertyError(message, where=self.images.name)
        return chosen

    def take(self, indices: Sequence[int]) -> Images:
        """The images at these places of the data set; checked as in `check`."""
        chosen = self.check(indices)
        pixels = torch.from_numpy(np.ascontiguousarray(chosen.images)).double()
        shape = self.graph.inputs[0].type.shape
        return Images(tuple(map(int, indices)), pixels.reshape(-1, *shape), torch.from_numpy(chosen.labels))

    def region(self, images: Images) -> Region:
        """The balls around these images."""
        return BALLS[self.norm](images.pixels, self.eps, clip=self.clip)

    def rows(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The margins `y_label - y_j` for every j != label, as rows C `[batch, classes - 1, classes]` and zeros d."""
        identity = torch.eye(self.classes, dtype=torch.float64)
        others = torch.arange(self.classes - 1) + (torch.arange(self.classes - 1) >= labels[:, None]).long()
        rows = identity[labels].unsqueeze(1) - identity[others]
        return rows, rows.new_zeros(rows.shape[:2])

    def clean(self, images: Images) -> list[Clean]:
        """What the source model says of the images themselves, in its own arithmetic."""
        kind = self.graph.inputs[0].type.dtype
        exact = (images.pixels.to(kind).double() == images.pixels).reshape(len(images), -1).all(dim=1)
        logits = self._logits(images.pixels.to(kind))
        finite = logits.isfinite().all(dim=1)
        own = logits.gather(1, images.labels[:, None])
        beaten = ((logits >= own).sum(dim=1) > 1) & finite & exact  # by a tie too; the label's own logit counts as one
        best = logits.argmax(dim=1)
        sure = ((logits >= logits.amax(dim=1, keepdim=True)).sum(dim=1) == 1) & finite
        return [
            Clean(int(choice) if known else None, bool(finite_), bool(beaten_))
            for choice, known, finite_, beaten_ in zip(best, sure, finite, beaten, strict=True)
        ]

    def _logits(self, given: Tensor) -> Tensor:
        """`[batch, classes]`, float64."""
        parts = [given] if self.graph.has_batch_axis else list(given)
        count = len(given) // len(parts)
        runs = [self._run(part) for part in parts]
        return torch.cat([torch.cat([out.reshape(count, -1) for out in run], dim=1) for run in runs]).double()

    @without_autocast()
    def _run(self, given: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            if self.graph.origin is not None:
                return tuple(output.detach().cpu() for output in self.graph.origin.run(given))
            outputs = self.graph.evaluate(given)
        return outputs if isinstance(outputs, tuple) else (outputs,)
