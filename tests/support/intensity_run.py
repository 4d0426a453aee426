"""A run whose network reads the class off the intensity, so that every mask is known."""

import numpy as np

from cifp_jax.config import default_config
from cifp_jax.inference import prediction
from cifp_jax.training import run_folder

_STEEP = 50.0
VALUES = np.array([0, 2, 7], np.uint8)  # of the classes in masks


def nearest_class(image):
    """Probabilities of the classes -1, 0 and 1 by the distance of the intensity to them."""
    logits = -_STEEP * np.abs(image[..., None] - np.array([-1.0, 0.0, 1.0], np.float32))
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def intensity_run(folder, monkeypatch):
    """Writes a run that scales 0, 100 and 200 to -1, 0 and 1, and whose masks hold 0, 2 and 7."""
    config = default_config()
    config.data.name = "volumes"
    config.data.patch_size = (16, 16, 16)
    config.model.classes = 3
    config.preparation.update(
        {
            "canonical": True,
            "normalization": (("fixed", 0.0, 200.0, 100.0, 100.0),),
            "label_names": ("background", "rim", "core"),
            "label_values": tuple(VALUES.tolist()),
        }
    )
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json_best_effort())
    monkeypatch.setattr(run_folder, "load_network", lambda path: (run_folder.load_config(path), {}))
    monkeypatch.setattr(prediction, "make_predictor", lambda _: lambda _: nearest_class)
    return folder
