"""The harness of the benchmarks, and PyTorch's side where PyTorch is there."""

import itertools
import json
import multiprocessing
import os

import h5py
import numpy as np
import pytest

from benchmarks import distances, inference, loader, peaks, precision, record, step
from benchmarks.evaluation import evaluation_run
from benchmarks.sides import Result, Work, interleave
from cifp_jax.training import build


def counts(path, name):
    def run():
        with open(path, "a") as file:
            file.write(name)

    return Work(run, lambda: {"flops": 6.0, "bytes": 1.0})


def first(path):
    return counts(path, "a")


def second(path):
    return counts(path, "b")


def missing(path):
    raise ImportError("not here; pip install it")


def dying(path):
    os._exit(1)


def dying_in_its_turn(path):
    warmed = path.with_name("warmed")
    return Work(lambda: os._exit(1) if warmed.exists() else warmed.touch(), dict)


def test_sides_take_turns_after_one_warm_up_each(tmp_path):
    path = tmp_path / "order"
    results, errors = interleave({"one": first, "two": second}, {"path": path}, repeats=3)
    assert not errors
    assert path.read_text() == "ab" + "ab" * 3
    assert len(results["one"].seconds) == 3
    assert results["two"].facts == {"flops": 6.0, "bytes": 1.0}


def with_a_process(path):
    """A side whose work is done by a process of its own, as a loader's is."""
    context = multiprocessing.get_context("spawn")

    def run():
        child = context.Process(target=path.touch)
        child.start()
        child.join()

    return Work(run, lambda: {"touched": float(path.exists())})


def test_a_side_may_start_processes(tmp_path):
    results, errors = interleave({"one": with_a_process}, {"path": tmp_path / "file"}, repeats=1)
    assert not errors
    assert results["one"].facts == {"touched": 1.0}


def test_a_side_that_fails_is_named_and_the_other_goes_on(tmp_path):
    sides = {"one": first, "two": missing, "three": dying, "four": dying_in_its_turn}
    results, errors = interleave(sides, {"path": tmp_path / "order"}, repeats=2)
    assert len(results["one"].seconds) == 2
    assert set(results) == {"one"}
    assert "pip install it" in str(errors["two"])
    assert "died" in str(errors["three"])
    assert "died" in str(errors["four"])


def test_a_row_has_the_ratio_of_medians_and_the_shares_of_the_limits(tmp_path):
    ours = Result([1.0, 2.0, 30.0], 5.0, {"flops": 6.0, "bytes": 1.0})
    other = Result([4.0, 4.0, 4.0], 5.0, {})
    limits = {"flops_per_s": 6.0, "bytes_per_s": 2.0}  # 1 s for operations, half for bytes, of 2
    row = record.row("work", {"cifp_jax": ours, "pytorch": other}, {}, limits)
    assert row["ratio"] == 0.5
    assert (row["flops_share"], row["bytes_share"]) == (0.5, 0.25)
    record.write(tmp_path / "new" / "step.json", "step", limits, [row])
    written = json.loads((tmp_path / "new" / "step.json").read_text())
    assert written["rows"][0]["cifp_jax"]["seconds"] == [1.0, 2.0, 30.0]
    assert written["machine"]["jax"]


def test_the_roofline_by_hand():
    chip = peaks.Peaks({"bfloat16": 100.0, "float32": 50.0}, 10.0, 1.0, 1.0)
    assert peaks.roofline(chip, "bfloat16", 400.0, 20.0) == 4  # operations take longer than bytes
    assert peaks.roofline(chip, "bfloat16", 400.0, 60.0) == 6
    assert peaks.roofline(chip, "float32", 400.0, 60.0) == 8


def test_a_step_is_estimated_for_other_chips_and_the_table_says_so(monkeypatch, tmp_path, capsys):
    """989 Tflop take an H100 a second in bfloat16, and 1.998 s in TF32; 4.8 TB an H200 a second."""
    ours = Result([2.0], 5.0, {"plain_flops": 989e12, "bytes": 4.8e12})
    monkeypatch.setattr(step, "interleave", lambda *_: ({"cifp_jax": ours}, {}))
    monkeypatch.setattr(step.jax_works, "limits", dict)
    out = tmp_path / "step.json"
    for form, h100, h200 in (("bfloat16", 1.433, 1.0), ("float32", 1.998, 1.998)):
        flags = ["step", f"--precision={form}", "--only=V-Net super", f"--out={out}"]
        monkeypatch.setattr("sys.argv", flags)
        step.main()
        (row,) = json.loads(out.read_text())["rows"]
        assert row["estimated_s"]["H100"] == pytest.approx(h100, abs=1e-3)
        assert row["estimated_s"]["H200"] == pytest.approx(h200, abs=1e-3)
        assert "estimated, not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "rank", "classes", "count"), [("vnet", 3, 2, 9_448_866), ("unet", 2, 4, 1_813_764)]
)
def test_pytorch_trains_the_same_networks(name, rank, classes, count):
    pytest.importorskip("torch", reason="the extra [benchmark] is not installed")
    from benchmarks import torch_works
    from benchmarks.torch_networks import NETWORKS

    model = NETWORKS[name](rank, classes)
    assert sum(p.numel() for p in model.parameters()) == count
    work = torch_works.step(
        network=name, method="cifp", shape=(16,) * rank, batch=2, precision="float32"
    )
    work.run()
    assert work.facts()["peak_memory"] > 0


def test_curves_of_both_precisions_are_written_together(monkeypatch, tmp_path):
    def run(config, name, steps, workdir):
        workdir.mkdir(parents=True)
        loss = 1.0 if name == "float32" else 1.5
        rows = [{"step": 10, "loss": loss}, {"step": 20, "loss": loss / 2}]
        (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))

    monkeypatch.setattr(precision, "run", run)
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["precision", f"--runs={tmp_path}", f"--out={out}"])
    precision.main()
    rows = {r["precision"]: r["curves"]["loss"] for r in json.loads(out.read_text())["rows"]}
    assert rows == {"float32": [[10, 1.0], [20, 0.5]], "bfloat16": [[10, 1.5], [20, 0.75]]}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_both_loaders_read_the_same_cases_into_the_same_batches(tmp_path):
    config = loader.configuration(layout="acdc", root=str(tmp_path), workers=1, labeled=1)
    config.data.phantoms = 8
    config.data.patch_size, config.data.batch_labeled = (32, 32), 2
    config.data.batch_unlabeled = 3
    config.data.workers = 0  # of this side's process: the batch does not depend on it
    split = build.make_split(config)
    examples = loader.Examples(config, split)
    assert len(examples.labeled) == len(split.labeled)
    assert len(examples.unlabeled) == len(split.unlabeled) > len(split.labeled)
    numbers = list(itertools.islice(loader.Batches(config, examples), len(examples)))
    # Both streams run through all of their cases before one comes again.
    first = len(split.labeled)
    for stream, wanted in (([0, 2], range(first)), ([2, 5], range(first, len(examples)))):
        drawn = [number for batch in numbers for number in batch[slice(*stream)]]
        assert sorted(drawn[: len(wanted)]) == list(wanted)
    theirs = loader.stack([examples[number] for number in numbers[0]])
    mine = next(loader.make_iterator(config))
    for name, keys in (("labeled", ("image", "label")), ("unlabeled", ("image",))):
        assert set(theirs[name]) == set(keys) == set(mine[name]) - {"index"}
        for key in keys:
            assert theirs[name][key].shape == mine[name][key].shape
            assert theirs[name][key].dtype == mine[name][key].dtype


def test_a_loader_without_workers_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["loader", "--workers=0"])
    with pytest.raises(SystemExit):
        loader.main()
    assert "--workers: 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "reference"), [(distances, "medpy"), (inference, "pytorch"), (loader, "pytorch")]
)
def test_a_benchmark_writes_its_ratio(module, reference, monkeypatch, tmp_path):
    def interleaved(sides, arguments, repeats):
        assert repeats == 2
        return {name: Result([float(len(name))], 1.0, {}) for name in sides}, {}

    monkeypatch.setattr(module, "interleave", interleaved)
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["benchmark", "--repeats=2", f"--out={out}"])
    module.main()
    rows = json.loads(out.read_text())["rows"]
    assert {row["ratio"] for row in rows} == {len("cifp_jax") / len(reference)}


def la_scans(root, count):
    for i in range(count):
        file = root / f"scan_{i}" / "mri_norm2.h5"
        file.parent.mkdir(parents=True)
        with h5py.File(file, "w") as data:
            data["image"] = np.full((6, 2, 2), i, np.float64)
            data["label"] = (np.arange(24).reshape(6, 2, 2) < 8).astype(np.uint8)
    return sorted(map(str, root.glob("*/mri_norm2.h5")))


def test_an_evaluation_scores_every_scan_after_one_to_compile(tmp_path):
    predicted, scored = [], []

    def score(mask, label):
        scored.append((np.flatnonzero(mask[:, 0, 0]), np.flatnonzero(label[:, 0, 0])))

    run = evaluation_run(
        lambda image: predicted.append(image[0, 0, 0]), score, la_scans(tmp_path, 3)
    )
    run()
    assert predicted == [0]
    run()
    assert predicted == [0, 0, 1, 2]
    assert len(scored) == 4
    assert all(mask.tolist() == [2, 3] and label.tolist() == [0, 1] for mask, label in scored)


def test_las_scans_are_evaluated_in_place_of_random_volumes(monkeypatch, tmp_path, capsys):
    def interleaved(sides, arguments, repeats):
        assert (len(arguments["files"]), repeats) == (2, 1)
        return {name: Result([float(len(name))], 1.0, {}) for name in sides}, {}

    monkeypatch.setattr(inference, "interleave", interleaved)
    la_scans(tmp_path / "LA", 3)
    flags = ["inference", f"--la={tmp_path / 'LA'}", "--scans=2", f"--out={tmp_path / 'out.json'}"]
    monkeypatch.setattr("sys.argv", flags)
    inference.main()
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["work"] == "2 scans of LA, stride (18, 18, 4)"
    monkeypatch.setattr("sys.argv", ["inference", f"--la={tmp_path}"])
    with pytest.raises(SystemExit):
        inference.main()
    assert "--la is the folder of LA's scans" in capsys.readouterr().err
