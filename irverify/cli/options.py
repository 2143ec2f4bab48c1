"""Options that several commands share, spelt once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SETS = "digits, mnist:DIR, fashion:DIR, cifar10:DIR or npz:FILE"
MODEL_HELP = "The network: .onnx, .onnx.gz, .safetensors (a saved program), or module:callable (Python)."

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
PropertyFile = Annotated[
    str | None,
    typer.Argument(metavar="PROPERTY", help="A VNN-LIB file, .vnnlib or .vnnlib.gz.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the result.")]
Passes = Annotated[str, typer.Option("--passes", metavar="P", help="The pipeline; see `irverify passes`.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]

Data = Annotated[str | None, typer.Option("--data", metavar="SET", help=f"Images to perturb: {SETS}.")]
Eps = Annotated[
    float | None, typer.Option("--eps", metavar="E", help="Radius of the perturbation, in the model's raw input units.")
]
Norm = Annotated[str, typer.Option("--norm", metavar="inf|2|1", help="Norm that the radius is measured in.")]
Clip = Annotated[
    str | None,
    typer.Option(
        "--clip", metavar="LO,HI|none", help="Valid range of an input; without it, the range of the data set."
    ),
]
First = Annotated[int | None, typer.Option("--first", metavar="N", help="Take the first N images; without it, one.")]
Index = Annotated[str | None, typer.Option("--index", metavar="I,J,...", help="Take these images.")]
Images = Annotated[str, typer.Option("--data", metavar="SET", help=f"The data set: {SETS}.")]
Part = Annotated[
    str | None, typer.Option("--part", metavar="train|test|all", help="Part of the data set; without it, test.")
]
HeldOut = Annotated[
    float | None,
    typer.Option(
        "--held-out",
        metavar="N",
        help="Take the images alone that train --held-out N has left out: a number of them, or a share below 1.",
    ),
]
Radii = Annotated[str, typer.Option("--eps", metavar="E[,E2,...]", help="Radii, in the model's raw input units.")]

Dtype = Annotated[str, typer.Option("--dtype", metavar="float64|float32", help="Numbers to compute in.")]
Device = Annotated[str, typer.Option("--device", metavar="D", help="Where to compute: cpu, cuda, cuda:1, ...")]
Memory = Annotated[
    int | None, typer.Option("--memory", metavar="MB", help="Memory that computing may take, about.", min=1)
]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="B", help="Images at a time; without it, as many as fit.", min=1)
]

Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary", metavar="PASS.OPTION=V1,V2,...", help="With --stats: run the pipeline for each value of this option."
    ),
]
Also = Annotated[
    list[str] | None,
    typer.Option("--also", metavar="X=MODEL", help="With --stats: measure this network too, at X on a curve; repeat."),
]
At = Annotated[
    float | None, typer.Option("--at", metavar="X", help="With --also: where MODEL itself stands; without it, at 0.")
]
Along = Annotated[str | None, typer.Option("--along", metavar="TEXT", help="What a curve is along, in words.")]
Picture = Annotated[
    Path | None,
    typer.Option("--picture", metavar="FILE", help="Draw the curve of --vary or --also: .png, .svg or .pdf."),
]
