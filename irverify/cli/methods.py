"""Which methods of `certify` go with which options."""

from __future__ import annotations

import math
from dataclasses import replace

from irverify.cli.numbers import Numbers
from irverify.cli.sweeps import DRIVER, Recipe
from irverify.errors import UsageError


def check_method(recipe: Recipe, option: str = "--method") -> None:
    """Raises UsageError where method and options do not go together; needs torch for the whole driver alone. `option`
    is the one that names the method."""
    if recipe.timeout is not None and not (0 < recipe.timeout < math.inf):
        raise UsageError(f"expected --timeout to be a positive number of seconds, got {recipe.timeout}")
    if recipe.method == DRIVER:
        if recipe.batch is not None or recipe.numbers != Numbers(memory=recipe.numbers.memory):
            hint = "give --method, such as --method crown"
            raise UsageError("the whole driver computes in float64 on the CPU, in batches of its own", hint=hint)
        _check_driver(recipe)
        return
    for name, given in (("timeout", recipe.timeout), ("attack", recipe.attack), ("solver", recipe.solver != "auto")):
        if given:
            raise UsageError(f"--{name} is for the whole driver", hint=f"leave --method out, or --{name}")
    check_analysis(recipe.method, option)


def check_analysis(method: str, option: str = "--method") -> None:
    """Raises UsageError where a pipeline does not end in an analysis whose bounds certify."""
    from irverify.pipeline.certifying import check_certifies

    check_certifies(method, option, others=(DRIVER,))


def _check_driver(recipe: Recipe) -> None:
    from irverify.attacks import protocol
    from irverify.verify.exact import check_solver

    check_solver(recipe.solver)
    if recipe.attack is not None:
        protocol(recipe.attack)


def fitting(recipe: Recipe) -> Recipe:
    """The recipe with the options that its method takes, where another recipe takes the rest."""
    if recipe.method == DRIVER:
        return replace(recipe, numbers=Numbers(memory=recipe.numbers.memory), batch=None)
    return replace(recipe, timeout=None, attack=None, solver="auto")
