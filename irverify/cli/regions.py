"""Input regions that the command line describes: perturbed images of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from irverify.errors import PropertyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from irverify.ir.graph import Graph
    from irverify.properties import Property
    from irverify.regions import Region


@dataclass(frozen=True)
class Perturbation:
    """What `--data`, `--eps`, `--norm`, `--clip`, `--first` and `--index` say."""

    data: str
    eps: float
    norm: str = "inf"
    clip: str | None = None
    first: int | None = None
    index: str | None = None


@dataclass(frozen=True)
class Situation:
    """What analyses hold for: a batch of regions (float64, one for each input of the model), and the rows `C y + d` of
    the specification, `[batch, rows, out]` and `[batch, rows]`; None where rows read inputs too."""

    regions: tuple[Region, ...]
    spec: tuple[Tensor, Tensor] | None


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
    if norm not in ("inf", "2", "1"):
        raise UsageError(f"expected --norm inf, 2 or 1, got {norm!r}")
    if first is not None and index is not None:
        raise UsageError("expected --first or --index, got both")
    if first is not None and first < 1:
        raise UsageError(f"expected --first to be at least 1, got {first}")
    return Perturbation(data, eps, norm, clip, first, index)


def situation(graph: Graph, property_file: str | None, perturbed: Perturbation | None) -> Situation | None:
    """What a property file or perturbed images say about a graph; None where there is neither."""
    if property_file is not None and perturbed is not None:
        raise UsageError("expected a property or --data, got both")
    if property_file is not None:
        return _of_property(graph, property_file)
    return None if perturbed is None else _of_images(graph, perturbed)


def _of_images(graph: Graph, wanted: Perturbation) -> Situation:
    """Balls around the wanted images in the shape of the model's one input, and the margins of their labels."""
    import torch

    from irverify.data import load_dataset
    from irverify.properties import robust
    from irverify.regions import L1, L2, Linf

    if len(graph.inputs) != 1:
        raise PropertyError(f"--data needs a model with one input, this one has {len(graph.inputs)}", where=graph.name)
    whole = load_dataset(wanted.data)
    chosen = whole.select(_indices(wanted, len(whole)))
    type_ = graph.inputs[0].type
    images = torch.from_numpy(chosen.images).double()
    if images[0].numel() != type_.size:
        message = f"expected images of shape {list(type_.shape)}, got {list(images.shape[1:])}"
        raise PropertyError(message, where=wanted.data)
    balls: dict[str, type[Linf | L2 | L1]] = {"inf": Linf, "2": L2, "1": L1}
    clip = _range(wanted.clip, whole.valid_range)
    region = balls[wanted.norm](images.reshape(-1, *type_.shape), wanted.eps, clip=clip)
    return Situation((region,), _rows(graph, [robust(int(label)) for label in chosen.labels]))


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
    return Situation(joined, _rows(graph, [case.prop for case in cases]))


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


def _indices(wanted: Perturbation, count: int) -> list[int]:
    if wanted.index is None:
        return list(range(min(wanted.first or 1, count)))
    try:
        return [int(part) for part in wanted.index.split(",")]
    except ValueError:
        raise UsageError(f"expected --index to be whole numbers such as 0,7,12, got {wanted.index!r}") from None


def _range(text: str | None, usual: tuple[float, float]) -> tuple[float, float] | None:
    if text is None:
        return usual
    if text == "none":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"expected --clip LO,HI or none, got {text!r}") from None
    return low, high
