"""The house's floors: imports go downward only, and the library never imports Ray."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The first entry that a module's name begins with gives its floor.
FLOORS = {
    "davam.errors": 0,
    "davam.config": 0,
    "davam.objectives": 0,
    "davam.nn": 1,
    "davam.data": 1,
    "davam.families": 2,
    "davam.recipe": 2,
    "davam.train": 3,
    "davam.evaluate": 3,
    "davam": 4,
    "cluster": 5,
    "pipelines": 6,
}
FILES = [path for name in ("davam", "cluster", "pipelines") for path in sorted((ROOT / name).rglob("*.py"))]


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor_of(module: str) -> int:
    """The floor of a module."""
    return next(floor for name, floor in FLOORS.items() if module == name or module.startswith(f"{name}."))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_downward(path: Path) -> None:
    here = floor_of(module_of(path))
    for name in imports_of(path):
        top = name.split(".")[0]
        assert not (top == "ray" and here < 5), f"{path} imports {name}"
        # The package's own name (its version) may be read anywhere.
        if top in ("davam", "cluster", "pipelines") and name != "davam":
            assert floor_of(name) <= here, f"{path} imports {name} from a higher floor"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[-2] in ("pipelines", "cluster")], ids=module_of)
def test_no_file_hides_a_standard_module(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names | {"ray", "torch", "davam"}


BLOCK_RAY = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ImportError("ray is blocked")
sys.meta_path.insert(0, Block())
"""


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_the_library_runs_without_ray() -> None:
    python(BLOCK_RAY + "import davam, davam.api, davam.fitting, davam.cli\nassert davam.fit and davam.load")


def test_importing_the_package_costs_nothing() -> None:
    python("import sys, davam\nassert 'torch' not in sys.modules and 'ray' not in sys.modules")
