"""Which examples have their label, and which keep it under an attack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irverify.attacks.descent import attack
from irverify.attacks.protocols import Pgd
from irverify.attacks.targets import Target
from irverify.ir.graph import Graph
from irverify.properties import robust
from irverify.regions import Region


def has_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Where all logits `[batch, classes]` are finite and that of the label `[batch]` is above the others; a tie counts
    as wrong."""
    as_large = logits >= logits.gather(1, labels.to(logits.device).unsqueeze(1))
    return (as_large.sum(1) == 1) & logits.isfinite().all(1)


def keeps_label(graph: Graph, regions: Sequence[Region], labels: Tensor, how: Pgd) -> Tensor:
    """Where the attack finds no point of the region at which another logit is as large as that of the label, `[batch]`.

    `regions` are one for each input of the graph, in its element type, `labels` `[batch]`. No bound: what resists this
    attack may fall to another.
    """
    columns = sum(node.type.size for node in graph.inputs)
    classes = sum(graph[name].type.size for name in graph.outputs)
    targets = [
        Target([region.select(place) for region in regions], robust(label).bind(columns, classes), lambda point: True)
        for place, label in enumerate(labels.tolist())
    ]
    found = attack(graph, targets, how)
    return torch.tensor([one.candidate is None for one in found], dtype=torch.bool)
