"""Hypothesis profiles and one thread per process."""

import os

from hypothesis import HealthCheck, settings

common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large], "derandomize": True}
settings.register_profile("default", max_examples=40, **common)
settings.register_profile("long", max_examples=1000, **{**common, "derandomize": False})
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch loads; tests that need no torch do not load it
