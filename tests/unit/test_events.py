"""Event files hold what the history says, where TensorBoard looks for it."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from davam.evaluate.events import write_events


def events(path: Path) -> Iterator[Event]:
    """The records of a file: a length of eight bytes, a checksum of four, the event, and its checksum."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        yield Event.FromString(data[place + 12 : place + 12 + length])
        place += 16 + length


def test_every_measure_of_every_epoch_is_a_scalar(tmp_path: Path) -> None:
    history = [{"epoch": 1.0, "valid/rec_nats": 9.5}, {"epoch": 2.0, "valid/rec_nats": 8.25, "train/kl_nats_sum": 0.5}]
    write_events(tmp_path / "stage_one", history)
    (path,) = (tmp_path / "stage_one").glob("events.out.tfevents.*")
    found = [(event.step, value.tag, value.simple_value) for event in events(path) for value in event.summary.value]
    assert sorted(found) == [
        (1, "valid/rec_nats", 9.5),
        (2, "train/kl_nats_sum", pytest.approx(0.5)),
        (2, "valid/rec_nats", 8.25),
    ]
