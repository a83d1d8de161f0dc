"""MoCo v2 pretraining, and v1: a queue of keys instead of a large batch.

Chen et al. 2020, https://arxiv.org/abs/2003.04297; He et al. 2019,
https://arxiv.org/abs/1911.05722. ResNet-50, batch 256, SGD at 0.03 with decay 1e-4 of everything,
no warm-up, 65,536 keys. Top-1 in linear evaluation (README of the released code): 67.7 % after 200
epochs, 71.1 % after 800 (v2), and 60.6 % after 200 (v1). Not run here. v1's views have no blur and
always jitter; its rate falls in steps at 120 and 160 epochs, here on half a cosine as v2's. The
released code lowers the rate once an epoch, ours in every step.

  python -m simclr_jax train --config=configs/moco_v2.py --workdir=gs://bucket/moco_v2
  python -m simclr_jax train --config=configs/moco_v2.py:digits --workdir=runs/moco_v2
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "v1", "digits", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=200, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=256)
    config.augment = dict(
        name="simclr",
        size=224,
        color_strength=0.5,
        min_area=0.2,
        crop_sampler="area",
        dtype="bfloat16",
    )
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    head = dict(
        num_layers=2,
        output_dim=128,
        hidden_bias=True,
        hidden_norm=False,
        last_bias=True,
        last_norm="none",
        kernel_init="torch",
    )
    config.method = dict(name="moco_v2", temperature=0.2, queue_size=65536, ema=0.999)
    if variant == "v1":
        config.augment.update(blur=False, jitter_probability=1.0, hue=0.8)
        head.update(num_layers=1)
        config.method.update(temperature=0.07)
    config.optim = dict(name="sgd", weight_decay=1e-4, nesterov=False, decay_norms=True)
    config.schedule = dict(base_lr=0.03, scaling="linear", warmup_epochs=0.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    config.heads = dict(projector=head)
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="simclr_cifar", base_lr=0.06)
        config.optim = dict(name="sgd", weight_decay=5e-4)
        config.heads = dict(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
        config.method.update(queue_size=1024, ema=0.9)
        if variant == "cifar10_small":
            config.method.update(queue_size=4096, ema=0.99)
    return config
