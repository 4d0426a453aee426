"""ACDC with a 2D U-Net: 12 + 12 slices of 256 x 256, 30,000 steps, best on validation.

    python -m cifp_jax.main --config=configs/acdc.py --config.data.root=DATA/ACDC

The full scale has not been run yet; others report 79 (supervised) to 90.5 % Dice at it.

`configs/acdc.py:laptop` is the same protocol at a scale for two CPU cores. CIFP takes about 65
minutes on one core (4,500 steps), and reached 79.8 % Dice with 7 patients on the validation
volumes, which chose the checkpoint (one seed); supervised training reached 76.4 with 16,000 steps
in 75 minutes. `configs/acdc.py:small` is smaller still, for tables of many runs: CIFP takes 11 to
16 minutes on one core, and reached 67.4 +- 3.0 with 7 patients and 64.9 +- 0.8 with 3 (three
seeds).

`configs/acdc.py:cpu` has the strong recipe: the middle 160 x 160 pixels of each slice, brought to
112 x 112, augmented strongly, with AdamW. Supervised training takes about 20 minutes of one core
with AVX-512, twice that without. It has not been measured through this configuration yet.
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
        config.methods.ua_mt.threshold_steps = steps
    elif variant == "cpu":
        config.data.center_crop = 160
        config.data.patch_size = (112, 112)
        config.data.interpolation = "linear"
        config.data.batch_labeled = config.data.batch_unlabeled = 8
        config.augmentation.name = "strong"
        config.optimizer.update(name="adamw", learning_rate=1e-3, weight_decay=0.01)
        config.optimizer.update(schedule="cosine", warmup_steps=200, clip=1.0)
        config.training.steps = 5000
        config.training.evaluate_every = config.training.checkpoint_every = 500
        set_where_present(config.methods, ramp_steps=1500, pretrain_steps=1500)
        config.methods.ua_mt.threshold_steps = 5000
    elif variant != "full":
        known = "full, laptop, small, cpu"
        raise ValueError(f"configs/acdc.py has no variant {variant!r}; known: {known}.")
    return config
