"""Several processes: the run of one of them, whatever the losses, and an end of all where one ends."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
import torch

from irverify.certify import load_cascade
from irverify.errors import TrainingError, UsageError
from irverify.ir.params import value
from irverify.train.cascade import FILE as CASCADE
from irverify.train.cascade import train_cascade
from irverify.train.cascade_state import load_state
from irverify.train.checkpoint import FILE, load_checkpoint
from irverify.train.processes import ALONE, OtherEnded, Processes, joined
from irverify.train.recipe import Recipe, parse_recipe
from tests.processes import run_two, together
from tests.train.recipes import small_cascade, small_trainer, table

RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "normalised": (
        "digits-resnet",
        {
            "clean": {"loss": "cross-entropy"},
            "ibp": {"loss": "ibp", "kappa": 0.25},
            "attacked": {"loss": "adversarial", "steps": 2},
            "l1": {"loss": "l1", "weight": 1e-4},
        },
    ),
    "projected": (
        "mlp-2x100",
        {"dual": {"loss": "dual", "projections": 3}, "trades": {"loss": "trades", "steps": 1, "weight": 0.5}},
    ),
}


def recipe(name: str) -> Recipe:
    """Two epochs of 200 images in batches of 67, which two processes cannot divide evenly."""
    network, terms = RUNS[name]
    training = {"eps": 0.02, "epochs": 2, "batch": 67, "seed": 3}
    pruning = {
        "weights": {"prune": "weights", "sparsity": 0.5, "at": 1},
        "relus": {"prune": "relus", "share": 0.1, "at": 2},
    }
    tables = {"training": training, "optimiser": {"name": "sgd", "rate": 0.02}, "pruning": pruning}
    return parse_recipe({**table(terms, network), **tables})


def cascade_recipe() -> Recipe:
    small = table(epochs=1)
    return parse_recipe({**small, "training": {"eps": 0.004, "epochs": 1, "batch": 67, "seed": 3}})


def test_shares_of_a_batch() -> None:
    shares = [Processes(rank, 3).share(11) for rank in range(3)]
    assert [share.rows for share in shares] == [slice(0, 4), slice(4, 8), slice(8, 11)]
    assert [share.weight for share in shares] == [4 / 11, 4 / 11, 3 / 11]
    few = Processes(2, 3).share(2)
    assert (few.rows, few.weight, few.split) == (slice(0, 2), 1 / 3, False)
    assert (ALONE.share(5).rows, ALONE.share(5).weight) == (slice(0, 5), 1.0)


def test_one_process_needs_no_others() -> None:
    assert joined("cuda:1", {}) == (ALONE, "cuda:1")
    assert joined("cpu", {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}) == (ALONE, "cpu")
    tensor = torch.ones(2)
    assert ALONE.total(tensor) is tensor


def test_processes_do_not_share_a_device() -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    with pytest.raises(UsageError, match="expected --device cpu or cuda with 2 processes, got 'cuda:0'"):
        joined("cuda:0", environment)


def _train(rank: int, port: int, place: str) -> None:
    """What each of two processes does: goes on with both runs, and then the second one fails."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    processes, _ = joined("cpu")
    for name in RUNS:
        trainer = small_trainer(Path(place, name), recipe(name), processes)
        trainer.resume(load_checkpoint(Path(place, name)))
        trainer.run()
    cascade = small_cascade(Path(place, "cascade"), cascade_recipe(), 2, processes)
    train_cascade(cascade)
    Path(place, f"left {rank}").write_text(repr(cascade.state.done))
    try:
        with processes.together():
            if rank == 1:
                raise TrainingError("no room", where="here")
            processes.meet()
    except OtherEnded as error:
        Path(place, "message").write_text(str(error))
    except TrainingError:
        pass
    os._exit(0)  # the tear-down of process groups can wait for ever, and is not what is tested


@together
def test_two_processes_go_on_with_the_run_of_one(tmp_path: Path) -> None:
    expected = {}
    for name in RUNS:
        alone = small_trainer(tmp_path / "alone", recipe(name))
        alone.folder.mkdir(exist_ok=True)
        alone.watch = lambda moment, name=name: _copy(moment.clock.step == 4, tmp_path / "alone", tmp_path / name)  # type: ignore[misc]
        alone.run()
        expected[name] = load_checkpoint(tmp_path / "alone")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    cascade = train_cascade(small_cascade(tmp_path / "alone cascade", cascade_recipe(), 2))
    run_two(_train, port, str(tmp_path), seconds=240)
    assert (tmp_path / "message").read_text() == "process 1 of 2: here: no room"
    for name in RUNS:
        found = load_checkpoint(tmp_path / name)
        assert [row["epoch"] for row in found.facts.rows] == [1, 2]
        for entry in RUNS[name][1]:
            assert found.facts.rows[1][entry] == pytest.approx(expected[name].facts.rows[1][entry], rel=1e-4)
        assert found.weights.keys() == expected[name].weights.keys()
        assert any(key.endswith("piece") for key in found.weights)
        for key, tensor in found.weights.items():
            torch.testing.assert_close(tensor, expected[name].weights[key], rtol=1e-3, atol=1e-5)
    done = load_state(tmp_path / "alone cascade").done
    assert 0 < len(done[0].rest) < 200
    assert [(tmp_path / f"left {rank}").read_text() for rank in range(2)] == [repr(done)] * 2
    assert load_state(tmp_path / "cascade").done == done
    for mine, theirs in zip(cascade.stages, load_cascade(tmp_path / "cascade" / CASCADE).stages, strict=True):
        for key, parameter in mine.parameters().items():
            torch.testing.assert_close(value(theirs.parameters()[key]), value(parameter), rtol=1e-3, atol=1e-5)


def _copy(now: bool, folder: Path, copy: Path) -> None:
    """Keeps the checkpoint of the first epoch, at the first step of the second."""
    if now:
        copy.mkdir()
        shutil.copy(folder / FILE, copy)
