"""The curves of paper 1's figures 2 and 3, as numbers and pictures.

    python -m benchmarks.sparsity_curves --data mnist:DIR --out runs [--weights 0,2e-4] [--shares 0,0.1] [--images 20]

Figure 2: the weight of RS loss against unstable ReLUs of each layer and the seconds of exact verification; networks are
those of the recipe rs, without pruning, so that nothing else differs. Figure 3: the share of images up to which ReLUs
are pruned against test and PGD accuracy, on the network of the recipe adversarial, without fine-tuning. The folder is
that of `benchmarks.sparsity`: what is there is not done again. `irverify compile --stats --picture` draws such curves
of any networks; here ReLUs are counted on the images of training, and accuracies are those on others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import irverify as iv
from benchmarks.methods import HELD_OUT, Row, clean, resistant, trained
from benchmarks.sparsity import EPOCHS, Question, decided, held_out, measured, method
from irverify.report.lines import Line, Panel, draw_panels
from irverify.train import masks
from irverify.train.checkpoint import load_checkpoint
from irverify.train.images import load_images
from irverify.train.networks import network
from irverify.train.recipe import parse_recipe
from irverify.train.toml import parse_toml

WEIGHTS = "0,1.2e-4,2e-4,5e-4"
SHARES = "0,0.02,0.05,0.1,0.15,0.2,0.25,0.3,0.35,0.4"
RS_PICTURE, RELU_PICTURE = "rs_weight.png", "relu_pruning.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="mnist:DIR, whose test part is split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--weights", default=WEIGHTS, help="of RS loss; 0 is the recipe adversarial-l1")
    parser.add_argument("--shares", default=SHARES, help="of images")
    parser.add_argument("--eps", type=float, default=0.1, help="radius, in raw input units")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--counted", type=int, default=50, help="images for the unstable ReLUs")
    parser.add_argument("--images", type=int, default=20, help="images for exact verification; 0: none")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each of them")
    parser.add_argument("--attacked", type=int, default=500, help="images for the PGD accuracy of figure 3")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    question = Question(
        arguments.eps, held_out(arguments.data, arguments.out), arguments.counted, arguments.images, arguments.timeout
    )
    by_weight = []
    for weight in map(float, filter(None, arguments.weights.split(","))):
        by_weight.append({"weight": weight} | _of_weight(weight, question, arguments))
        print(json.dumps(by_weight[-1]), file=sys.stderr, flush=True)
    by_share = _of_shares([float(part) for part in filter(None, arguments.shares.split(","))], question, arguments)
    if by_weight:
        draw_weights(by_weight, arguments.out / RS_PICTURE)
    if by_share:
        draw_shares(by_share, arguments.out / RELU_PICTURE)
    print(json.dumps({"weights": by_weight, "shares": by_share}) if arguments.json else tables(by_weight, by_share))


def _of_weight(weight: float, question: Question, arguments: argparse.Namespace) -> dict[str, Any]:
    """What `benchmarks.sparsity` measures, for one weight of RS loss; the rest is as in the recipes, l1 too."""
    recipe = "rs" if weight else "adversarial-l1"
    entries: dict[str, object] = {"terms": {"rs": {"weight": weight}}} if weight else {}
    how = Row(recipe, recipe, arguments.epochs, entries=entries)
    folder = arguments.out / f"rs-{weight:g}"
    trained(how, question.eps, arguments.data, folder)
    return measured(folder, question) | (decided(folder, question) if question.images else {})


def _of_shares(shares: Sequence[float], question: Question, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """ReLUs left, test and PGD accuracy of the network that is trained under attack alone, for each share."""
    folder = arguments.out / "adversarial"
    kept = folder / "relu_pruning.json"
    known: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    missing = [share for share in shares if f"{share:g}" not in known]
    if missing:
        trained(method("adversarial", arguments.epochs), question.eps, arguments.data, folder)
        images = torch.from_numpy(load_images(arguments.data, "test", HELD_OUT).train.images)
        activity = masks.activity(_module(folder), images)
    for share in missing:
        module = _module(folder)
        pruned = masks.prune_relus(module, activity, share)
        graph = iv.compile(module, images[:1])
        first = question.test.select(np.arange(arguments.attacked))
        known[f"{share:g}"] = {
            "share": share,
            "pruned": pruned.count,
            "test": len(clean(graph, question.test)) / len(question.test),
            "pgd": len(resistant(graph, first, clean(graph, first), question.eps)) / len(first),
            "attacked": len(first),
        }
        kept.write_text(json.dumps(known), encoding="utf-8")
        print(json.dumps(known[f"{share:g}"]), file=sys.stderr, flush=True)
    return [known[f"{share:g}"] for share in shares]


def _module(folder: Path) -> nn.Module:
    """The network of a run, from its checkpoint."""
    checkpoint = load_checkpoint(folder)
    recipe = parse_recipe(parse_toml(checkpoint.facts.recipe, str(folder)))
    module = network(recipe.network, (1, 28, 28), 10, recipe.normalisation)
    masks.load(module, checkpoint.weights)
    return module.eval()


def draw_weights(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Figure 2: unstable ReLUs of each layer, and the seconds of an image."""
    at = [entry["weight"] for entry in found]
    layers = [list(column) for column in zip(*(entry["layers"] for entry in found), strict=True)]
    counts = [Line(f"layer {number}", at, column) for number, column in enumerate(layers, 1)]
    counts.append(Line("all", at, [entry["crown"] for entry in found]))
    panels = [Panel("Unstable ReLUs (crown)", "mean over images", tuple(counts))]
    if all("seconds" in entry for entry in found):
        timed = Line(f"limit {found[0]['timeout']:g} s", at, [entry["seconds"] for entry in found])
        panels.append(Panel("Exact verification", "mean seconds an image", (timed,)))
    draw_panels(path, "weight of RS loss", panels)


def draw_shares(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Figure 3: accuracies against the share of images."""
    at = [100 * entry["share"] for entry in found]
    lines = [Line(name, at, [100 * entry[key] for entry in found]) for key, name in (("test", "test"), ("pgd", "PGD"))]
    gone = Line("pruned", at, [entry["pruned"] for entry in found])
    panels = [
        Panel("Accuracy without fine-tuning", "images (%)", tuple(lines), close=True),
        Panel("Pruned ReLUs", "elements", (gone,)),
    ]
    draw_panels(path, "pruned where (in)active on at most this share of images (%)", panels)


def tables(by_weight: Sequence[dict[str, Any]], by_share: Sequence[dict[str, Any]]) -> str:
    """Both curves as Markdown."""
    lines = ["| weight of RS loss | test | PGD | unstable | by layer | provable | s an image |", f"|{' --- |' * 7}"]
    for entry in by_weight:
        layers = ", ".join(f"{count:.0f}" for count in entry["layers"])
        exact = f"{100 * entry['provable']:.0f} | {entry['seconds']:.1f}" if "provable" in entry else " | "
        lines.append(f"| {entry['weight']:g} | {100 * entry['test']:.2f} | {100 * entry['pgd']:.2f} | "
                     f"{entry['crown']:.0f} | {layers} | {exact} |")  # fmt: skip
    lines += ["", "| share of images (%) | pruned ReLUs | test | PGD |", f"|{' --- |' * 4}"]
    for entry in by_share:
        shares = f"{100 * entry['test']:.2f} | {100 * entry['pgd']:.1f}"
        lines.append(f"| {100 * entry['share']:g} | {entry['pruned']} | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
