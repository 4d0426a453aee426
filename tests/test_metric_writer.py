"""Rows on disk: whole, once a step, and readable without TensorFlow."""

import json
import sys

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
