"""ACDC with a 2D U-Net: 12 + 12 slices of 256 x 256, 30,000 steps, best on validation.

    python -m cifp_jax.main --config=configs/acdc.py --config.data.root=DATA/ACDC

This is the field's protocol, with the field's augmentation. It has not been run yet.

`configs/acdc.py:cpu` is for two CPU cores, with the strong recipe: the middle 160 x 160 pixels of
each slice, brought to 112 x 112, augmented strongly, with AdamW. On one core without AVX-512 a step
of CIFP takes 1.2 s and a supervised one on eight slices 0.9 s; with AVX-512 about half.

`configs/acdc.py:gpu` is the same recipe for one GPU: these 160 x 160 pixels as they are, batches of
12 + 12.
"""

from cifp_jax.config import Config, default_config, set_where_present, use_strong_recipe


def get_config(variant: str = "full") -> Config:
    if variant not in ("full", "cpu", "gpu"):
        raise ValueError(f"configs/acdc.py has no variant {variant!r}; known: full, cpu, gpu.")
    config = default_config()
    config.data.name = "acdc"
    config.data.root = "data/ACDC"
    config.data.labeled = 7
    # The classes are parts of one heart, each in one piece. Scripts of the field keep all pieces.
    config.evaluation.largest_component = "both"
    config.methods.cifp.largest_component = "foreground"
    # Ahead of (CE + Dice) / 2 in each of four pairs, with 3 and with 7 patients.
    config.methods.cifp.criterion = "ce"
    config.methods.cifp.ramp_steps = 7500
    # SSL4MIS ramps these over the whole run.
    for name in ("mean_teacher", "ua_mt", "cps"):
        config.methods[name].ramp_steps = 30_000
    config.methods.ua_mt.threshold_steps = 30_000
    if variant != "full":
        config.data.largest_side = 288
        config.data.center_crop = 160
        config.data.interpolation = "linear"
        use_strong_recipe(config, warmup_steps=200)
        # Pseudo labels of an untrained teacher hold nothing but background. Ramps and BCP's
        # pre-training begin when these steps have ended.
        config.training.supervised_steps = 2000
        set_where_present(config.methods, ramp_steps=500, pretrain_steps=1000)
    if variant == "cpu":
        config.data.patch_size = (112, 112)
        config.data.batch_labeled = config.data.batch_unlabeled = 4
        config.training.steps, config.methods.ua_mt.threshold_steps = 6000, 4000
        config.training.evaluate_every = config.training.checkpoint_every = 500
    if variant == "gpu":
        config.data.patch_size = (160, 160)
        config.training.steps, config.methods.ua_mt.threshold_steps = 7000, 5000
        config.training.evaluate_every = config.training.checkpoint_every = 1000
    return config
