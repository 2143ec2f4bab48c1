"""What weight sparsity and ReLU stability buy in exact verification: the five rows of paper 1, tables 1 and 2.

    python -m benchmarks.sparsity --data mnist:DIR --out runs [--rows adversarial,pruned-rs] [--images 20]

Each row adds a step to the one before. It is trained by `irverify train` (its recipe's short variant, for so many
epochs, with more l1) on 8,000 of the 10,000 test images of MNIST, and measured on the other 2,000: test and PGD
accuracy, unstable ReLUs of the first ones by crown and by intervals, and what the whole driver proves of the first ones
within a limit for each. What is trained, measured or decided stays in the folder and is not done again;
`benchmarks.sparsity_curves` draws from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

import irverify as iv
from benchmarks.methods import HELD_OUT, HELD_OUT_FILE, clean, irverify, resistant, trained
from benchmarks.methods import Row as Method
from irverify.data import DataSet
from irverify.ir.graph import Graph
from irverify.ir.ops import Relu
from irverify.ir.params import value
from irverify.ir.program import load
from irverify.pipeline import optimize
from irverify.train.images import load_images

EPOCHS = 8
L1 = 2e-4
"""The weight of the l1 term: ten times that of paper 1, in trainings of a hundredth of its steps."""
AT_ONCE = 10
"""Images that are bounded together."""
STEPS = {
    "adversarial": "adversarial training",
    "adversarial-l1": "+ l1",
    "pruned-weights": "+ small weight pruning",
    "pruned-relus": "+ ReLU pruning (control)",
    "pruned-rs": "+ RS loss",
}
"""The recipes, which are the rows, and what paper 1 calls them."""


@dataclass(frozen=True)
class Question:
    """What is asked of a network: the radius, the images held out, so many of them for the unstable ReLUs, so many for
    exact verification with a limit of so many seconds each."""

    eps: float
    test: DataSet
    counted: int
    images: int
    timeout: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="mnist:DIR, whose test part is split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--rows", default=",".join(STEPS), help="names of some rows")
    parser.add_argument("--eps", type=float, default=0.1, help="radius, in raw input units")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every row, fine-tuning counted in")
    parser.add_argument("--counted", type=int, default=50, help="images for the unstable ReLUs")
    parser.add_argument("--images", type=int, default=20, help="images for exact verification; 0: none")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each of them")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    names = arguments.rows.split(",")
    if unknown := [name for name in names if name not in STEPS]:
        parser.error(f"unknown rows {', '.join(unknown)}: expected {', '.join(STEPS)}")
    torch.set_num_threads(1)
    question = Question(
        arguments.eps, held_out(arguments.data, arguments.out), arguments.counted, arguments.images, arguments.timeout
    )
    found = []
    for name in STEPS:
        if name in names:
            folder = arguments.out / name
            trained(method(name, arguments.epochs), arguments.eps, arguments.data, folder)
            found.append({"row": name, "epochs": arguments.epochs, **measured(folder, question)})
            if arguments.images:
                found[-1] |= decided(folder, question)
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps(found) if arguments.json else table(found))


def method(recipe: str, epochs: int) -> Method:
    """How the network of a row is trained."""
    entries = {} if recipe == "adversarial" else {"terms": {"l1": {"weight": L1}}}
    return Method(recipe, recipe, epochs, entries=entries)


def held_out(data: str, folder: Path) -> DataSet:
    """The images that nothing is trained on, which are left in the folder as well."""
    folder.mkdir(parents=True, exist_ok=True)
    test = load_images(data, "test", HELD_OUT).test
    np.savez(folder / HELD_OUT_FILE, images=test.images, labels=test.labels, valid_range=test.valid_range)
    return test


def measured(folder: Path, question: Question) -> dict[str, Any]:
    """Accuracies on all images that are held out, unstable ReLUs, and what is left of ReLUs and weights; weights of
    dead neurons and those that only feed them are not (pass compact)."""
    kept = folder / "sparsity.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    graph = load(folder / "model.safetensors")
    right = clean(graph, question.test)
    hard = resistant(graph, question.test, right, question.eps)
    weights = [value(node.op.weight) for node in optimize(graph, "compact") if hasattr(node.op, "weight")]
    layers = unstable(graph, question, "crown")
    found = {
        "test": len(right) / len(question.test),
        "pgd": len(hard) / len(question.test),
        "crown": sum(layers),
        "interval": sum(unstable(graph, question, "interval")),
        "layers": layers,
        "nonzeros": sum(int((weight != 0).sum()) for weight in weights),
        "relus": sum(node.type.size for node in graph if isinstance(node.op, Relu)),
    }
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def unstable(graph: Graph, question: Question, method: str) -> list[float]:
    """The mean number of unstable ReLUs of each layer, over the first images."""
    images = torch.from_numpy(question.test.images[: question.counted])
    totals: dict[str, int] = {}
    for some in images.split(AT_ONCE):
        region = iv.Linf(some, question.eps, clip=question.test.valid_range)
        state = iv.run(graph, f"{method},stability", region)
        for name, labels in state.stability.items():
            totals[name] = totals.get(name, 0) + int((labels.piece < 0).sum())
    return [total / len(images) for total in totals.values()]


def decided(folder: Path, question: Question) -> dict[str, Any]:
    """What exact verification says of the first images. The time of one is everything that it takes, up to the limit,
    of those that are classified as their label."""
    out = irverify("certify", str(folder / "model.onnx"), "--data", f"npz:{folder.parent / HELD_OUT_FILE}", "--eps",
                   f"{question.eps:g}", "--first", str(question.images), "--timeout", f"{question.timeout:g}",
                   "--workers", "1", "--out", str(folder / "exact"), "--json")  # fmt: skip
    answer = json.loads(out)
    taken = [image["seconds"] for image in answer["per_image"] if image["predicted"] == image["label"]]
    return {
        "images": answer["n"],
        "provable": answer["certified"] / answer["n"],
        "upper": 1 - answer["falsified"] / answer["n"],
        "open": answer["n"] - answer["certified"] - answer["falsified"],
        "seconds": mean(taken) if taken else 0.0,
        "timeout": question.timeout,
    }


def bought(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """What a step changed: proved images, seconds, unstable ReLUs, weights, test accuracy."""
    if before is None:
        return ""
    parts = []
    if "provable" in before and "provable" in now and before["images"] == now["images"]:
        count = round((now["provable"] - before["provable"]) * now["images"])
        parts.append(f"{count:+d} proved, time x {now['seconds'] / before['seconds']:.2f}")
    for key, name in (("crown", "unstable"), ("nonzeros", "weights")):
        parts.append(f"{name} {100 * (now[key] / before[key] - 1):+.0f} %")
    return ", ".join([*parts, f"test {100 * (now['test'] - before['test']):+.2f}"])


def table(found: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, accuracies in percent."""
    heads = ("step", "test", "PGD", "provable", "upper", "s an image", "unstable by crown", "by intervals", "ReLUs",
             "weights", "what it bought")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    before = None
    for entry in found:
        exact = ["", "", ""]
        if "provable" in entry:
            exact = [f"{100 * entry['provable']:.0f}", f"{100 * entry['upper']:.0f}", f"{entry['seconds']:.1f}"]
        cells = [STEPS[entry["row"]], f"{100 * entry['test']:.2f}", f"{100 * entry['pgd']:.2f}", *exact,
                 f"{entry['crown']:.0f}", f"{entry['interval']:.0f}", str(entry["relus"]), str(entry["nonzeros"]),
                 bought(before, entry)]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        before = entry
    return "\n".join(lines)


if __name__ == "__main__":
    main()
