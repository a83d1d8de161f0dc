"""SimCLR and SimCLRv2 pretraining on ImageNet, for TPU slices.

v1: Chen et al. 2020, https://arxiv.org/abs/2002.05709. Batch 4096, 1000 epochs, LARS, 2-layer
projector. v2: Chen et al. 2020, https://arxiv.org/abs/2006.10029. Batch 4096, 800 epochs,
3-layer projector, ResNet-D stem and selective kernels in the _sk networks. The published v2
networks also trained with a momentum memory, which neither the official code nor this recipe
has: its author reports 71.1 instead of 71.7 for v2_r50_1x without it.

Published linear-probe top-1 on the validation set in %, v1 from Table 6 of its paper, v2 from
the official repository. Not run here: none of these has been trained with this code.

  variant      published    variant       published    variant        published
  v1_r50_1x    69.3         v2_r50_2x     75.6         v2_r152_1x     74.5
  v1_r50_2x    74.2         v2_r50_2x_sk  77.7         v2_r152_1x_sk  77.2
  v1_r50_4x    76.5         v2_r101_1x    73.6         v2_r152_2x     77.4
  v2_r50_1x    71.7         v2_r101_1x_sk 76.3         v2_r152_2x_sk  79.4
  v2_r50_1x_sk 74.6         v2_r101_2x    77.0         v2_r152_3x_sk  79.8
                            v2_r101_2x_sk 79.0

  python -m simclr_jax train --config=configs/simclr_imagenet.py:v1_r50_1x --workdir=gs://...
  python -m simclr_jax train --config=configs/simclr_imagenet.py:smoke --workdir=runs/smoke
"""

from ml_collections import ConfigDict, config_dict

V1 = {f"v1_r50_{width}x": (50, width, False) for width in (1, 2, 4)}
V2 = {
    f"v2_r{depth}_{width}x{'_sk' if sk else ''}": (depth, width, sk)
    for depth in (50, 101, 152)
    for width in (1, 2)
    for sk in (False, True)
} | {"v2_r152_3x_sk": (152, 3, True)}


def get_config(variant: str = "v1_r50_1x") -> ConfigDict:
    """Returns a published recipe, or "smoke": v1 on the built-in digits, a minute on a laptop."""
    name = "v1_r50_1x" if variant == "smoke" else variant
    if name not in V1 | V2:
        raise ValueError(
            f"Unknown variant {variant!r}; this recipe knows {', '.join(V1 | V2)}, smoke."
        )
    depth, width, sk = (V1 | V2)[name]
    v2 = name in V2
    config = ConfigDict()
    config.run = dict(
        seed=0, epochs=800 if v2 else 1000, log_every=50, checkpoint_every=2000, keep_checkpoints=2
    )
    config.data = dict(
        name="tfds/imagenet2012",
        split="train",
        test_split="validation",
        path=config_dict.placeholder(str),
        batch_size=4096,
        canvas=320,
    )
    config.augment = dict(name="simclr", size=224, color_strength=1.0, blur=True)
    config.encoder = dict(
        name="resnet",
        depth=depth,
        width=float(width),
        sk_ratio=0.0625 if sk else 0.0,
        dtype="bfloat16",
    )
    config.heads = dict(projector=dict(num_layers=3 if v2 else 2, output_dim=128))
    config.method = dict(name="simclr", temperature=0.1)
    config.optim = dict(name="lars", weight_decay=1e-4 if v2 else 1e-6, momentum=0.9)
    if v2:  # peak 0.1 * sqrt(4096) = 6.4; warm-up over 5 % of the run
        config.schedule = dict(base_lr=0.1, scaling="sqrt", warmup_epochs=40.0)
    else:  # peak 0.3 * 4096 / 256 = 4.8
        config.schedule = dict(base_lr=0.3, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0, k=200, temperature=0.07, max_train=50_000))
    if variant == "smoke":
        config.run.update(epochs=1, log_every=1)
        config.data.update(name="digits", test_split="test", batch_size=16, canvas=28)
        config.augment.update(size=32)
        config.encoder.update(width=0.125, dtype="float32")
        config.schedule.update(warmup_epochs=0.1)
        config.evals = dict()
    return config
