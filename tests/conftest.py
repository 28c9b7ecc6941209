"""Fixtures shared by all tests: one thread, reproducible property tests."""

import os

import torch
from hypothesis import settings

# Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")

torch.set_num_threads(1)
settings.register_profile("davam", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=50)
settings.load_profile("davam")
