"""Small artifacts, of which one program makes hundreds: each built and committed by one call, wherever that runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from davam.data.artifacts import Manifest, Store, fingerprint, provenance


@dataclass(frozen=True)
class Piece:
    """An artifact that is described by plain data. `make` writes its files to a URI and gives the measures; it is a
    function of a module, perhaps with arguments bound, so that it can be sent to another process."""

    stage: str
    version: int
    recipe: dict[str, Any]
    inputs: dict[str, str]
    make: Callable[[str], dict[str, float]]

    @property
    def fingerprint(self) -> str:
        """The name of the artifact."""
        return fingerprint(self.stage, self.version, self.recipe, self.inputs)

    def find(self, store: Store) -> Manifest | None:
        """The committed artifact, or nothing."""
        return store.find(self.stage, self.fingerprint)

    def build(self, store: Store) -> Manifest:
        """Makes and commits the artifact."""
        began = time.monotonic()
        attempt = store.new_attempt(self.stage, self.fingerprint)
        measures = self.make(attempt.uri)
        return store.commit(
            attempt,
            version=self.version,
            recipe=self.recipe,
            inputs=self.inputs,
            counts={},
            metrics=measures,
            provenance=provenance() | {"wall_s": round(time.monotonic() - began, 2)},
        )
