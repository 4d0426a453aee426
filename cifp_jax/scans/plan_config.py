"""A plan as a configuration: its settings, and the file of Python that holds them."""

import dataclasses
import functools
import math
import pprint
import textwrap
from collections.abc import Mapping
from typing import Any

from cifp_jax.scans.plan import Plan

_TILT = 15.0  # degrees, by which volumes of equal voxels are tilted


def settings(
    plan: Plan, *, identity: str, labeled: int, validation: int, tested: bool, bytes_on_disk: int
) -> dict[str, Any]:
    """The settings of a plan, by the names that they have in a configuration."""
    stride = tuple(max(side // 2, 1) for side in plan.patch)
    tilt: dict[str, float] = {}
    if plan.preparation.slices == "last":
        # Augmentation counts in voxels; so large a part of the angle keeps it in millimetres.
        *_, wide, thick = plan.preparation.spacing
        angle = math.atan(math.tan(math.radians(_TILT)) * wide / thick)
        tilt = {"augmentation.strong.tilt": round(math.degrees(angle), 1)}
    return {
        "data.name": "volumes" if plan.rank == 3 else "slices",
        "data.identity": identity,
        "data.labeled": labeled,
        "data.test_list": "test.list" if tested else "",
        "data.channels": plan.channels,
        "data.patch_size": plan.patch,
        "data.batch_labeled": plan.batch,
        "data.batch_unlabeled": plan.batch,
        "data.cache_gb": round(min(max(bytes_on_disk / 2**30, 1.0), 16.0), 1),
        **tilt,
        "model.name": "vnet" if plan.rank == 3 else "unet",
        "model.classes": plan.classes,
        "model.filters": plan.filters,
        "training.steps": plan.steps,
        "training.supervised_steps": plan.steps // 3,
        "training.evaluate_every": max(plan.steps // 15, 1) if validation else 0,
        "evaluation.stride": stride,
        "evaluation.gaussian": True,
        "evaluation.batch": max(plan.batch, 1),
        "evaluation.report": "best" if validation else "last",
        **{
            f"preparation.{name}": value
            for name, value in dataclasses.asdict(plan.preparation).items()
        },
    }


def config_text(plan: Plan, values: Mapping[str, Any]) -> str:
    """A configuration file in Python, which reads the data that lies beside it."""
    wrap = functools.partial(
        textwrap.fill, width=100, initial_indent="# ", subsequent_indent="#   "
    )
    reasons = "\n".join(map(wrap, plan.reasons))
    lines = [f"    config.{name} = {pprint.pformat(value)}" for name, value in values.items()]
    lines.append(f"    use_strong_recipe(config, warmup_steps={max(plan.steps // 30, 1)})")
    lines.append(f"    set_where_present(config.methods, ramp_steps={plan.steps // 10})")
    body = "\n".join(line.replace("\n", "\n    ") for line in lines)
    return f'''"""Planned from the data beside this file; see fingerprint.json.

    python -m cifp_jax.main --config=THIS_FILE
"""

import pathlib

from cifp_jax.config import Config, default_config, set_where_present, use_strong_recipe

{reasons}


def get_config() -> Config:
    config = default_config()
    config.data.root = str(pathlib.Path(__file__).resolve().parent)
{body}
    return config
'''
