"""LA with a 3D V-Net: 2 + 2 crops of 112 x 112 x 80, 15,000 steps, last checkpoint.

    python -m cifp_jax.main --config=configs/la.py --config.data.root=DATA/LA

The full scale has not been run yet; others report 83 (supervised) to 91.5 % Dice at it.

`configs/la.py:laptop` is the same protocol at a scale for two CPU cores: scans averaged down by
three, smaller crops, half as many channels, and ten unlabelled scans set aside as validation. CIFP
takes about 65 minutes on one core, and reached 78.1 % Dice on those ten at the last checkpoint (one
seed); supervised training reached 72.0 with 8,500 steps in about 58 minutes.

`configs/la.py:cpu` has the strong recipe: scans averaged down by two, the whole network, crops that
are augmented strongly, with AdamW. It has not been measured through this configuration yet.
"""

from cifp_jax.config import Config, default_config, set_where_present


def get_config(variant: str = "full") -> Config:
    config = default_config()
    config.data.name = "la"
    config.data.root = "data/LA"
    config.data.labeled = 8
    config.data.patch_size = (112, 112, 80)
    config.data.batch_labeled = config.data.batch_unlabeled = 2
    config.model.name = "vnet"
    config.model.classes = 2
    config.training.steps = 15_000
    config.training.evaluate_every = 0
    config.methods.ad_mt.update(threshold=0.8, criterion="ce", period=19, ramp_steps=6000)
    config.methods.bcp.pretrain_steps = 2000
    config.methods.crossmatch.update(
        threshold=0.52,
        threshold_end=0.69,
        threshold_steps=17_000,
        distill=1.0,
        foreground_only=True,
    )
    config.evaluation.report = "last"
    if variant == "laptop":
        config.data.validation = 10
        config.data.downsample = 3
        config.data.patch_size = (48, 48, 32)
        config.model.filters = (8, 16, 32, 64, 128)
        config.optimizer.learning_rate = 0.03
        config.training.steps = 2200
        config.training.evaluate_every = 200
        config.training.checkpoint_every = 100
        # A short budget wants a ramp over a third of it.
        set_where_present(config.methods, ramp_steps=700, pretrain_steps=500, threshold_steps=2200)
        config.evaluation.stride = (24, 24, 16)
    elif variant == "cpu":
        config.data.validation = 10
        config.data.downsample = 2
        config.data.patch_size = (64, 64, 48)
        config.augmentation.name = "strong"
        config.optimizer.update(name="adamw", learning_rate=1e-3, weight_decay=0.01)
        config.optimizer.update(schedule="cosine", warmup_steps=100, clip=1.0)
        config.training.steps = 3000
        config.training.evaluate_every = config.training.checkpoint_every = 300
        set_where_present(config.methods, ramp_steps=1000, pretrain_steps=1000)
        set_where_present(config.methods, threshold_steps=3000)
        config.evaluation.stride = (32, 32, 24)
    elif variant != "full":
        raise ValueError(f"configs/la.py has no variant {variant!r}; known: full, laptop, cpu.")
    return config
