"""Hypothesis profiles, one thread per process, and tests that need a package."""

import os
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large], "derandomize": True}
settings.register_profile("default", max_examples=40, **common)
settings.register_profile("long", max_examples=1000, **{**common, "derandomize": False})
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch loads; tests that need no torch do not load it


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a package that is not there, as beside another torch; `tox run -e tests` has them all."""
    for mark in item.iter_markers("needs"):
        absent = [package for package in mark.args if find_spec(package) is None]
        if absent:
            pytest.skip(f"not installed: {', '.join(absent)}")
