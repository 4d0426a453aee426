"""Writes a run's network as one file: `python -m cifp_jax.export --checkpoint=RUN --out=FILE`.

The file is read by `--mode=evaluate --weights=FILE`. It holds the network that the run reports (the
checkpoint and the weights of its `config.evaluation`), without pickle, and its header has what is
needed to use it.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence


def export(run: pathlib.Path, out: pathlib.Path, *, half: bool) -> None:
    """Writes the reported network of the run in the folder `run` to `out`.

    Raises:
      FileNotFoundError, ValueError: the run or its data is missing, or has no checkpoint.
    """
    from cifp_jax.data import splits
    from cifp_jax.inference import prediction
    from cifp_jax.inference.weights import Weights, save_weights
    from cifp_jax.training import build
    from cifp_jax.training.checkpoint import Checkpoints
    from cifp_jax.training.run_folder import load_config
    from cifp_jax.training.state import network_variables

    config = load_config(run)
    data = config.data
    # Before the state is made: a missing list is the likelier fault.
    split = splits.load_split(
        data.name, pathlib.Path(data.root), labeled=data.labeled, validation=data.validation
    )
    with Checkpoints(run / "checkpoints") as checkpoints:
        step = checkpoints.reported(config.evaluation.report)
        state = checkpoints.restore(build.make_state(config), step)
    names = {"labeled": split.labeled, "unlabeled": split.unlabeled}
    patients = {
        kind: list(dict.fromkeys(splits.patient(case.name) for case in cases))
        for kind, cases in names.items()
    }
    facts = {
        "network": config.model.to_dict(),
        "data": {
            "name": data.name,
            "patch_size": tuple(data.patch_size),
            "downsample": data.downsample,
            "channels": data.channels,
            "center_crop": data.center_crop,
            "interpolation": data.interpolation,
        },
        "preparation": dataclasses.asdict(prediction.preparation(config)),
        "evaluation": {"largest_component": config.evaluation.largest_component},
        "method": config.method.name,
        "step": step,
        "seed": config.seed,
        "weights": config.evaluation.weights,
        "training_list": patients,
    }
    save_weights(
        out, Weights(network_variables(state, config.evaluation.weights), facts), half=half
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="folder of a run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file.safetensors")
    parser.add_argument("--float16", action="store_true", help="half the size, for release")
    given = parser.parse_args(arguments)
    try:
        export(given.checkpoint, given.out, half=given.float16)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{given.out}: {given.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
