"""LA with a 3D V-Net: 2 + 2 crops of 112 x 112 x 80, 15,000 steps, last checkpoint.

    python -m cifp_jax.main --config=configs/la.py --config.data.root=DATA/LA

This is the field's protocol, with the field's augmentation. It has not been run yet.

`configs/la.py:cpu` is for two CPU cores, with the strong recipe: scans averaged down by three, so
that a crop of 64 x 48 x 32 holds nearly the whole of one, the whole network, strong augmentation,
AdamW, and ten unlabelled scans set aside as validation. It takes about an hour and a half of one
core with AVX-512: 2.2 s a supervised step, 6 s one of CIFP.

`configs/la.py:gpu` is the same recipe for one GPU: crops of 112 x 112 x 80 of scans as they are.
"""

from cifp_jax.config import Config, default_config, set_where_present, use_strong_recipe


def get_config(variant: str = "full") -> Config:
    if variant not in ("full", "cpu", "gpu"):
        raise ValueError(f"configs/la.py has no variant {variant!r}; known: full, cpu, gpu.")
    config = default_config()
    config.data.name = "la"
    config.data.root = "data/LA"
    config.data.labeled = 8
    config.data.patch_size = (112, 112, 80)
    config.data.batch_labeled = config.data.batch_unlabeled = 2
    config.model.name = "vnet"
    config.model.classes = 2
    config.training.steps = 15_000
    config.training.remat = True  # on a TPU half of the memory, and fewer bytes; on a CPU no gain
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
    # There is one atrium. The scripts of the field differ in this: it is worth up to 0.4 Dice.
    config.evaluation.largest_component = "class"
    config.methods.cifp.largest_component = "class"
    if variant != "full":
        config.data.validation = 10
        use_strong_recipe(config, warmup_steps=100)
        # Pseudo labels of an untrained teacher hold nothing but background. Ramps and BCP's
        # pre-training begin when these steps have ended.
        steps, supervised, ramp = (1400, 800, 150) if variant == "cpu" else (4500, 1500, 500)
        config.training.update(steps=steps, supervised_steps=supervised)
        set_where_present(
            config.methods,
            ramp_steps=ramp,
            pretrain_steps=ramp,
            threshold_steps=steps - supervised,
        )
    if variant == "cpu":
        config.data.downsample = 3
        config.data.patch_size = (64, 48, 32)
        config.data.batch_labeled = config.data.batch_unlabeled = 4
        config.training.evaluate_every = config.training.checkpoint_every = 200
        config.evaluation.stride = (32, 24, 16)
    if variant == "gpu":
        config.precision = "bfloat16"
        config.data.on_device = True
        config.training.remat = False
        config.training.checkpoint_every = 500
        config.evaluation.stride = (56, 56, 40)
    return config
