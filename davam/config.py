"""Typed settings: a frozen pydantic base, YAML layers merged by OmegaConf, and errors that a person can act on.

This module knows no model; `davam.recipe` assembles the parts' own schemas.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml import YAMLError

from davam.errors import ConfigError

ELSEWHERE_CUTOFF = 0.75  # of the likeness of a key of another block, which is further than one of its own
MOST_MEANT = 3  # keys of one name that are suggested


class Frozen(BaseModel):
    """Base of every schema: no unknown keys, no numbers that JSON cannot hold, no changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=Frozen)


def preset_names() -> list[str]:
    """Names of the presets that ship with the package, sorted."""
    folder = resources.files("davam") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The plain settings of a shipped preset, or of a YAML file when the name is a path.

    Raises ConfigError for a name that neither ships nor exists, and for a file that is not YAML.
    """
    if name in preset_names():
        text = (resources.files("davam") / "presets" / f"{name}.yaml").read_text("utf-8")
    elif name.endswith((".yaml", ".yml")) and Path(name).is_file():
        text = _read_utf8(name)
    else:
        raise ConfigError(
            f"--preset {name}: no such preset{_nearest(name, preset_names())}; "
            f"shipped are {', '.join(preset_names())}; a path to a .yaml file works too"
        )
    try:
        return _plain(OmegaConf.create(text))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"--preset {name}: not readable as YAML: {error}") from None


def merge(layers: Iterable[Mapping[str, Any]], overrides: Sequence[str]) -> dict[str, Any]:
    """The plain settings after all layers, left to right, and then the `key=value` overrides.

    A layer or override that sets a different `kind` replaces that whole block, so that no key of the other
    kind is left over. Raises ConfigError for an override that is not `key=value`.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge_block(merged, layer)
    for override in sorted(overrides, key=lambda text: not text.split("=", 1)[0].endswith(".kind")):
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r}: overrides are written key=value, e.g. model.codebook_size=256")
        try:
            layer = OmegaConf.create()
            OmegaConf.update(layer, key, _override_value(value))
            merged = _merge_block(merged, _plain(layer))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{override!r}: cannot be read: {error}") from None
    return merged


def _override_value(text: str) -> Any:
    """A number, list or mapping as YAML has it; text as it is, unless it is in quotes: in a path, YAML would take a
    `*` for a reference and a `#` for a comment."""
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]  # type: ignore[index,call-overload]
    except YAMLError:
        return text
    return text if isinstance(value, str) and text[:1] not in ("'", '"') else value


def validate(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """The validated settings. Raises ConfigError that names each wrong key, its value and the nearest valid key."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(schema, values, item) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys with their old and new value, for every leaf in which two settings differ."""
    flat_old, flat_new = dict(_leaves(old)), dict(_leaves(new))
    keys = sorted(flat_old.keys() | flat_new.keys())
    return [
        f"{key} {flat_old.get(key, 'unset')} -> {flat_new.get(key, 'unset')}"
        for key in keys
        if flat_old.get(key, "unset") != flat_new.get(key, "unset")
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_utf8(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--preset {path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None


def _plain(config: Any) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=True)
    if not isinstance(values, dict):
        raise ConfigError(f"settings are a mapping of keys, not {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _merge_block(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in layer.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            other_kind = _kind(value) != _kind(old) and None not in (_kind(value), _kind(old))
            merged[key] = dict(value) if other_kind else _merge_block(old, value)
        else:
            merged[key] = value
    return merged


def _kind(block: Mapping[str, Any]) -> str | None:
    kind = block.get("kind")
    return kind if isinstance(kind, str) else None  # a label may have that name, and then a share


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _explain(schema: type[Frozen], values: Mapping[str, Any], item: Any) -> str:
    path = _config_path(values, item["loc"])
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key{_meant(schema, values, path)}"
    if item["type"] == "union_tag_not_found":
        key = f"{key}.kind"
    if item["type"] in ("missing", "union_tag_not_found"):
        return f"{key}: required and not set; choose a preset that sets it, or add {key}=VALUE"
    if item["type"] == "union_tag_invalid":
        kind, kinds = item["ctx"]["tag"], item["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{key}.kind={kind!r}: no such kind{_nearest(kind, kinds)}; there are {', '.join(kinds)}"
    if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}={item['input']!r}: keys stand below this one, e.g. {key}.kind=VALUE"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}={item['input']!r}: {message[0].lower()}{message[1:]}"


def _meant(schema: type[Frozen], values: Mapping[str, Any], path: Sequence[str]) -> str:
    """The keys of that very name elsewhere; else the nearest key of the same block; else those nearest elsewhere."""
    elsewhere: dict[str, list[str]] = {}
    for key in _schema_leaves(schema, values):
        elsewhere.setdefault(key.rpartition(".")[2], []).append(key)
    near = None if path[-1] in elsewhere else _nearest(path[-1], _known_keys(schema, values, path[:-1]))
    if near:
        return near
    names = difflib.get_close_matches(path[-1], list(elsewhere), n=1, cutoff=ELSEWHERE_CUTOFF)
    keys = elsewhere[names[0]][:MOST_MEANT] if names else []
    return f"; did you mean {' or '.join(keys)}?" if keys else ""


def _schema_leaves(schema: Any, values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of everything that can be set, in the blocks of these values."""
    for name, field in schema.model_fields.items():
        members, below = list(_members(field.annotation)), values.get(name, field.default)
        if not members:
            yield f"{prefix}{name}"
        elif below is not None:
            below = below if isinstance(below, Mapping) else {}
            yield from _schema_leaves(_member(members, below), below, f"{prefix}{name}.")


def _config_path(values: Any, location: Sequence[str | int]) -> list[str]:
    """The path as the user wrote it: pydantic puts the tag of a union member into the location; we drop it."""
    path: list[str] = []
    for part in location:
        if isinstance(values, Mapping) and part not in values and values.get("kind") == part:
            continue
        path.append(str(part))
        values = values.get(part) if isinstance(values, Mapping) else None
    return path


def _known_keys(schema: Any, values: Any, path: Sequence[str]) -> list[str]:
    for part in path:
        members = list(_members(schema.model_fields[part].annotation))
        values = values.get(part, {})
        schema = _member(members, values)
    return list(schema.model_fields)


def _member(members: Sequence[Any], values: Mapping[str, Any]) -> Any:
    """The member of a union that the values choose by their kind, or the first."""
    kind = values.get("kind")
    return next((m for m in members if "kind" in m.model_fields and _is_kind(m, kind)), members[0])


def _members(annotation: Any) -> Iterator[Any]:
    """The schemas in an annotation: itself, or the members of a union."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for argument in get_args(annotation):
        yield from _members(argument)


def _is_kind(schema: Any, kind: Any) -> bool:
    return kind in get_args(schema.model_fields["kind"].annotation)
