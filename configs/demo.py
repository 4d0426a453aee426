"""The embedded demo: no download, synthetic hearts, supervised-only against CIFP on few labels.

    python -m cifp_jax.main --config=configs/demo.py --workdir=runs/demo

2D by default (four classes, as ACDC): two and a half minutes on a CPU core with AVX-512,
compilation included. docs/start.md says what comes of it.
`configs/demo.py:3d` is the same for volumes (two classes, as LA).
"""

from cifp_jax.config import Config, default_config, set_where_present, use_strong_recipe


def get_config(variant: str = "2d") -> Config:
    config = default_config()
    config.compare = ("supervised", "cifp")
    config.data.root = f"runs/phantoms_{variant}"
    config.data.batch_labeled = config.data.batch_unlabeled = 4
    config.model.filters = (8, 16, 32, 64, 128)
    config.methods.cifp.largest_component = "foreground"
    use_strong_recipe(config, learning_rate=2e-3, warmup_steps=50)
    config.training.log_every = 50
    config.training.evaluate_every = 0
    if variant == "2d":
        config.data.name = "acdc"
        config.data.labeled = 1
        config.data.phantoms = 40
        config.data.patch_size = (64, 64)
        config.training.steps = 500
        # With half of it 500 steps are too few: where they end hangs on rounding.
        config.optimizer.learning_rate = 4e-3
    elif variant == "3d":
        config.data.name = "la"
        config.data.labeled = 2
        config.data.validation = 6
        config.data.phantoms = 30
        config.data.patch_size = (32, 32, 32)
        config.data.batch_labeled = config.data.batch_unlabeled = 2
        config.model.name = "vnet"
        config.model.classes = 2
        config.training.steps = 300
        config.evaluation.stride = (16, 16, 16)
    else:
        raise ValueError(f"configs/demo.py has no variant {variant!r}; known: 2d, 3d.")
    # Pseudo labels of an untrained teacher hold nothing but background, and would stay so.
    config.training.supervised_steps = config.training.steps // 2
    set_where_present(
        config.methods, ramp_steps=0, pretrain_steps=config.training.supervised_steps // 5
    )
    return config
