"""The command line. One file a command; what takes long to import is imported by the command that needs it."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of `irverify` and of `python -m irverify.cli`: runs the command line of this process and ends it."""
    from irverify.cli.process import run_process  # inside, so that this module is imported before anybody can interrupt

    run_process()
