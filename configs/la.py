"""LA with a 3D V-Net: 2 + 2 crops of 112 x 112 x 80, 15,000 steps, last checkpoint.

    python -m cifp_jax.main --config=configs/la.py --config.data.root=DATA/LA

This is the field's protocol, with the field's augmentation. It has not been run yet; others report
83 (supervised) to 91.5 % Dice at it.

`configs/la.py:cpu` is for two CPU cores, with the strong recipe: scans averaged down by two, the
whole network, crops that are augmented strongly, with AdamW, and ten unlabelled scans set aside as
validation.
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
    if variant == "cpu":
        config.data.validation = 10
        config.data.downsample = 2
        config.data.patch_size = (64, 64, 48)
        config.augmentation.name = "strong"
        config.optimizer.update(name="adamw", learning_rate=1e-3, weight_decay=0.01)
        config.optimizer.update(schedule="cosine", warmup_steps=100, clip=1.0)
        config.training.steps = 3000
        config.training.evaluate_every = config.training.checkpoint_every = 300
        # A short budget wants a ramp, and a pre-training, over a third of it. Pseudo labels of an
        # untrained teacher hold nothing but background.
        config.training.supervised_steps = 1000
        set_where_present(config.methods, ramp_steps=1000, pretrain_steps=1000)
        set_where_present(config.methods, threshold_steps=3000)
        config.evaluation.stride = (32, 32, 24)
    elif variant != "full":
        raise ValueError(f"configs/la.py has no variant {variant!r}; known: full, cpu.")
    return config
