"""Settings of the whole test run: one thread for each worker, and hypothesis without deadlines."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the workers of xdist share the cores

from hypothesis import HealthCheck, settings

settings.register_profile("default-run", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples every time: a run that fails elsewhere fails here too.
settings.register_profile("ci", parent=settings.get_profile("default-run"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default-run")
