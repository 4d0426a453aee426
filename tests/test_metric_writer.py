"""Rows on disk: whole, once a step, and readable without TensorFlow."""

import errno
import json
import sys

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

from cifp_jax.training.metric_writer import MetricWriter


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # cut off by a crash
    with MetricWriter(tmp_path, 2) as writer:
        writer.write(3, {"loss": 30.0})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 30.0},
    ]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert "tensorflow" not in sys.modules


def events_of(folder):
    """Events of the newest file, read by the format: length and its check, data and its check."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def test_tensorboard_gets_each_row_at_its_step(tmp_path):
    with MetricWriter(tmp_path, 4) as writer:
        writer.write(5, {"loss": 0.5, "lambda": 1.0})
    version, start, row = events_of(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, 1)  # 1: START
    assert row.step == 5
    assert {v.tag: v.simple_value for v in row.summary.value} == {"loss": 0.5, "lambda": 1.0}


def test_a_full_disk_is_an_error_and_not_a_wait(tmp_path, monkeypatch):
    flush, failures = EventsWriter.flush, []

    def full_once(writer):
        if not failures:
            failures.append(OSError(errno.ENOSPC, "No space left on device"))
            raise failures[0]
        flush(writer)

    monkeypatch.setattr(EventsWriter, "flush", full_once)
    with (
        pytest.raises(OSError, match=r"metrics\.jsonl: no room is left on the disk. Free some"),
        MetricWriter(tmp_path, 0) as writer,
    ):
        writer.write(1, {"loss": 1.0})
