"""Standard, PGD and certified error of every training method, on one network and split, at several radii.

    python -m benchmarks.methods --data mnist:DIR --out runs [--eps 0.1,0.3] [--rows ibp,rs] [--exact 100]

Trains each row by `irverify train` (its recipe's short variant with the entries below), on 8,000 of the 10,000 test
images of MNIST, and measures it on the other 2,000: certified is what intervals or crown prove. With --exact the driver
decides the first images of the rows that are made for it. A run that is complete is not trained again, one that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import irverify as iv
from irverify.attacks import Pgd, keeps_label
from irverify.certify import ByAnalysis, Question, Settings
from irverify.data import DataSet
from irverify.ir.graph import Graph
from irverify.ir.program import load
from irverify.train.images import load_images
from irverify.train.toml import merged, write_toml

HELD_OUT = 0.2
HELD_OUT_FILE = "held_out.npz"


@dataclass(frozen=True)
class Row:
    """A line of the table: `recipe` for so many epochs, trained at `above` times the radius that is tested.

    `entries` replace those of the recipe at every radius, `at` those for one of them.
    """

    name: str
    recipe: str
    epochs: int
    above: float = 1.0
    begin: float = 0.0
    end: float = 0.5
    exact: bool = False
    entries: Mapping[str, object] = field(default_factory=dict)
    at: Mapping[float, Mapping[str, object]] = field(default_factory=dict)

    def config(self, eps: float) -> dict[str, object]:
        """What is put in place of the recipe's entries."""
        ramp = {"from": 0.0, "to": self.above * eps, "begin": self.begin, "end": self.end, "unit": "share"}
        common = {
            "training": {"epochs": self.epochs, "eps": ramp, "test_eps": eps, "held_out": HELD_OUT, "batch": 100},
            "evaluation": {"every": self.epochs, "first": 100, "attack_steps": 10, "certify": "ibp"},
        }
        return merged(merged(common, self.entries), self.at.get(eps, {}))


SMALL = {"network": {"name": "wk-small"}}
ROWS = (
    Row("standard", "standard", 20),
    Row("ibp", "ibp", 30, 1.1, 0.05),
    Row("singleprop-zero", "singleprop-zero", 30, 1.1, 0.05),
    Row("singleprop-fastlin", "singleprop-fastlin", 30, 1.1, 0.05),
    Row("adversarial", "adversarial", 8, exact=True),
    Row("adversarial-l1", "adversarial-l1", 8, exact=True),
    Row("rs", "rs", 8, exact=True),
    Row("crown-ibp", "crown-ibp", 30, 1.1, 0.05),
    Row("trades", "trades", 8),
    Row("dual-exact", "dual-exact", 10),
    Row("dual-d-r", "dual-d-r", 10),
    Row("crown-ibp-r", "crown-ibp-r", 30, 1.1, 0.05),
    Row("dual-proj", "dual-proj", 6, entries=SMALL),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="mnist:DIR, whose test part is split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--eps", default="0.1,0.3", help="radii, in raw input units")
    parser.add_argument("--rows", help="names of some rows")
    parser.add_argument("--exact", type=int, default=0, help="so many images for the whole driver, 30 s each")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    names = arguments.rows.split(",") if arguments.rows else [row.name for row in ROWS]
    chosen = [row for row in ROWS if row.name in names]
    radii = [float(part) for part in arguments.eps.split(",")]
    arguments.out.mkdir(parents=True, exist_ok=True)
    test = load_images(arguments.data, "test", HELD_OUT).test
    np.savez(arguments.out / HELD_OUT_FILE, images=test.images, labels=test.labels, valid_range=test.valid_range)
    found = []
    for row in chosen:
        for eps in radii:
            folder = arguments.out / f"{row.name}-{eps:g}"
            trained(row, eps, arguments.data, folder)
            found.append(measured(row, eps, test, folder))
            if row.exact and arguments.exact:
                found[-1] |= decided(folder, eps, arguments.exact)
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps(found) if arguments.json else table(found))


def trained(row: Row, eps: float, data: str, folder: Path) -> None:
    """Trains what is not trained yet."""
    if (folder / "model.onnx").exists():
        return
    if (folder / "checkpoint.safetensors").exists():
        irverify("train", "--resume", str(folder))
        return
    config = folder.parent / f"{folder.name}.toml"
    config.write_text(write_toml(row.config(eps)), encoding="utf-8")
    irverify("train", "--recipe", row.recipe, "--short", "--data", data, "--part", "test", "--config", str(config),
             "--seed", "0", "--out", str(folder))  # fmt: skip


def measured(row: Row, eps: float, test: DataSet, folder: Path) -> dict[str, Any]:
    """Errors, and the median of the seconds of an epoch, the last one left out, which measures as well."""
    kept = folder / "measured.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    with (folder / "log.csv").open(encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    graph = load(folder / "model.safetensors")
    right = clean(graph, test)
    hard = resistant(graph, test, right, eps)
    proved = {method: certified(graph, test, hard, eps, method) for method in ("ibp", "crown")}
    found = {
        "row": row.name,
        "eps": eps,
        "epochs": row.epochs,
        "epoch_seconds": float(np.median([float(entry["seconds"]) for entry in log[:-1]])),
        "standard": 1 - len(right) / len(test),
        "pgd": 1 - len(hard) / len(test),
        **{method: 1 - len(some) / len(test) for method, some in proved.items()},
        "certified": 1 - len(proved["ibp"] | proved["crown"]) / len(test),
    }
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def clean(graph: Graph, test: DataSet) -> list[int]:
    """The images that are classified as their label."""
    with torch.no_grad():
        logits = graph.evaluate(torch.from_numpy(test.images))
    assert isinstance(logits, torch.Tensor)
    return (logits.argmax(1) == torch.from_numpy(test.labels)).nonzero()[:, 0].tolist()


def resistant(graph: Graph, test: DataSet, right: Sequence[int], eps: float) -> list[int]:
    """Those of them for which projected gradient descent of 40 steps finds no adversarial input."""
    found = []
    for start in range(0, len(right), 100):
        some = list(right[start : start + 100])
        region = iv.Linf(torch.from_numpy(test.images[some]), eps, clip=test.valid_range)
        labels = torch.from_numpy(test.labels[some])
        kept = keeps_label(graph, [region], labels, Pgd(40, 1, 2.5 / 40, 1.0, untargeted=True))
        found += [image for image, stays in zip(some, kept.tolist(), strict=True) if stays]
    return found


def certified(graph: Graph, test: DataSet, images: Sequence[int], eps: float, method: str) -> set[int]:
    """Those of the images that an analysis proves."""
    if not images:
        return set()
    question = Question(graph, test.select(np.array(images)), eps, "inf", test.valid_range)
    certifier = ByAnalysis(question, method, Settings(torch.float32, "cpu"))
    outcomes = [outcome for batch in certifier.outcomes(range(len(images))) for outcome in batch]
    return {images[outcome.index] for outcome in outcomes if outcome.status == "certified"}


def decided(folder: Path, eps: float, first: int) -> dict[str, Any]:
    """What the whole driver says of the first images: exact error, what stays open, unstable ReLUs, seconds."""
    out = irverify("certify", str(folder / "model.onnx"), "--data", f"npz:{folder.parent / HELD_OUT_FILE}", "--eps",
                   f"{eps:g}", "--first", str(first), "--timeout", "30", "--workers", "1",
                   "--out", str(folder / "exact"), "--json")  # fmt: skip
    answer = json.loads(out)
    images = answer["per_image"]
    unstable = [image["unstable"] for image in images if image.get("unstable") is not None]
    return {
        "exact_images": answer["n"],
        "exact_certified": answer["certified"],
        "exact_open": answer["unknown"] + answer["timeout"] + answer["error"],
        "unstable": float(np.mean(unstable)) if unstable else None,
        "exact_seconds": answer["seconds"] / answer["n"],
    }


def irverify(*arguments: str) -> str:
    """The output of a command, whose progress goes to a log."""
    done = subprocess.run([sys.executable, "-m", "irverify.cli", *arguments], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)  # fmt: skip
    return done.stdout


def table(found: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, errors in percent."""
    heads = ("eps", "method", "epochs", "s an epoch", "standard", "PGD", "certified", "by ibp", "by crown")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for entry in sorted(found, key=lambda entry: float(entry["eps"])):
        shares = [f"{100 * entry[key]:.2f}" for key in ("standard", "pgd", "certified", "ibp", "crown")]
        cells = [f"{entry['eps']:g}", entry["row"], str(entry["epochs"]), f"{entry['epoch_seconds']:.1f}", *shares]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
