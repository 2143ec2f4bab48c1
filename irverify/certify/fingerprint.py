"""What a question is about, in a few short texts: two sweeps with the same texts may share their verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from irverify import __version__
from irverify.certify.question import Question
from irverify.data import DataSet
from irverify.ir.graph import Graph
from irverify.ir.params import value
from irverify.ir.text import named_parameters, print_graph


def identity(question: Question, settings: Mapping[str, str]) -> dict[str, str]:
    """What verdicts depend on, but for the radius and the time limit: the contents of network and data set (not their
    names), the ball, the settings of the method, the version of irverify."""
    return {
        "network": network(question.graph),
        "data": data_set(question.images),
        "norm": question.norm,
        "clip": "none" if question.clip is None else ",".join(map(repr, question.clip)),
        **settings,
        "version": __version__,
    }


def network(graph: Graph) -> str:
    """A digest of a network: its text, whatever it is called, and the present values of its parameters."""
    digest = hashlib.sha256(print_graph(Graph(graph.nodes, graph.outputs, "network")).encode())
    for name, parameter in named_parameters(graph).items():
        tensor = value(parameter).detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_set(images: DataSet) -> str:
    """A digest of the images, labels and valid range of a data set."""
    digest = hashlib.sha256(f"{images.images.shape} {images.valid_range}\n".encode())
    digest.update(np.ascontiguousarray(images.images, dtype="<f4").tobytes())
    digest.update(np.ascontiguousarray(images.labels, dtype="<i8").tobytes())
    return digest.hexdigest()
