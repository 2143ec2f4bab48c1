"""`irverify train`: a network trained by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irverify import __version__
from irverify.cli.numbers import Numbers
from irverify.cli.options import SETS, Device, Json
from irverify.cli.progress import Tally
from irverify.cli.regions import part_of
from irverify.cli.several import Worker, working
from irverify.cli.streams import encode, note, write
from irverify.errors import FileError, UsageError
from irverify.train.recipe import Recipe, load_recipe, parse_recipe
from irverify.train.toml import parse_toml, write_toml

if TYPE_CHECKING:
    from irverify.data import Part
    from irverify.train.checkpoint import Row
    from irverify.train.trainer import Moment, Trainer

SMALL = "digits"
"""The data set whose variants are short as they are."""


@dataclass(frozen=True)
class Wanted:
    """What the command line says of a run; None is what the checkpoint or the recipe says."""

    recipe: str | None
    data: str | None
    part: Part | None
    config: Path | None
    short: bool
    seed: int | None
    held_out: float | None

    def load(self, data: str) -> Recipe:
        """The recipe for these images."""
        kind = data.partition(":")[0]
        variants = [kind, "short", f"{kind}-short"] if self.short and kind != SMALL else [kind]
        return load_recipe(self.recipe, variants, self.config, self.seed, self.held_out)


def train(
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="NAME", help="A recipe that ships with irverify, such as ibp.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SET", help=f"Images: {SETS}."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the network, log and checkpoint go.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.toml", help="Entries in place of those of the recipe, or a whole one."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Go on from the checkpoint in this folder.")
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", metavar="train|test|all", help="Part to train on; without it, train.")
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            "--held-out",
            metavar="N",
            help="Test on so many of these images, or such a share below 1, not on the data set's own test part.",
        ),
    ] = None,
    stages: Annotated[
        int | None,
        typer.Option(
            "--stages",
            metavar="K",
            min=1,
            help="A cascade of up to K networks, each trained on what those before it do not certify.",
        ),
    ] = None,
    short: Annotated[bool, typer.Option("--short", help="The variant of the recipe for two CPU cores.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of everything random; without it, the recipe's.", min=0)
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train a network by a recipe, and leave model.onnx, model.safetensors, recipe.toml, log.csv and curves.png.

    A checkpoint is written after every epoch. With --resume a run that was stopped goes on, to the weights that it
    would have had; it takes recipe and data from the checkpoint. Radii are in raw input units. With TensorBoard
    installed (pip install "irverify[tensorboard]") the log goes to DIR/tensorboard too.

    With --stages the folder has such a folder for each stage, and the cascade of them, cascade.safetensors, for
    `irverify certify`. --resume goes on with the stage that was stopped; with --stages as well it adds stages.

    Several processes that torchrun starts divide every batch among them, each with a GPU of its own where the device is
    cuda. The run is the same but for rounding, and may be resumed by another number of processes.
    """
    wanted = Wanted(recipe, data, None if part is None else part_of(part), config, short, seed, held_out)
    folder = out or resume
    if folder is None:
        raise UsageError("expected --out, a folder for the network, log and checkpoint")
    with working(device) as worker:
        if stages is not None or (resume is not None and _is_cascade(resume)):
            from irverify.cli.stages import train_stages

            train_stages(wanted, stages, folder, resume, worker, as_json)
            return
        if resume is None:
            trainer = _begun(wanted, folder, worker)
        else:
            trainer = _resumed(wanted, resume, folder, worker)
        run(trainer, known=trainer.clock.step)
        if worker.speaks:
            content = _export(trainer)
            write(encode("train", content) if as_json else _summary(trainer))


def _begun(wanted: Wanted, folder: Path, worker: Worker) -> Trainer:
    """A run from the beginning."""
    if wanted.data is None:
        raise UsageError("expected --data, such as --data digits")
    recipe = wanted.load(wanted.data)
    _check_unused(folder)
    return _trainer(recipe, wanted.data, wanted.part or "train", folder, worker)


def _check_unused(folder: Path) -> None:
    from irverify.train.checkpoint import FILE

    if (folder / FILE).exists():
        hint = f"--resume {folder} goes on from it"
        raise UsageError("a run has left its checkpoint in this folder", where=str(folder), hint=hint)


def _resumed(wanted: Wanted, begun: Path, folder: Path, worker: Worker) -> Trainer:
    """A run that goes on from the checkpoint in a folder; what the command line says again must agree with it."""
    from irverify.train.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(begun)
    if folder.resolve() != begun.resolve():
        _check_unused(folder)
    facts = checkpoint.facts
    recipe = resumed_recipe(wanted, facts.recipe, facts.data, str(checkpoint.path))
    trainer = _trainer(recipe, wanted.data or facts.data, wanted.part or facts.part, folder, worker)
    trainer.resume(checkpoint)
    return trainer


def resumed_recipe(wanted: Wanted, text: str, data: str, place: str) -> Recipe:
    """The recipe of a run that goes on: its own TOML text, or what the command line says again of it."""
    if wanted.recipe is None and wanted.config is None:
        if wanted.short or wanted.seed is not None or wanted.held_out is not None:
            raise UsageError("--short, --seed and --held-out go with --recipe; a run that is resumed has its own")
        return parse_recipe(parse_toml(text, place))
    return wanted.load(wanted.data or data)


def _is_cascade(folder: Path) -> bool:
    from irverify.train.cascade_state import cascade_folder

    return cascade_folder(folder) is not None


def _trainer(recipe: Recipe, data: str, part: Part, folder: Path, worker: Worker) -> Trainer:
    from irverify.train.checkpoint import Facts
    from irverify.train.images import load_images
    from irverify.train.processes import ALONE
    from irverify.train.trainer import Trainer

    device = Numbers("float32", worker.device).check_device()
    images = load_images(data, part, recipe.held_out, recipe.validation)
    text = write_toml(recipe.table)
    facts = Facts(text, data, part, images.fingerprint, epoch=0, step=0, about=about(recipe))
    trainer = Trainer(recipe, images, folder, facts, device, worker.processes or ALONE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot be made: {error.strerror or error}", where=str(folder)) from error
    return trainer


def about(recipe: Recipe) -> dict[str, object]:
    """What belongs to the weights for good: without it no number that is reported of them can be reproduced."""
    return {
        "recipe": recipe.name,
        "network": recipe.network,
        "method": [f"{term.name}: {term.loss}" for term in recipe.terms],
        "pruning": [f"{pruning.name}: {pruning.prune}" for pruning in recipe.prunings],
        "seed": recipe.seed,
        "training eps": recipe.eps.last,
        "test eps": recipe.test_eps,
        "norm": recipe.norm,
        "normalisation": recipe.normalisation,
        "irverify": __version__,
    }


def run(trainer: Trainer, known: int) -> None:
    """Trains, and says how it goes."""
    with Tally(trainer.clock.total, known) as tally:
        trainer.watch = lambda moment: tally.advance(lambda: _lines(moment, trainer.rows))
        try:
            trainer.run()
        except KeyboardInterrupt:
            if trainer.kept:
                kept = f"{trainer.kept} of {trainer.recipe.epochs} epochs are kept"
                note(f"{kept}: --resume {trainer.folder} goes on from there")
            raise


def _lines(moment: Moment, rows: Sequence[Row]) -> list[str]:
    """How training goes, with the accuracies that were measured last."""
    clock = moment.clock
    numbers = {"eps": moment.eps, **moment.scheduled}
    lines = [
        f"epoch {int((clock.step - 1) / clock.steps_per_epoch) + 1} of {clock.epochs}, "
        + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()),
        ", ".join(f"{name} {value:.4f}" for name, value in moment.terms.items()),
    ]
    measured = [row for row in rows if row.get("clean accuracy") is not None]
    return [*lines, _accuracies(measured[-1])] if measured else lines


def _accuracies(row: Row) -> str:
    """The accuracies of a row of the log, as far as they were measured."""
    shares = {name: value for name, value in row.items() if name.endswith("accuracy") and value is not None}
    return f"after epoch {row['epoch']}: " + ", ".join(f"{name} {value:.1%}" for name, value in shares.items())


def _export(trainer: Trainer) -> dict[str, object]:
    """Writes what a run leaves, and says what that is."""
    from irverify.train.export import ONNX, PROGRAM, RECIPE, export
    from irverify.train.log import FILE

    facts = {name: str(value) for name, value in trainer.facts.about.items()}
    try:
        export(trainer.folder, trainer.network, trainer.example, trainer.facts.recipe, facts)
    except FileError as error:
        hint = f"the trained weights are kept: --resume {trainer.folder} writes the network once more"
        raise FileError(error.message, where=error.where, hint=hint) from error
    curves = draw(trainer)
    return {
        **trainer.facts.about,
        "epochs": trainer.recipe.epochs,
        "steps": trainer.clock.step,
        "seconds": sum(row["seconds"] or 0.0 for row in trainer.rows),
        "last": trainer.rows[-1],
        "files": [str(trainer.folder / name) for name in (ONNX, PROGRAM, RECIPE, FILE, *curves)],
    }


def draw(trainer: Trainer) -> list[str]:
    """Draws the curves of a run; the name of the picture. A run is not lost because there is none."""
    try:
        from irverify.report.curves import FILE, draw_curves

        draw_curves(trainer.folder, trainer.recipe, trainer.rows)
    except ImportError as error:
        note(f"no curves.png: matplotlib cannot be imported ({error})")
        return []
    return [FILE]


def _summary(trainer: Trainer) -> str:
    row, recipe = trainer.rows[-1], trainer.recipe
    first = min(recipe.evaluation.first, len(trainer.images.test))
    pruned = ", ".join(f"{row[name]:.0f} {name}" for name in ("pruned weights", "pruned ReLUs") if row.get(name))
    return (
        f"{recipe.network} trained by {recipe.name}; {_accuracies(row)}{pruned and f'; {pruned}'}\n"
        f"PGD with {recipe.evaluation.attack_steps} steps and certified by {recipe.evaluation.certify} at eps "
        f"{recipe.test_eps:g} on {first} test images\n{trainer.folder}: model.onnx, model.safetensors, recipe.toml, "
        "log.csv, curves.png"
    )
