"""ACDC with a 2D U-Net: 12 + 12 slices of 256 x 256, 30,000 steps, best on validation.

    python -m cifp_jax.main --config=configs/acdc.py --config.data.root=DATA/ACDC

`configs/acdc.py:laptop` is the same protocol at a scale for two CPU cores, about an hour and a half
a run of CIFP; `configs/acdc.py:small` is smaller still, a quarter of an hour, for tables of many.
"""

from cifp_jax.config import Config, default_config, set_where_present

SCALES = {"laptop": (96, 4500), "small": (64, 1500)}  # pixels a side, steps


def get_config(variant: str = "full") -> Config:
    config = default_config()
    config.data.name = "acdc"
    config.data.root = "data/ACDC"
    config.data.labeled = 7
    config.methods.cifp.ramp_steps = 7500
    # SSL4MIS ramps these over the whole run.
    for name in ("mean_teacher", "ua_mt", "cps"):
        config.methods[name].ramp_steps = 30_000
    config.methods.ua_mt.threshold_steps = 30_000
    if variant in SCALES:
        side, steps = SCALES[variant]
        config.data.patch_size = (side, side)
        config.data.batch_labeled = config.data.batch_unlabeled = 4
        config.optimizer.learning_rate = 0.03
        config.training.steps = steps
        config.training.evaluate_every = 500 if variant == "laptop" else 250
        config.training.checkpoint_every = 250
        # A short budget wants a ramp, and a pre-training, over a third of it.
        set_where_present(config.methods, ramp_steps=steps // 3, pretrain_steps=steps // 3)
        set_where_present(config.methods, threshold_steps=steps)
    elif variant != "full":
        raise ValueError(f"configs/acdc.py has no variant {variant!r}; known: full, laptop, small.")
    return config
