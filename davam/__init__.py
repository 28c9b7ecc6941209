"""DAVAM: discrete auto-regressive variational attention models of text.

`davam.load(path_or_uri)` opens a trained model, `davam.fit(texts)` trains one in this process. Names are imported
when first used, so that `import davam` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from davam.api import Samples, Scores, TextModel, load
    from davam.fitting import fit
    from davam.recipe import Recipe, load_recipe
    from davam.sampling import Sampling

__version__ = "0.1.0"
__all__ = ["Recipe", "Samples", "Sampling", "Scores", "TextModel", "fit", "load", "load_recipe"]

_HOME = {
    "Recipe": "davam.recipe",
    "Samples": "davam.api",
    "Sampling": "davam.sampling",
    "Scores": "davam.api",
    "TextModel": "davam.api",
    "fit": "davam.fitting",
    "load": "davam.api",
    "load_recipe": "davam.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'davam' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
