"""Draws instances of VNN-COMP benchmarks for a fixed list, so many of each.

    python -m benchmarks.draw acasxu mnistfc --each 30 > benchmarks/instances60.csv

An instance with a known verdict belongs to a category: its verdict, its property's number (acasxu) or its network and
radius (mnistfc). Categories are gone through in turn, in order of name, and each gives one of its instances, at random
by the seed, as long as it has one. That takes rare ones (the sat instances, the hard properties) as often as others.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.vnncomp import DATA, LISTED, Instance, instances


def category(instance: Instance) -> str:
    """What an instance is one of: names without the numbers of the image, or of the network where there are many."""
    network = re.sub(r"_\d_\d_batch", "", Path(instance.network).name)
    query = re.sub(r"^prop_\d+_(?=0\.)", "", Path(instance.query).name)
    return f"{instance.expected} {network} {query}"


def draw(given: Sequence[Instance], count: int, seed: int) -> list[Instance]:
    """`count` instances with a known verdict (all, where there are fewer), sorted."""
    generator = random.Random(seed)
    categories: dict[str, list[Instance]] = defaultdict(list)
    for instance in given:
        if instance.expected:
            categories[category(instance)].append(instance)
    waiting = [generator.sample(categories[name], len(categories[name])) for name in sorted(categories)]
    turns = [members[turn] for turn in range(max(map(len, waiting))) for members in waiting if turn < len(members)]
    return sorted(turns[:count], key=lambda instance: (instance.network, instance.query))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="+")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--each", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(LISTED)
    for name in arguments.benchmarks:
        for one in draw(list(instances(arguments.data / name, None, "2.0")), arguments.each, arguments.seed):
            writer.writerow((name, one.network, one.query, one.expected))
    return 0


if __name__ == "__main__":
    sys.exit(main())
