"""Compiles the kernels, where there is a C compiler; irverify works without them. All else is in pyproject.toml."""

from __future__ import annotations

import logging
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PLAIN = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
THREADS = ["-fopenmp"]
MATHEMATICS = ["-lm"]


class Build(build_ext):
    """With threads where the compiler knows how, else without; without kernels where neither works."""

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type != "unix":
            super().build_extension(ext)
            return
        try:
            ext.extra_compile_args, ext.extra_link_args = [*PLAIN, *THREADS], [*THREADS, *MATHEMATICS]
            super().build_extension(ext)
        except Exception as error:  # compilers and linkers fail in many ways
            logging.getLogger(__name__).warning("irverify: kernels without threads (%s)", error)
            ext.extra_compile_args, ext.extra_link_args = PLAIN, MATHEMATICS
            super().build_extension(ext)


KERNELS = Extension(
    "irverify.kernels._kernels",
    ["irverify/kernels/kernels.c"],
    depends=sorted(glob("irverify/kernels/*.h")),
    optional=True,  # a failure is a warning
)

setup(ext_modules=[KERNELS], cmdclass={"build_ext": Build})
