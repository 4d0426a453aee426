"""Orbax checkpoints: train state, data iterator and the evaluation's figures together."""

import pathlib
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from grain import checkpoint as grain_checkpoint
from orbax.checkpoint.checkpoint_managers import preservation_policy

from cifp_jax.training.state import TrainState

BEST = "dice"


def _score(metrics: dict[str, float]) -> float:
    return metrics[BEST]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


class Checkpoints:
    """The last checkpoint of a run, and the best by validation Dice; saved asynchronously.

    A save that is cut off leaves a temporary folder that Orbax ignores, so a checkpoint is whole
    or absent. Use it as a context manager: leaving it waits for the last save.
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
                        preservation_policy.LatestN(1),
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
        self._manager.close()

    def save(
        self, state: TrainState, iterator: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Starts a save; `metrics` (with `dice`) make the checkpoint a candidate for the best."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                iterator=grain_checkpoint.CheckpointSave(iterator),
            ),
            metrics=metrics,
        )

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

    def restore(self, like: TrainState, step: int, iterator: Any = None) -> TrainState:
        """The state of a checkpoint, placed as `like`; `iterator`, where given, is set to it too.

        Raises:
          ValueError: the checkpoint is of another network or method than `like`, or damaged.
        """
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        self._check_fits(wanted, step)
        items: dict[str, Any] = {"state": ocp.args.StandardRestore(wanted)}
        if iterator is not None:
            items["iterator"] = grain_checkpoint.CheckpointRestore(iterator)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))["state"]
        except (ValueError, KeyError) as error:
            raise self._damaged(step, error) from error

    def _damaged(self, step: int, error: Exception) -> ValueError:
        return ValueError(
            f"{self.folder}/{step} cannot be restored (damaged, or of another data pipeline?). "
            f"Remove that folder, or use another --workdir. Orbax says: {error}"
        )

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
