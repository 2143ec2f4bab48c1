"""Input regions that the command line describes: perturbed images of a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from irverify.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from irverify.certify.question import Question
    from irverify.data import Part
    from irverify.ir.graph import Graph
    from irverify.properties import Property
    from irverify.regions import Region


@dataclass(frozen=True)
class Perturbation:
    """What `--data`, `--eps`, `--norm`, `--clip`, `--first`, `--index`, `--part` and `--held-out` say."""

    data: str
    eps: float
    norm: str = "inf"
    clip: str | None = None
    first: int | None = None
    index: str | None = None
    part: Part = "test"
    held_out: float | None = None


@dataclass(frozen=True)
class Situation:
    """What analyses hold for: a batch of regions (float64, one for each input of the model), and the rows `C y + d` of
    the specification, `[batch, rows, out]` and `[batch, rows]`; None where rows read inputs too; what is asked of each
    region; and the labels of the images, `[batch]`, where there are any."""

    regions: tuple[Region, ...]
    spec: tuple[Tensor, Tensor] | None
    props: tuple[Property, ...]
    labels: Tensor | None = None


def perturbation(
    data: str | None, eps: float | None, norm: str, clip: str | None, first: int | None, index: str | None
) -> Perturbation | None:
    """The options as one object; None where no data set is named. UsageError where they do not make sense together."""
    if data is None:
        given = {"--eps": eps, "--clip": clip, "--first": first, "--index": index}
        lonely = [name for name, value in given.items() if value is not None]
        if lonely:
            raise UsageError(f"{', '.join(lonely)} without --data: expected a data set such as --data digits")
        return None
    if eps is None:
        raise UsageError("--data without --eps: expected the radius of the perturbation, such as --eps 0.1")
    wanted = Perturbation(data, eps, norm, clip, first, index)
    check_perturbation(wanted)
    return wanted


def check_perturbation(wanted: Perturbation) -> None:
    """Raises UsageError for options that make no sense, before anything is loaded."""
    if not 0 <= wanted.eps < math.inf:
        raise UsageError(f"expected --eps to be a finite number >= 0, got {wanted.eps}")
    if wanted.norm not in ("inf", "2", "1"):
        raise UsageError(f"expected --norm inf, 2 or 1, got {wanted.norm!r}")
    if wanted.first is not None and wanted.index is not None:
        raise UsageError("expected --first or --index, got both")
    if wanted.first is not None and wanted.first < 1:
        raise UsageError(f"expected --first to be at least 1, got {wanted.first}")
    _range(wanted.clip, (0.0, 1.0))
    _listed(wanted.index)


def situation(graph: Graph, property_file: str | None, perturbed: Perturbation | None) -> Situation | None:
    """What a property file or perturbed images say about a graph; None where there is neither."""
    if property_file is not None and perturbed is not None:
        raise UsageError("expected a property or --data, got both")
    if property_file is not None:
        return _of_property(graph, property_file)
    return None if perturbed is None else _of_images(graph, perturbed)


def _of_images(graph: Graph, wanted: Perturbation) -> Situation:
    """Balls around the wanted images, and the margins of their labels."""
    import torch

    from irverify.properties import robust

    question = question_of(graph, wanted)
    images = question.take(indices_of(wanted, len(question.images), usual=1))
    labels = torch.as_tensor(images.labels)
    props = tuple(robust(label) for label in labels.tolist())
    return Situation((question.region(images),), question.rows(images.labels), props, labels)


def question_of(graph: Graph, wanted: Perturbation) -> Question:
    """The question about every image of the data set."""
    from irverify.certify.question import Question
    from irverify.data import divided, load_dataset

    whole = load_dataset(wanted.data, wanted.part)
    if wanted.held_out is not None:
        _, whole = divided(whole, wanted.held_out)
    norm: Literal["inf", "2", "1"] = "inf" if wanted.norm == "inf" else "2" if wanted.norm == "2" else "1"
    return Question(graph, whole, wanted.eps, norm, _range(wanted.clip, whole.valid_range))


def indices_of(wanted: Perturbation, count: int, usual: int) -> list[int]:
    """The places of the wanted images in a data set of `count`; the first `usual` where nobody says."""
    listed = _listed(wanted.index)
    return list(range(min(wanted.first or usual, count))) if listed is None else listed


def _of_property(graph: Graph, file: str) -> Situation:
    """The boxes of a query as one batch, and its rows."""
    import torch

    from irverify.cli.queries import load_query
    from irverify.regions import Box

    cases = load_query(graph, file).cases
    boxes = [[region.box() for region in case.regions] for case in cases]
    joined = tuple(
        Box(torch.cat([lower for lower, _ in parts]), torch.cat([upper for _, upper in parts]))
        for parts in zip(*boxes, strict=True)
    )
    props = tuple(case.prop for case in cases)
    return Situation(joined, _rows(graph, props), props)


def _rows(graph: Graph, props: Sequence[Property]) -> tuple[Tensor, Tensor] | None:
    """The rows of all disjuncts of a property for each example; shorter lists repeat their first row."""
    import torch

    sizes = [sum(node.type.size for node in graph.inputs), sum(graph[name].type.size for name in graph.outputs)]
    disjuncts = [prop.bind(*sizes).disjuncts for prop in props]
    if any(disjunct.inputs is not None for listed in disjuncts for disjunct in listed) or not all(disjuncts):
        return None
    matrices = [torch.cat([disjunct.outputs for disjunct in listed]) for listed in disjuncts]
    offsets = [torch.cat([disjunct.offset for disjunct in listed]) for listed in disjuncts]
    count = max(len(offset) for offset in offsets)
    order = [torch.arange(count) * (torch.arange(count) < len(offset)) for offset in offsets]
    return (
        torch.stack([matrix[rows] for matrix, rows in zip(matrices, order, strict=True)]),
        torch.stack([offset[rows] for offset, rows in zip(offsets, order, strict=True)]),
    )


def part_of(text: str) -> Part:
    """What `--part` says."""
    if text == "train":
        return "train"
    if text == "test":
        return "test"
    if text == "all":
        return "all"
    raise UsageError(f"expected --part train, test or all, got {text!r}")


def _listed(index: str | None) -> list[int] | None:
    if index is None:
        return None
    try:
        return [int(part) for part in index.split(",")]
    except ValueError:
        raise UsageError(f"expected --index to be whole numbers such as 0,7,12, got {index!r}") from None


def _range(text: str | None, usual: tuple[float, float]) -> tuple[float, float] | None:
    if text is None:
        return usual
    if text == "none":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"expected --clip LO,HI or none, got {text!r}") from None
    if not low <= high:
        raise UsageError(f"expected --clip LO,HI with LO <= HI, got {text!r}")
    return low, high
