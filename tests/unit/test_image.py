"""The image's recipe, read as far as one can without building it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[1:]


def test_both_stages_start_from_the_base_that_a_digest_can_replace() -> None:
    assert re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE) == ["${BASE} AS build", "${BASE}"]
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)


def test_what_is_installed_is_pinned_and_needs_no_compiler() -> None:
    assert "PIP_CONSTRAINT=/app/constraints.txt PIP_ONLY_BINARY=:all:" in STAGES[0]
    assert not re.search(r"gcc|g\+\+|build-essential|\bmake\b|-dev\b", DOCKERFILE)
    assert "pip install" not in STAGES[1]


def test_the_image_runs_as_a_user_without_rights_and_asks_for_a_token() -> None:
    assert re.findall(r"^USER (.+)$", STAGES[1], re.MULTILINE) == ["1000"]
    assert "--uid 1000" in STAGES[1]
    assert "RAY_AUTH_MODE=token" in STAGES[1]
    assert not re.search(r"^EXPOSE|sudo", DOCKERFILE, re.MULTILINE)


def test_the_tags_named_are_the_pinned_ray() -> None:
    (ray,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert re.findall(r"davam:(\S+)", DOCKERFILE) == [f"{ray}-cpu", f"{ray}-gpu"]


def test_the_image_gets_all_code_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()[1:]
    taken = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    assert taken == {
        path for line in re.findall(r"^COPY (?!--)(.+)$", STAGES[0], re.MULTILINE) for path in line.split()[:-1]
    }
    assert {"cluster", "davam", "pipelines"} <= taken
    assert all((ROOT / path).exists() for path in taken)
