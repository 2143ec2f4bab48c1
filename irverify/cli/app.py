"""The command `irverify`: its subcommands, put together. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from irverify import __version__
from irverify.cli.bounds import bounds
from irverify.cli.certify import certify
from irverify.cli.compile import compile_model
from irverify.cli.demo import demo
from irverify.cli.emit import emit
from irverify.cli.passes import passes
from irverify.cli.streams import write
from irverify.cli.supports import supports
from irverify.cli.train import train
from irverify.cli.verify import verify

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "verify": verify,
    "certify": certify,
    "compile": compile_model,
    "bounds": bounds,
    "emit": emit,
    "train": train,
    "passes": passes,
    "supports": supports,
}


def command() -> Any:
    """The command object of the whole command line, as typer makes it."""
    app = typer.Typer(name="irverify", add_completion=False, no_args_is_help=False)
    app.callback()(irverify)
    for name, function in COMMANDS.items():
        app.command(name)(function)
    return typer.main.get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        write(f"irverify {__version__}")
        raise typer.Exit


def irverify(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A compiler for neural-network verification: a network in, a decided property out.

    Results go to standard output; progress, warnings and errors to standard error. Exit codes: 0 a verdict was given,
    1 an error in the usage or the input, 2 a fault in irverify, 130 interrupted.
    """
