"""The fingerprint as the name of an output: blind to key order, sensitive to every leaf."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from davam.data.artifacts import fingerprint, short

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
KEYS = st.text(min_size=1, max_size=6)
RECIPES = st.dictionaries(
    KEYS,
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)),
    min_size=1,
    max_size=4,
)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


def leaf_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    items = list(children)
    if not items:
        yield path
    for key, child in items:
        yield from leaf_paths(child, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    if not path:
        return leaf
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], leaf)
    return copy


def same_leaf(one: Any, other: Any) -> bool:
    """Equality that keeps 1, 1.0 and True apart, as well as 0.0 and -0.0."""
    return type(one) is type(other) and repr(one) == repr(other)


@given(RECIPES)
def test_key_order_does_not_matter(recipe: dict[str, Any]) -> None:
    inputs = {"tokens": "a", "codes": "b"}
    assert fingerprint("s", 1, recipe, inputs) == fingerprint("s", 1, reordered(recipe), reordered(inputs))


@given(RECIPES, LEAVES, st.data())
def test_every_leaf_matters(recipe: dict[str, Any], leaf: Any, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(leaf_paths(recipe))))
    old = recipe
    for key in path:
        old = old[key]
    assume(not same_leaf(old, leaf))
    changed = replaced(recipe, path, leaf)
    assert fingerprint("s", 1, changed, {}) != fingerprint("s", 1, recipe, {})


@given(RECIPES)
def test_a_recipe_read_back_from_json_is_the_same_recipe(recipe: dict[str, Any]) -> None:
    assert fingerprint("s", 1, json.loads(json.dumps(recipe)), {}) == fingerprint("s", 1, recipe, {})


@given(RECIPES, st.dictionaries(KEYS, st.text(max_size=4), max_size=3), KEYS)
def test_stage_version_and_inputs_matter(recipe: dict[str, Any], inputs: dict[str, str], name: str) -> None:
    base = fingerprint("s", 1, recipe, inputs)
    others = [
        fingerprint("t", 1, recipe, inputs),
        fingerprint("s", 2, recipe, inputs),
        fingerprint("s", 1, recipe, inputs | {name: inputs.get(name, "") + "x"}),
        fingerprint("s", 1, {**recipe, "new key": inputs}, {}),
    ]
    assert len({base, *others}) == 5


def test_tuples_and_lists_are_one_sequence() -> None:
    assert fingerprint("s", 1, {"a": (1, 2)}, {}) == fingerprint("s", 1, {"a": [1, 2]}, {})


def test_the_digest_is_pinned() -> None:
    """A change here orphans every artifact in every store."""
    digest = fingerprint("codes", 1, {"model": {"codebook_size": 512, "beta": 0.25, "tied": True}}, {"stage_one": "f"})
    assert digest == "1b32d742e83d4e5521a7d084b7be28f8d3383d493aff2a5c633aea51672671da"
    assert short(digest) == digest[:12]
