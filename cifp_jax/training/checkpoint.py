"""Orbax checkpoints: train state, place in the data and the evaluation's figures together."""

import contextlib
import copy
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from cifp_jax import parallel, processes
from cifp_jax.mesh import make_mesh
from cifp_jax.training.state import TrainState

BEST = "dice"
_ASIDE = ".before"  # of a checkpoint while another one of its step is written


def _score(metrics: dict[str, float]) -> float:
    return metrics[BEST]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def put_back(folder: pathlib.Path) -> None:
    """Ends what was cut off while a checkpoint of `folder` was saved again: it is there once more.

    No other process may be saving there.
    """
    for aside in folder.glob(f"*{_ASIDE}"):
        there = aside.with_suffix("")
        if there.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(there)


class DamagedError(ValueError):
    """A checkpoint cannot be read, or does not hold what was saved: `what`, and the remedy."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Remove that folder, or use another --workdir.")
        self.what = what


def _digest(state: TrainState, progress: dict[str, Any]) -> str:
    """SHA-256 of the values of a state, leaf by leaf, and of what is saved beside it."""
    total = hashlib.sha256(json.dumps(progress, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        total.update(jax.tree_util.keystr(path).encode())
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class Checkpoints:
    """The last two checkpoints of a run, and the best by validation Dice; saved asynchronously.

    A save that is cut off leaves a temporary folder that Orbax ignores, so a checkpoint is whole
    or absent. A checkpoint that has changed on the disk is noticed, as it holds the digest of its
    values; the one before serves then. Use it as a context manager: leaving it waits for the last
    save. Of several processes all have to do the same with it.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                create=False,  # by the first save, so that to look for one leaves no folder behind
                best_fn=_score,
                best_mode="max",
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [
                        preservation_policy.LatestN(2),
                        preservation_policy.BestN(
                            get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
                        ),
                    ]
                ),
                enable_async_checkpointing=True,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            with self._writes():
                self._manager.close()
        elif not processes.several():  # of which the others may have ended: it would wait for them
            with contextlib.suppress(Exception):
                self._manager.close()

    def save(
        self,
        state: TrainState,
        progress: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Starts a save, in place of a checkpoint of the same step.

        Args:
          state: of the step that the checkpoint is named by.
          progress: what else the run goes on from, as JSON holds it. Copied, as Orbax writes it
            out in a thread of its own while the run goes on and adds to it.
          metrics: with `dice`; make the checkpoint a candidate for the best.

        Raises:
          OSError: the save before this one failed: the disk is full, or cannot be written.
        """
        step = int(state.step)
        progress = copy.deepcopy(progress)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            progress=ocp.args.JsonSave({"sha256": _digest(state, progress), **progress}),
        )
        with self._writes(), self._replaced(step):
            self._manager.save(step, args=args, metrics=metrics)

    def wait(self) -> None:
        """Until what was saved last is whole.

        Raises:
          OSError: it could not be written.
        """
        with self._writes():
            self._manager.wait_until_finished()

    @contextmanager
    def _replaced(self, step: int) -> Iterator[None]:
        """Keeps a checkpoint of this step until the one that is saved inside is whole."""
        if step not in self._manager.all_steps():
            yield
            return
        self._manager.wait_until_finished()
        there = self.folder / str(step)

        def set_aside() -> None:
            there.rename(there.with_suffix(_ASIDE))

        processes.by_first(set_aside)
        self._manager.reload()
        try:
            yield
            self._manager.wait_until_finished()
        finally:
            if processes.first():
                put_back(self.folder)

    @contextmanager
    def _writes(self) -> Iterator[None]:
        """Says of what goes wrong inside that a checkpoint could not be written."""
        try:
            yield
        except Exception as error:  # which one depends on what was being written
            raise OSError(
                f"{self.folder}: a checkpoint could not be written ({_first_line(error)}). Make "
                f"room, or let this folder be written; the same command goes on from the last one "
                f"that is whole."
            ) from error

    def last(self) -> int | None:
        """Step of the last checkpoint, or None where there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Step of the best validated checkpoint, or None where none was validated."""
        validated = [s for s in self._manager.all_steps() if self._manager.metrics(s)]
        return self._manager.best_step() if validated else None

    def reported(self, rule: str) -> int:
        """Step of the checkpoint that a run is known by: the best, or the last where none is.

        Args:
          rule: best or last.

        Raises:
          FileNotFoundError: there is no checkpoint.
        """
        last, best = self.last(), self.best() if rule == "best" else None
        if last is None:
            raise FileNotFoundError(
                f"{self.folder.parent} holds no checkpoint: train it first (--mode=train)."
            )
        return last if best is None else best

    def restore(self, like: TrainState, step: int) -> TrainState:
        """The state of a checkpoint, placed as `like`, or on all devices of several processes."""
        return self._restore(like, step)[0]

    def _restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state and the progress of a checkpoint.

        Raises:
          ValueError: the checkpoint is of another network or method than `like`.
          DamagedError: it cannot be read, or is not what was saved.
        """
        if processes.several():
            like = parallel.replicate(like, "jit", make_mesh())
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        self._check_fits(wanted, step)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(wanted), progress=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
            state, progress = restored["state"], restored["progress"]
            if progress.pop("sha256") != _digest(state, progress):
                raise ValueError("its values are not those that were saved")
        except Exception as error:  # which one depends on what is damaged
            raise self._damaged(step, error) from error
        return state, progress

    def resume(self, like: TrainState) -> tuple[TrainState, dict[str, Any], list[DamagedError]]:
        """State and progress of the last sound checkpoint, and what is wrong with later ones.

        Those are removed, so that their steps can be saved again.

        Raises:
          FileNotFoundError: there is no checkpoint.
          ValueError: as `restore`; DamagedError where none is sound.
        """
        damaged: list[DamagedError] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, progress = self._restore(like, step)
            except DamagedError as error:
                damaged.append(error)
                continue
            for later in (s for s in self._manager.all_steps() if s > step):
                self._manager.delete(later)
            return state, progress, damaged
        if damaged:
            raise damaged[0]
        raise FileNotFoundError(f"{self.folder} holds no checkpoint.")

    def _damaged(self, step: int, error: Exception) -> DamagedError:
        return DamagedError(f"{self.folder}/{step} is damaged ({_first_line(error)})")

    def _check_fits(self, wanted: TrainState, step: int) -> None:
        """Raises where the shapes of a checkpoint are others: reading it would stop half-way."""
        folder = self._manager.directory / str(step) / "state"
        try:
            saved = _shapes(ocp.StandardCheckpointHandler().metadata(folder).tree)
        except Exception as error:  # which one depends on what is missing
            raise self._damaged(step, error) from error
        shapes = _shapes(wanted)
        if shapes != saved:
            name = min(n for n in shapes.keys() | saved.keys() if shapes.get(n) != saved.get(n))
            raise ValueError(
                f"{self.folder}/{step} does not fit this config (another network or method?): "
                f"{name} has the shape {saved.get(name)} there and {shapes.get(name)} here. Use "
                f"the run's own config, or another --workdir."
            )
