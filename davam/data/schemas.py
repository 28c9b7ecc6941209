"""The Arrow schemas between stages, with one check for every reader."""

import pyarrow as pa

from davam.errors import ArtifactError


def _schema(name: str, **columns: pa.DataType) -> pa.Schema:
    fields = [pa.field(column, kind, nullable=False) for column, kind in columns.items()]
    return pa.schema(fields, metadata={"davam.schema": name})


_INTS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())
_ORIGIN = {"seed": pa.int64(), "model_sha256": pa.string(), "spec_sha256": pa.string(), "is_synthetic": pa.bool_()}
# label is empty without labels; tokens is their number without the end; copied_tokens the longest run that one training
# text has too
_DRAWN = {
    "id": pa.int64(),
    "text": pa.string(),
    "label": pa.string(),
    "codes": _INTS,
    "tokens": pa.int32(),
    "prior_nats": pa.float64(),
    "decode_nats": pa.float64(),
    "copied_tokens": pa.int32(),
    "flags": pa.list_(pa.string()),
}

SCHEMAS: dict[str, pa.Schema] = {
    # words then </s>, without <s>; length counts both
    "tokens/1": _schema("tokens/1", id=pa.int64(), tokens=_INTS, length=pa.int32(), text=pa.string()),
    "codes/1": _schema("codes/1", id=pa.int64(), codes=_INTS, length=pa.int32()),
    # beside the columns of tokens, codes and samples of a corpus with labels
    "labels/1": _schema("labels/1", id=pa.int64(), label=pa.string()),
    # codes, or the Gaussian latents one after the other; the other list is empty
    "samples/2": _schema(
        "samples/2",
        id=pa.int64(),
        seed=pa.int64(),
        codes=_INTS,
        latents=_FLOATS,
        tokens=_INTS,
        text=pa.string(),
        prior_nats=pa.float64(),
        decode_nats=pa.float64(),
        truncated=pa.bool_(),
    ),
    # iw_nats is NaN, and the posterior's lists are empty, without a single Gaussian latent
    "scores/2": _schema(
        "scores/2",
        id=pa.int64(),
        num_tokens=pa.int32(),
        num_latents=pa.int32(),
        rec_nats=pa.float64(),
        kl_nats=pa.float64(),
        length_nats=pa.float64(),
        iw_nats=pa.float64(),
        posterior_mean=_FLOATS,
        posterior_logvar=_FLOATS,
        text=pa.string(),
        reconstruction=pa.string(),
        tokens_matched=pa.int32(),
    ),
    # sentences that a channel's models are judged on; the label is empty where there is none
    "frozen/1": _schema("frozen/1", id=pa.int64(), text=pa.string(), label=pa.string()),
    # texts of several settings, drawn or real, which are numbered; id is that of the draw or of the real row
    "draws/1": _schema("draws/1", setting=pa.int32(), id=pa.int64(), text=pa.string()),
    # the same, and what each costs under a judge: nats, the tokens that were judged, and how many were unknown to it
    "judged/2": _schema(
        "judged/2",
        setting=pa.int32(),
        id=pa.int64(),
        text=pa.string(),
        nats=pa.float64(),
        tokens=pa.int32(),
        unknown=pa.int32(),
    ),
    # generated rows before it is decided which of them stay
    "candidates/2": _schema(
        "candidates/2",
        **_DRAWN,
        text_hash=pa.uint64(),
        band_hashes=pa.list_(pa.uint64()),
    ),
    # generated rows that stay, and where they come from
    "generated/2": _schema(
        "generated/2",
        **_DRAWN,
        **_ORIGIN,
    ),
    # new sentences near given ones; id is the given one's
    "varied/1": _schema(
        "varied/1",
        id=pa.int64(),
        variation=pa.int32(),
        given=pa.string(),
        label=pa.string(),
        text=pa.string(),
        **_ORIGIN,
    ),
    # the trials of a sweep; value is NaN for a trial that has no such measure
    "sweep/1": _schema(
        "sweep/1",
        trial=pa.string(),
        presets=pa.string(),
        settings=pa.list_(pa.string()),
        state=pa.string(),
        reason=pa.string(),
        metric=pa.string(),
        value=pa.float64(),
        measures=pa.map_(pa.string(), pa.float64()),
        fingerprints=pa.map_(pa.string(), pa.string()),
        epochs=pa.int32(),
        train_s=pa.float64(),
    ),
    # one language model of the experiment on augmentation; accuracy is NaN without labels
    "augment_cells/2": _schema(
        "augment_cells/2",
        protocol=pa.string(),
        source=pa.string(),
        size=pa.int64(),
        ratio=pa.float64(),
        seed=pa.int64(),
        ppl_exact=pa.float64(),
        accuracy=pa.float64(),
        tokens_real=pa.int64(),
        tokens_added=pa.int64(),
        rows_added=pa.int64(),
        rows_judged=pa.int64(),
        steps=pa.int64(),
        epochs=pa.int64(),
        wall_s=pa.float64(),
    ),
}


def check(schema: pa.Schema, name: str, where: str) -> None:
    """Raises ArtifactError that names the first column that is missing or of another type."""
    for field in SCHEMAS[name]:
        if field.name not in schema.names:
            raise ArtifactError(
                f"{where}: column {field.name!r} of {name} is missing; it holds "
                f"{', '.join(schema.names)}; build the stage again with --force"
            )
        found = schema.field(field.name).type
        if not _same(found, field.type):
            raise ArtifactError(
                f"{where}: column {field.name!r} is {found}, but {name} has {field.type}; "
                "build the stage again with --force"
            )


def _same(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Equal types; lists whatever their item is called, strings whatever their offsets."""
    if pa.types.is_list(wanted):
        return (pa.types.is_list(found) or pa.types.is_large_list(found)) and _same(found.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return pa.types.is_string(found) or pa.types.is_large_string(found)
    return bool(found == wanted)
