"""The layers hold: imports go down only, davam/ works without Ray, and no file hides another package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("davam", "cluster", "pipelines")

# The longest prefix that fits gives a module's floor; a module imports from its own floor and from those below.
FLOORS = {
    "davam.errors": 0,
    "davam.config": 0,
    "davam.objectives": 0,
    "davam.policy_search": 0,
    "davam.nn.ops": 0,
    "davam.nn.noise": 0,
    "davam.data.lexicon": 0,
    "davam.nn": 1,
    "davam.sampling": 2,
    "davam.quality": 2,
    "davam.data": 1,
    "davam.families": 2,
    "davam.recipe": 2,
    "davam.train": 3,
    "davam.evaluate": 3,
    "davam": 4,
    "cluster": 5,
    "pipelines": 6,
}

# Siblings on one floor know nothing of each other.
STRANGERS = [("davam.nn", "davam.data"), ("davam.evaluate", "davam.train"), ("davam.evaluate", "davam.families")]

WITHOUT_RAY = """
import sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ImportError("ray is blocked")

sys.meta_path.insert(0, NoRay())
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def floor_of(name: str) -> int:
    return FLOORS[max((prefix for prefix in FLOORS if is_inside(name, prefix)), key=len)]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imported(source: str, modules: set[str]) -> set[str]:
    """The absolute names that a source imports when it runs, at any depth, each as the module that it is or is in."""
    tree = ast.parse(source)
    for_types = {node for block in ast.walk(tree) if is_type_checking(block) for node in ast.walk(block)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & modules) or {str(node.module)}
    return names


IMPORTS = {name: imported(path.read_text(), set(FILES)) for name, path in FILES.items()}
OWN = {name: {other for other in names if other.split(".")[0] in PACKAGES} for name, names in IMPORTS.items()}


def test_the_walk_sees_imports() -> None:
    source = (
        "import ray.train\n"
        "if TYPE_CHECKING:\n    import davam.api\n"
        "def f():\n    from davam.data import fs\n    from davam.recipe import Recipe\n"
    )
    assert imported(source, {"davam.data", "davam.data.fs"}) == {"ray.train", "davam.data.fs", "davam.recipe"}
    assert "ray" in IMPORTS["cluster.train"]
    assert "davam.api" in OWN["cluster.train"]


def test_davam_never_imports_ray() -> None:
    found = [name for name in FILES if is_inside(name, "davam") if any(is_inside(n, "ray") for n in IMPORTS[name])]
    assert found == []


def test_imports_go_down() -> None:
    upward = {(name, other) for name, others in OWN.items() for other in others if floor_of(other) > floor_of(name)}
    assert upward == set()


@pytest.mark.parametrize(("upper", "other"), STRANGERS)
def test_siblings_are_strangers(upper: str, other: str) -> None:
    found = [
        (name, target)
        for name, targets in OWN.items()
        for target in targets
        if is_inside(name, upper) and is_inside(target, other)
    ]
    assert found == []


def test_no_cycles() -> None:
    remaining = {name: {other for other in others if other != name} & set(FILES) for name, others in OWN.items()}
    while leaves := {name for name, others in remaining.items() if not others & remaining.keys()}:
        for name in leaves:
            del remaining[name]
    assert remaining == {}


def test_no_file_hides_a_package() -> None:
    # A script's folder comes first on the path, so a pipelines/queue.py would be everyone's queue.
    taken = set(sys.stdlib_module_names) | {"ray", "torch"}
    assert [name for name in FILES if not is_inside(name, "davam") and name.split(".")[-1] in taken] == []


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_davam_works_without_ray() -> None:
    blocked = run_python(WITHOUT_RAY + "import ray")
    assert blocked.returncode == 1
    assert "ray is blocked" in blocked.stderr
    done = run_python(WITHOUT_RAY + "import davam, davam.api, davam.fitting, davam.cli; print(davam.load.__name__)")
    assert (done.stdout, done.stderr) == ("load\n", "")


def test_import_davam_is_light() -> None:
    done = run_python("import sys, davam; print(sorted({'torch', 'numpy', 'pyarrow'} & sys.modules.keys()))")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_reads_and_writes_on_a_cluster_does_without_torch() -> None:
    """Every process that Ray starts for it would take seconds to import torch."""
    done = run_python("import sys, cluster.batch, cluster.progress, cluster.text; print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")
