"""Fixtures shared by all tests: one thread, reproducible property tests."""

import os

import torch
from hypothesis import settings

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
torch.set_num_threads(1)
settings.register_profile("davam", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=50)
settings.load_profile("davam")
