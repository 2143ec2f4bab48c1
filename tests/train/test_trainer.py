"""Training: that it learns, that an interrupted run goes on to the same weights, and what stops it."""

from __future__ import annotations

import csv
import errno
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from irverify.errors import FileError, TrainingError, UsageError
from irverify.ir.ops import Relu
from irverify.train import trainer as trainer_module
from irverify.train.checkpoint import FILE, load_checkpoint, save_checkpoint
from irverify.train.export import export
from irverify.train.masked_relu import MaskedReLU
from irverify.train.recipe import parse_recipe
from irverify.train.trainer import Moment, Trainer
from tests.train.recipes import small_trainer, table

SGD = {"name": "sgd", "rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4}


def test_training_learns(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, parse_recipe(table(epochs=6)))
    moments: list[Moment] = []
    trainer.watch = moments.append
    trainer.run()
    assert [moment.clock.step for moment in moments] == list(range(1, 61))
    assert moments[4].eps == pytest.approx(0.05 * 4 / 10)
    first, last = trainer.rows[0], trainer.rows[-1]
    assert (last["epoch"], last["step"], last["eps"]) == (6, 60, 0.05)
    assert last["loss"] is not None
    assert first["loss"] is not None
    assert last["loss"] < first["loss"]
    assert first["clean accuracy"] is None  # measured every second epoch
    assert last["clean accuracy"] is not None
    assert last["clean accuracy"] > 0.6
    with (tmp_path / "log.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [row["epoch"] for row in logged] == ["1", "2", "3", "4", "5", "6"]
    assert logged[0]["clean accuracy"] == ""
    assert float(logged[5]["clean"]) == last["clean"]


@pytest.mark.parametrize("optimiser", [{"rate": 1e-3}, SGD])
def test_resumed_run_ends_with_the_same_weights(tmp_path: Path, optimiser: dict[str, object]) -> None:
    recipe = parse_recipe({**table(network="digits-resnet"), "optimiser": optimiser})
    whole = small_trainer(tmp_path, recipe)
    whole.run()

    def interrupt(moment: Moment) -> None:
        if moment.clock.step == 14:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    folder.mkdir()
    stopped = small_trainer(folder, recipe)
    stopped.watch = interrupt
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    torch.rand(1)  # the random state of the process does not matter
    resumed = small_trainer(folder, recipe)
    resumed.resume(load_checkpoint(folder))
    assert resumed.clock.step == 10
    resumed.run()
    expected, found = whole.network.state_dict(), resumed.network.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [row["loss"] for row in whole.rows] == [row["loss"] for row in resumed.rows]


def test_pruned_run_is_resumed_to_the_same_weights(tmp_path: Path) -> None:
    pruning = {
        "weights": {"prune": "weights", "sparsity": 0.3, "over": "network", "at": [1, 3]},
        "first": {"prune": "weights", "threshold": 0.05, "only": ["1"], "at": 2},
        "relus": {"prune": "relus", "share": 0.2, "at": 2},
    }
    terms = {"clean": {"loss": "cross-entropy"}, "rs": {"loss": "rs", "weight": 1e-3}}
    recipe = parse_recipe({**table(terms, epochs=4), "optimiser": SGD, "pruning": pruning})
    whole = small_trainer(tmp_path, recipe)
    seen: list[int] = []
    whole.watch = lambda moment: seen.append(sum(int((part == 0).sum()) for part in whole.network.parameters()))
    whole.run()
    assert (seen[9], seen[10] > 0, len(set(seen[10:20]))) == (0, True, 1)  # no weight comes back
    pruned = [row["pruned weights"] for row in whole.rows]
    layers = [part for part in whole.network.modules() if isinstance(part, nn.Linear)]
    assert pruned[3] == sum(int((part.weight == 0).sum()) for part in layers)
    assert (pruned[0], pruned[2] == pruned[3]) == (seen[10], True)
    assert [row["pruned ReLUs"] for row in whole.rows][:1] == [0]
    assert len({row["pruned ReLUs"] for row in whole.rows[1:]}) == 1
    assert [row["clean accuracy before pruning"] is None for row in whole.rows] == [False, False, False, True]
    assert len(masked(whole)) == 2

    folder = tmp_path / "stopped"
    folder.mkdir()
    for step in (15, 25):  # before and after ReLUs are pruned
        stopped = small_trainer(folder, recipe)
        if step > 15:
            stopped.resume(load_checkpoint(folder))

        def interrupt(moment: Moment, step: int = step) -> None:
            if moment.clock.step == step:
                raise KeyboardInterrupt

        stopped.watch = interrupt
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    resumed = small_trainer(folder, recipe)
    resumed.resume(load_checkpoint(folder))
    resumed.run()
    expected, found = whole.network.state_dict(), resumed.network.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [{**row, "seconds": 0} for row in whole.rows] == [{**row, "seconds": 0} for row in resumed.rows]


def test_pruning_does_not_touch_running_statistics(tmp_path: Path) -> None:
    pruning = {"relus": {"prune": "relus", "share": 0.3, "at": 1}}
    trainer = small_trainer(tmp_path, parse_recipe({**table(network="digits-resnet", epochs=1), "pruning": pruning}))
    trainer.run()
    assert {int(part.num_batches_tracked or 0) for part in trainer.network.modules()
            if isinstance(part, nn.BatchNorm2d)} == {10}  # fmt: skip
    assert trainer.rows[0]["pruned ReLUs"] == sum(int((part.piece >= 0).sum()) for part in masked(trainer))
    graph = export(tmp_path, trainer.network, trainer.example, trainer.facts.recipe, {})
    assert {node.type.size for node in graph if isinstance(node.op, Relu)} >= {
        int((part.piece < 0).sum()) for part in masked(trainer)
    }


def masked(trainer: Trainer) -> list[MaskedReLU]:
    return [part for part in trainer.network.modules() if isinstance(part, MaskedReLU)]


def test_a_run_does_not_touch_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    small_trainer(tmp_path, parse_recipe(table(epochs=1))).run()
    assert torch.equal(torch.rand(3), expected)


def test_loss_that_is_not_finite_stops_with_a_usable_checkpoint(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path)

    def spoil(moment: Moment) -> None:
        if moment.clock.step == 12:
            with torch.no_grad():
                next(trainer.network.parameters()).fill_(torch.nan)

    trainer.watch = spoil
    with pytest.raises(TrainingError, match=r"epoch 2, step 12: the loss is not finite .*clean nan.*--resume"):
        trainer.run()
    again = small_trainer(tmp_path)
    again.resume(load_checkpoint(tmp_path))
    again.run()
    assert again.clock.step == 20


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path)

    def spoil(moment: Moment) -> None:
        if moment.clock.step == 10:
            with torch.no_grad():
                next(trainer.network.parameters()).fill_(torch.inf)

    trainer.watch = spoil
    with pytest.raises(TrainingError, match=r"weights are not finite .*there is no checkpoint yet"):
        trainer.run()
    assert not (tmp_path / FILE).exists()


def test_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_trainer(tmp_path)
    written: list[int] = []

    def full(folder: Path, facts: object, *rest: object) -> None:
        written.append(1)
        if len(written) == 2:
            raise FileError("cannot be written: No space left on device", where=str(folder / FILE))
        save_checkpoint(folder, facts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer_module, "save_checkpoint", full)
    with pytest.raises(FileError, match=r"No space left on device \(the last checkpoint is whole: --resume"):
        trainer.run()
    assert load_checkpoint(tmp_path).facts.epoch == 1


def test_what_cannot_be_written_for_tensorboard_stops_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, folder: str, filename_suffix: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Full  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    trainer = small_trainer(tmp_path)
    with pytest.raises(FileError, match=r"tensorboard: .*No space left on device \(the last checkpoint is whole"):
        trainer.run()
    assert (load_checkpoint(tmp_path).facts.epoch, trainer.kept) == (1, 1)


def test_a_run_stopped_after_its_last_checkpoint_gets_its_log(tmp_path: Path) -> None:
    small_trainer(tmp_path, parse_recipe(table(epochs=1))).run()
    written = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").unlink()
    again = small_trainer(tmp_path, parse_recipe(table(epochs=1)))
    again.resume(load_checkpoint(tmp_path))
    again.run()
    assert (tmp_path / "log.csv").read_text() == written


def test_only_the_same_run_goes_on(tmp_path: Path) -> None:
    small_trainer(tmp_path, parse_recipe(table(epochs=1))).run()
    with pytest.raises(UsageError, match="the recipe is not that of the checkpoint"):
        small_trainer(tmp_path, parse_recipe(table(epochs=3))).resume(load_checkpoint(tmp_path))


def test_exported_network_is_the_trained_one(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, parse_recipe(table(network="digits-resnet", epochs=1)))
    trainer.run()
    graph = export(tmp_path, trainer.network, trainer.example, trainer.facts.recipe, {"seed": "3"})
    x = trainer.x[:5]
    torch.testing.assert_close(graph.evaluate(x), trainer.network(x).detach(), rtol=1e-4, atol=1e-5)
    assert all((tmp_path / name).exists() for name in ("model.onnx", "model.safetensors", "recipe.toml", "log.csv"))


def test_term_that_begins_within_an_epoch_is_averaged_over_its_own_batches(tmp_path: Path) -> None:
    late = {"from": 0.0, "to": 1.0, "begin": 0.75, "end": 0.8}
    terms = {"late": {"loss": "l1", "weight": late}}
    trainer = small_trainer(tmp_path, parse_recipe(table(terms, epochs=1)))
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    moments: list[Moment] = []
    still: list[bool] = []

    def watch(moment: Moment) -> None:
        moments.append(moment)
        pairs = zip(before, trainer.network.parameters(), strict=True)
        still.append(all(torch.equal(old, new) for old, new in pairs))

    trainer.watch = watch
    trainer.run()
    values = [moment.terms["late"] for moment in moments if "late" in moment.terms]
    assert len(values) == 2
    assert still == [True] * 8 + [False] * 2  # nothing to learn from where every weight is 0
    assert trainer.rows[-1]["late"] == pytest.approx(sum(values) / 2)
