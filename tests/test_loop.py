"""A run and what it leaves: files read once, an honest end, one rule for runs and comparisons."""

import collections
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.commands import train
from cifp_jax.data import sources
from cifp_jax.data.phantom import write_phantoms
from cifp_jax.files import locked
from cifp_jax.inference import prediction
from cifp_jax.methods import METHODS
from cifp_jax.reports.summaries import reported_summary
from cifp_jax.training import build, loop, run_folder
from cifp_jax.training.checkpoint import Checkpoints
from cifp_jax.training.stopping import Stopped
from tests.support.runs import small


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "ACDC"
    write_phantoms(folder, 2, train=3, validation=1, shape=(40, 40))
    return folder


@pytest.fixture
def config(root, monkeypatch):
    """Two steps that do nothing, and a network that finds background alone: little to compile."""

    def make_step(_, supervised=False):
        def step(state, batch, scans=None, **_):
            one = jnp.ones(())
            metrics = {"loss": (one, one), "skipped": (0 * one, one)}
            if not supervised:
                metrics["consistency"] = (3 * jnp.ones(()), jnp.ones(()))
            return state.replace(step=state.step + 1), metrics

        return step

    def predict(image):
        return np.eye(4, dtype=np.float32)[np.zeros(image.shape, int)]

    monkeypatch.setattr(build, "make_step", make_step)
    monkeypatch.setattr(prediction, "make_predictor", lambda _: lambda _: predict)
    config = small(root)
    config.method.name = "supervised"
    config.training.update(steps=2, log_every=1)
    config.evaluation.overlays = 0
    return config


@pytest.fixture
def checked(monkeypatch):
    """How often each record was read to be checked."""
    count = collections.Counter()
    check_cases = sources.check_cases

    def counted(cases, **settings):
        count.update(cases)
        check_cases(cases, **settings)

    monkeypatch.setattr(sources, "check_cases", counted)
    return count


@pytest.mark.slow
def test_files_are_checked_once_to_train_to_evaluate_and_to_compare(config, checked, tmp_path):
    train.run(config, tmp_path / "run", mode="train")
    assert len(checked) > 10
    assert set(checked.values()) == {1}
    assert (tmp_path / "run" / "report.html").is_file()

    checked.clear()
    config.compare = ("supervised", "cps")
    train.run(config, tmp_path / "compare", mode="train")
    assert len(checked) > 10
    assert set(checked.values()) == {1}
    compared = json.loads((tmp_path / "compare" / "comparison.json").read_text())
    assert list(compared) == ["supervised", "cps"]
    assert not (tmp_path / "compare" / "comparison.png").exists()  # no case, no picture


def test_a_comparison_trains_all_methods_where_nothing_is_evaluated(config, tmp_path, monkeypatch):
    trained = []

    def train_without_cases(single, *_, **__):
        trained.append(single.method.name)

    monkeypatch.setattr(loop, "train", train_without_cases)
    config.compare = ("supervised", "cps")
    train.run(config, tmp_path / "compare", mode="train")
    assert trained == ["supervised", "cps"]
    assert not (tmp_path / "compare" / "comparison.json").exists()


def test_a_run_is_stopped_or_resumed_as_it_says(config, tmp_path, monkeypatch, capsys):
    split = build.make_split(config)
    compile_step = parallel.compile_step

    def interrupted(*arguments, **settings):
        signal.raise_signal(signal.SIGTERM)
        return compile_step(*arguments, **settings)

    # Before its first step there is nothing to save.
    monkeypatch.setattr(parallel, "compile_step", interrupted)
    with pytest.raises(Stopped, match="stopped before a step, nothing was saved"):
        loop.train(config, split, tmp_path)
    assert not (tmp_path / "checkpoints").exists()

    monkeypatch.setattr(parallel, "compile_step", compile_step)
    summaries = loop.train(config, split, tmp_path)
    assert reported_summary(summaries)["facts"]["step"] == 2
    printed = capsys.readouterr().out
    assert "resumed" not in printed
    assert "nothing was saved" not in printed

    # A run that is further than it is asked to go.
    config.training.steps = 1
    written = (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match=r"is at step 2 already.*training\.steps=1: ask for more"):
        loop.train(config, split, tmp_path)
    assert (tmp_path / "config.json").read_text() == written


def test_a_signal_waits_for_two_steps_at_most(config, tmp_path, monkeypatch):
    """However many steps there are to a row of the log: the device has no more than two to do."""
    losses, waiting = [], []

    @jax.jit
    def slow(matrix):
        return jax.lax.fori_loop(0, 100, lambda _, m: jnp.tanh(m @ m), matrix).mean()

    def compile_step(*_, **__):
        def step(state, batch, scans):
            del batch, scans
            losses.append(slow(jnp.full((300, 300), state.step, jnp.float32)))
            waiting.append(sum(not loss.is_ready() for loss in losses))
            one = jnp.ones(())
            metrics = {"loss": (losses[-1], one), "skipped": (0 * one, one)}
            return state.replace(step=state.step + 1), metrics

        return step

    monkeypatch.setattr(parallel, "compile_step", compile_step)
    config.training.update(steps=12, log_every=12)
    loop.train(config, build.make_split(config), tmp_path)
    assert len(waiting) == 12
    assert max(waiting) <= 2


def test_a_run_starts_from_the_network_of_another(config, tmp_path, capsys):
    """Both teachers and the student are the network that the other run reports; a resumed run is
    that of its own checkpoint, and another network is refused."""
    split = build.make_split(config)
    loop.train(config, split, tmp_path / "base")
    wanted = run_folder.load_network(tmp_path / "base")[1]

    config.method.name, config.seed = "ad_mt", 1
    config.training.init_from = str(tmp_path / "base")
    loop.train(config, split, tmp_path / "run")
    assert "started from the network of" in capsys.readouterr().out
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        state = checkpoints.restore(build.make_state(config), 2)
    for params, stats in (
        (state.params, state.batch_stats),
        *zip(state.ema_params, state.ema_batch_stats, strict=True),
    ):
        got = {"params": params, "batch_stats": stats}
        jax.tree.map(np.testing.assert_array_equal, got, wanted)

    config.training.steps = 4
    loop.train(config, split, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "resumed" in printed
    assert "started" not in printed

    config.model.filters = (2, 2, 4, 4, 8)
    with pytest.raises(ValueError, match=r"init_from=.*config.model.filters.*init_from=''"):
        loop.train(config, split, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_first_steps_are_supervised(config, tmp_path):
    """A line that spans both kinds of steps holds the means of what its last step has."""
    config.method.name = "ad_mt"
    config.training.update(steps=6, supervised_steps=3, log_every=2, evaluate_every=0)
    loop.train(config, build.make_split(config), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "loss" in line]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row.get("consistency") for row in rows] == [None, 3.0, 3.0]
    assert all(row["loss"] == 1.0 for row in rows)


@pytest.mark.parametrize("name", METHODS)
def test_supervised_steps_keep_the_state_of_every_method(name, config, monkeypatch):
    monkeypatch.undo()
    config.method.name = name
    state = build.make_state(config)
    image = jax.ShapeDtypeStruct((2, 32, 32, 1), np.float32)
    index = jax.ShapeDtypeStruct((2,), np.int32)
    label = jax.ShapeDtypeStruct((2, 32, 32), np.int32)
    unlabeled = {"image": image, "index": index}
    batch = {"labeled": unlabeled | {"label": label}, "unlabeled": unlabeled}
    after, metrics = jax.eval_shape(build.make_step(config, supervised=True), state, batch)
    assert {"loss", "supervised"} <= set(metrics)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, state)
    assert all(jax.tree.leaves(same))


def test_steps_that_are_no_numbers_are_named_and_end_the_run(config, tmp_path, monkeypatch, capsys):
    """Two in a row are passed over, the third in a row ends it, with a checkpoint."""

    def make_step(_, supervised=False):
        def step(state, batch, scans=None, **_):
            bad = (state.step == 1) | (state.step == 2) | (state.step >= 5)
            sound = 1.0 - bad.astype(jnp.float32)
            metrics = {"loss": (sound, sound), "skipped": (1 - sound, jnp.ones(()))}
            return state.replace(step=state.step + 1), metrics

        return step

    monkeypatch.setattr(build, "make_step", make_step)
    config.training.update(
        steps=20, skip_at_most=2, log_every=4, evaluate_every=0, checkpoint_every=20
    )
    split = build.make_split(config)
    with pytest.raises(ValueError, match=r"no number in 3 steps up to 8.*goes on from step 8"):
        loop.train(config, split, tmp_path)
    printed = capsys.readouterr().out
    named = [line for line in printed.splitlines() if "no number" in line]
    assert [line.split()[1] for line in named] == ["2/20", "3/20", "6/20", "7/20", "8/20"]
    names = build.make_iterator(config, split).names(1)
    assert f"labeled: {', '.join(names['labeled'])}" in " ".join(printed.split())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.last() == 8
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["skipped"], row["loss"]) for row in rows] == [
        (4, 0.5, 1.0),
        (8, 0.75, 1.0),
    ]


def test_a_validation_that_was_interrupted_is_made_up_for(config, tmp_path, monkeypatch):
    """Stopped while it validates, a run saves its state; the next start has the same log, and the
    best checkpoint, as a run that was never stopped."""
    config.training.update(steps=4, evaluate_every=2, log_every=3)
    split = build.make_split(config)
    loop.train(config, split, tmp_path / "whole")

    score = loop.scoring.score_cases

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return score(*arguments)

    monkeypatch.setattr(loop.scoring, "score_cases", interrupted)
    with pytest.raises(Stopped, match="stopped and saved"):
        loop.train(config, split, tmp_path / "run")
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert (checkpoints.last(), checkpoints.best()) == (2, None)

    monkeypatch.setattr(loop.scoring, "score_cases", score)
    loop.train(config, split, tmp_path / "run")
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "images_per_second"}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "run")
    ]
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [2, 3, 4]


def test_nothing_is_lost_where_a_signal_ends_the_process_in_a_compilation(
    config, tmp_path, monkeypatch
):
    """What the run has reached is on the disk before its second program is compiled."""
    config.method.name = "mean_teacher"
    config.training.update(steps=8, supervised_steps=4, checkpoint_every=3)
    make_step, saved = build.make_step, []

    def looks(config, supervised=False):
        step = make_step(config, supervised=supervised)

        def traced(*arguments, **settings):
            with Checkpoints(tmp_path / "checkpoints") as checkpoints:
                saved.append((supervised, checkpoints.last()))
            return step(*arguments, **settings)

        return traced

    monkeypatch.setattr(build, "make_step", looks)
    loop.train(config, build.make_split(config), tmp_path)
    # Before the first step it is traced once to be checked.
    assert saved == [(False, None), (True, None), (False, 4)]


def test_supervised_training_has_one_program_for_both_of_its_stages(config, tmp_path, monkeypatch):
    config.method.name = "supervised"
    config.training.update(steps=4, supervised_steps=2)
    make_step, traced = build.make_step, []

    def counts(config, supervised=False):
        step = make_step(config, supervised=supervised)

        def counted(*arguments, **settings):
            traced.append(supervised)
            return step(*arguments, **settings)

        return counted

    monkeypatch.setattr(build, "make_step", counts)
    loop.train(config, build.make_split(config), tmp_path)
    assert traced == [False, False]  # to be checked, and to be compiled


def test_a_second_run_in_one_folder_is_refused(config, tmp_path):
    with (
        locked(tmp_path, "run"),
        pytest.raises(BlockingIOError, match="in use by another run: wait for it, or name another"),
    ):
        loop.train(config, build.make_split(config), tmp_path)
