"""`irverify passes`: what a pipeline can be made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from irverify.cli.options import Json
from irverify.cli.streams import encode, write

if TYPE_CHECKING:
    from irverify.pipeline.catalog import Entry


def passes(as_json: Json = False) -> None:
    """List the passes that a pipeline can be made of, and their options.

    A pipeline is written like "fold-batchnorm,fuse-linear{elide=false},ibp,stability".
    """
    from irverify.pipeline.catalog import CATALOG
    from irverify.report.tables import table

    if as_json:
        write(encode("passes", {"passes": [_described(entry) for entry in CATALOG.values()]}))
        return
    rows = [(entry.name, entry.kind, ", ".join(map(str, entry.options)), entry.summary) for entry in CATALOG.values()]
    write(table(("pass", "kind", "options", "what it does"), rows).render())


def _described(entry: Entry) -> dict[str, object]:
    options = [
        {
            "name": option.name,
            "type": option.type,
            "default": option.default,
            "choices": list(option.choices),
            "optional": option.optional,
        }
        for option in entry.options
    ]
    return {"name": entry.name, "kind": entry.kind, "summary": entry.summary, "options": options}
