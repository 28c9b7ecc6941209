"""What experiments on a corpus found, published as a page, and kept in the store where the reports on that corpus read
it.

<store>/experiments/<tokens>/<name>.json    a section of the report; a later experiment of that name takes its place
"""

import dataclasses
import json
import os
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from davam.data import fs
from davam.data.artifacts import Manifest, Store, fingerprint, provenance, short
from davam.errors import ArtifactError
from davam.evaluate.page import Page, html, markdown
from davam.evaluate.report import Section
from davam.evaluate.verdict import Finding
from davam.execution import Execution
from davam.log import result, say
from davam.recipe import TRAININGS, Recipe


@dataclass(frozen=True)
class Experiment:
    """A section of the report and, of the experiment on augmentation, what it found at each size for the text of which
    generator."""

    section: Section
    generator: str = ""
    findings: tuple[Finding, ...] = ()


def hardware(execution: Execution, unit: str) -> str:
    """What each row or trial has, and the machine that prints this."""
    several, gpus = "s" if execution.workers > 1 else "", ", each with a GPU" if execution.gpu else ""
    workers = f"{execution.workers} worker{several} a {unit}{gpus}"
    return f"{workers}; {os.cpu_count()} CPUs, torch {provenance()['versions']['torch']}"


def generator_identity(recipe: Recipe) -> str:
    """The fingerprint of what makes the recipe's text, whatever it learns from: the model, its trainings and its prior,
    and how its samples are drawn; neither data nor seed."""
    kept = {"model", "warm_start", "prior", *TRAININGS}
    settings = {name: value for name, value in recipe.plain().items() if name in kept}
    sampling = recipe.samples.sampling.model_dump(mode="json")
    return fingerprint("generator", 1, settings | {"sampling": sampling}, {})


def record(store: Store, tokens: Manifest, name: str, experiment: Experiment) -> None:
    """Keeps the experiment for the reports on that text."""
    text = json.dumps(dataclasses.asdict(experiment), ensure_ascii=False, indent=1)
    fs.write_bytes_atomic(fs.join(_folder(store, tokens), f"{name}.json"), text.encode())


def publish(page: Page, uri: str) -> None:
    """Writes the page beside the URI as Markdown and as HTML, prints the former, and says where the latter is."""
    fs.write_bytes_atomic(f"{uri}.md", markdown(page).encode())
    fs.write_bytes_atomic(f"{uri}.html", html(page).encode())
    result(markdown(page))
    say(f"{uri}.html")


def experiments_of(store: Store, tokens: Manifest) -> list[Experiment]:
    """The experiments on that text, by name. Raises ArtifactError for one that cannot be read."""
    folder = _folder(store, tokens)
    names = sorted(path for path, _ in fs.list_files(folder) if path.endswith(".json"))
    return [_read(fs.join(folder, name)) for name in names]


def _read(uri: str) -> Experiment:
    try:
        return TypeAdapter(Experiment).validate_json(fs.read_bytes(uri))
    except ValidationError as error:
        fault = error.errors()[0]["msg"]
        raise ArtifactError(f"{uri} is torn or not an experiment ({fault}); delete it, or make it again") from None


def _folder(store: Store, tokens: Manifest) -> str:
    return fs.join(store.uri, "experiments", short(tokens.fingerprint))
