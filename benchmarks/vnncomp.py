"""Runs the instances of a VNN-COMP benchmark through the command line and compares with the verdicts that are known.

    python -m benchmarks.vnncomp acasxu --timeout 10
    python -m benchmarks.vnncomp acasxu mnistfc --timeout 10 --jobs 2 --out results
    python -m benchmarks.vnncomp --list benchmarks/instances60.csv --timeout 60 --jobs 2 --out results

A benchmark is a folder with `instances.csv` (network, property, seconds) or `expected.csv` (which also has the VNN-LIB
2.0 form of the query and the verdict). What has been run stands in OUT/NAME.csv and is not run again, but for errors;
delete the file to start afresh. Exit code 1 where a verdict is wrong.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "vnncomp"
GRACE = 30.0
"""Seconds past the time limit after which a run that has not ended is killed, and counts as an error."""
LISTED = ("benchmark", "network", "query", "expected")
"""The columns of a list of instances."""
WORDS = {"verified": "unsat", "falsified": "sat", "unknown": "unknown", "timeout": "timeout"}


@dataclass(frozen=True)
class Instance:
    """One network and query; `expected` is sat, unsat or empty where nobody knows."""

    network: str
    query: str
    timeout: float
    expected: str


@dataclass(frozen=True)
class Row:
    """What one run gave: a line of the results file."""

    network: str
    query: str
    timeout: str
    expected: str
    result: str
    seconds: str
    method: str
    message: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.network, self.query, self.timeout

    @property
    def wrong(self) -> bool:
        return bool(self.expected) and self.result in ("sat", "unsat") and self.result != self.expected


def instances(folder: Path, timeout: float | None, version: str) -> Iterator[Instance]:
    """The instances of a benchmark; those without a query in the wanted version of VNN-LIB are left out."""
    known = folder / "expected.csv"
    if known.is_file():
        with known.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                query = line["vnnlib2"] if version == "2.0" else line["vnnlib"]
                if query:
                    yield Instance(line["onnx"], query, timeout or float(line["timeout"]), line["expected"])
        return
    with (folder / "instances.csv").open(newline="", encoding="utf-8") as file:
        for network, query, limit in csv.reader(file):
            yield Instance(network, query, timeout or float(limit), "")


def listed(file: Path, timeout: float | None) -> dict[str, list[Instance]]:
    """The instances of a list, by the name of their benchmark; they need a time limit."""
    if timeout is None:
        raise SystemExit("expected --timeout with --list")
    found: dict[str, list[Instance]] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            instance = Instance(line["network"], line["query"], timeout, line["expected"])
            found.setdefault(line["benchmark"], []).append(instance)
    return found


def run(folder: Path, instance: Instance, threads: int, options: Sequence[str]) -> Row:
    """One instance in a process of its own, with the irverify of this checkout."""
    command = [sys.executable, "-m", "irverify.cli", "verify", "--json"]
    command += [str(folder / instance.network), str(folder / instance.query)]
    command += ["--timeout", str(instance.timeout), "--threads", str(threads), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begun = time.monotonic()
    result, method, message = "error", "", ""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, noise = process.communicate(timeout=instance.timeout + GRACE)
            answer = json.loads(out) if out else {}
            if process.returncode == 0:
                result, method = WORDS[answer["verdict"]], answer["method"] or ""
                message = answer.get("reason") or ""
            else:
                message = answer.get("error", {}).get("message") or noise
        except subprocess.TimeoutExpired:
            process.kill()
            message = f"killed {GRACE:g} s past the time limit"
        except (ValueError, KeyError) as error:
            message = f"no JSON verdict: {error}"
    seconds = time.monotonic() - begun
    return Row(
        instance.network,
        instance.query,
        f"{instance.timeout:g}",
        instance.expected,
        result,
        f"{seconds:.2f}",
        method,
        " ".join(message.split())[:300],
    )


def earlier(file: Path) -> dict[tuple[str, str, str], Row]:
    """The rows of a results file. A last line that was cut off is left out, and so are errors: they are run again."""
    if not file.is_file():
        return {}
    names = [field.name for field in fields(Row)]
    with file.open(newline="", encoding="utf-8") as lines:
        read = [Row(**line) for line in csv.DictReader(lines) if list(line) == names and None not in line.values()]
    return {row.key: row for row in read if row.result != "error"}


def rewrite(file: Path, rows: Sequence[Row]) -> None:
    """Puts a results file in order in one step: a crash leaves the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    with fresh.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    fresh.replace(file)


def sweep(folder: Path, wanted: Sequence[Instance], file: Path, jobs: int, options: Sequence[str]) -> list[Row]:
    """Runs what no earlier run has decided, and writes each row as it comes."""
    done = earlier(file)
    rewrite(file, list(done.values()))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    lock = Lock()
    rows: dict[tuple[str, str, str], Row] = {}
    with file.open("a", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, [field.name for field in fields(Row)])

        def one(instance: Instance) -> None:
            row = done.get((instance.network, instance.query, f"{instance.timeout:g}"))
            if row is None:
                row = run(folder, instance, threads, options)
            with lock:
                rows[row.key] = row
                if row.key not in done:
                    writer.writerow(asdict(row))
                    out.flush()
                    mark = "WRONG " if row.wrong else ""
                    print(f"{mark}{row.network} {row.query}: {row.result} {row.seconds} s {row.message}", flush=True)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, wanted))
    return list(rows.values())


def summary(name: str, rows: Sequence[Row]) -> str:
    """Counts by expected verdict, and every wrong one."""
    lines = [f"{name}: {len(rows)} instances, {sum(float(row.seconds) for row in rows):.0f} s in all"]
    for expected in sorted({row.expected for row in rows}):
        counts = Counter(row.result for row in rows if row.expected == expected)
        listed = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
        lines.append(f"  expected {expected or 'unknown'}: {listed}")
    wrong = [row for row in rows if row.wrong]
    lines.append(f"  wrong: {len(wrong)}")
    lines += [f"    {row.network} {row.query}: {row.result}, expected {row.expected}" for row in wrong]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", help="names of folders under --data, or paths of folders")
    parser.add_argument("--list", type=Path, help="instances of several benchmarks, in place of all of some")
    parser.add_argument("--data", type=Path, default=DATA, help="where the benchmarks are")
    parser.add_argument("--timeout", type=float, help="seconds for each instance, instead of those of the benchmark")
    parser.add_argument("--jobs", type=int, default=1, help="instances at a time; the cores are shared among them")
    parser.add_argument(
        "--vnnlib", choices=("1.0", "2.0"), default="2.0",
        help="which form of the queries; verdicts are known of 2.0: some 1.0 files of one name state another property",
    )  # fmt: skip
    parser.add_argument("--only", default="", help="instances whose network or query contains this")
    parser.add_argument("--expected", choices=("sat", "unsat"), help="instances with this known verdict")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results files")
    parser.add_argument("--solver", default="auto")
    arguments = parser.parse_args()
    if bool(arguments.benchmarks) == (arguments.list is not None):
        parser.error("expected benchmarks or --list")
    lists = {} if arguments.list is None else listed(arguments.list, arguments.timeout)
    wrong = False
    for name in arguments.benchmarks or lists:
        folder = (arguments.data / name).resolve()
        wanted = [
            instance
            for instance in lists.get(name) or instances(folder, arguments.timeout, arguments.vnnlib)
            if arguments.only in f"{instance.network} {instance.query}"
            and arguments.expected in (None, instance.expected)
        ]
        file = arguments.out / f"{folder.name}.csv"
        rows = sweep(folder, wanted, file, arguments.jobs, ["--solver", arguments.solver])
        print(summary(folder.name, rows))
        wrong = wrong or any(row.wrong for row in rows)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
