"""Channels: which model a user of a store should take, and which ones before it.

    <store>/channels/<name>/<number>.json     the promotions, one after the other; the last one counts

Every change of the pointer is a new file that is created only where there is none, so of two at once one succeeds.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from davam.data import fs
from davam.errors import ArtifactError


@dataclass(frozen=True)
class Promotion:
    """A model that a channel points to: its run, as a path below the store, its digest, and why it was chosen. `number`
    counts the channel's changes from 1 on; one that rolls back names the promotion that it repeats."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    number: int
    run: str
    model_sha256: str
    promoted_utc: str
    reasons: tuple[str, ...]
    repeats: int | None = None


_PROMOTION = TypeAdapter(Promotion)


def promotions(store_uri: str, name: str) -> list[Promotion]:
    """All changes of the channel, oldest first; none where there is no such channel.

    Raises ArtifactError for a file that is torn.
    """
    folder = _folder(store_uri, name)
    numbers = sorted(int(path.removesuffix(".json")) for path, _ in fs.list_files(folder) if _is_number(path))
    return [_read(_uri(store_uri, name, number)) for number in numbers]


def names(store_uri: str) -> list[str]:
    """The channels of a store."""
    paths = fs.list_files(fs.join(store_uri, "channels"))
    return sorted({path.partition("/")[0] for path, _ in paths})


def current(store_uri: str, name: str) -> Promotion | None:
    """What the channel points to, or nothing."""
    found = promotions(store_uri, name)
    return found[-1] if found else None


def run_uri(uri: str) -> str | None:
    """The run that the channel of this URI points to; nothing where the URI is no channel's."""
    store_uri, slash, name = uri.rstrip("/").rpartition("/channels/")
    found = current(store_uri, name) if slash and name else None
    return None if found is None else fs.join(store_uri, found.run)


def promote(store_uri: str, name: str, promotion: Promotion) -> bool:
    """Makes the channel point there, unless somebody else has moved it to this number; whether it does now."""
    text = json.dumps(dataclasses.asdict(promotion), indent=1) + "\n"
    return fs.create_bytes(_uri(store_uri, name, promotion.number), text.encode())


def following(last: Promotion | None, **values: Any) -> Promotion:
    """The promotion after this one."""
    return Promotion(number=1 if last is None else last.number + 1, promoted_utc=_now(), **values)


def rolled_back(store_uri: str, name: str, reason: str) -> Promotion:
    """Makes the channel point to the model that it pointed to before the present one and that is still kept, and says
    which that is.

    Raises ArtifactError where there is none, and where somebody else moved the channel at the same time.
    """
    history = promotions(store_uri, name)
    if not history:
        raise ArtifactError(f"{_folder(store_uri, name)}: no promotion; there is no such channel, see `davam status`")
    origin = _origin(history, history[-1])
    earlier = [
        each
        for each in history
        if each.repeats is None and each.number < origin.number and fs.exists(fs.join(store_uri, each.run, "run.json"))
    ]
    if not earlier:
        raise ArtifactError(
            f"{_folder(store_uri, name)}: nothing that is kept came before {origin.run}; promote another model"
        )
    back = dataclasses.replace(
        earlier[-1],
        number=history[-1].number + 1,
        promoted_utc=_now(),
        reasons=(reason,),
        repeats=earlier[-1].number,
    )
    if not promote(store_uri, name, back):
        raise ArtifactError(f"{_folder(store_uri, name)} was moved by somebody else meanwhile; look, and decide again")
    return back


def _origin(history: list[Promotion], promotion: Promotion) -> Promotion:
    """The promotion proper, of one that may repeat it."""
    by_number: Mapping[int, Promotion] = {each.number: each for each in history}
    return promotion if promotion.repeats is None else by_number[promotion.repeats]


def _read(uri: str) -> Promotion:
    try:
        return _PROMOTION.validate_json(fs.read_bytes(uri))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ArtifactError(
            f"{uri} is torn or no promotion ({'.'.join(map(str, fault['loc']))}: {fault['msg']}); delete it to go back "
            "to the promotion before"
        ) from None


def _is_number(path: str) -> bool:
    return path.endswith(".json") and path.removesuffix(".json").isdecimal()


def _folder(store_uri: str, name: str) -> str:
    return fs.join(store_uri, "channels", name)


def _uri(store_uri: str, name: str, number: int) -> str:
    return fs.join(_folder(store_uri, name), f"{number:06d}.json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
