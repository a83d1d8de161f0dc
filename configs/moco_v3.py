"""MoCo v3 pretraining, of a ResNet-50 or a small ViT.

Chen et al. 2021, https://arxiv.org/abs/2104.02057. Top-1 in linear evaluation, README of the
released code; none was run here:

  variant  network   batch  epochs  optimizer                       published
  r50      R50        4096    1000  LARS, 0.3 at 256, decay 1.5e-6      74.6 %
  r50_100  R50        4096     100  LARS, 0.6 at 256, decay 1e-6        68.9 %
  vit_s    ViT-S/16   4096     300  AdamW, 1.5e-4 at 256, decay 0.1     73.2 %
  digits   R18         128      50  none: minutes on two cores

Variant cifar10_small is like digits, with 12 epochs of CIFAR-10.

The released loss is 4 temperature times ours, which a factor of the gradient stands for where LARS
leaves out parameters; AdamW does not feel it. A ViT's patches stay as they were initialised.

  python -m simclr_jax train --config=configs/moco_v3.py:r50_100 --workdir=gs://bucket/moco_v3
  python -m simclr_jax train --config=configs/moco_v3.py:digits --workdir=runs/moco_v3
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "r50_100", "vit_s", "digits", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=1000, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=4096)
    config.augment = dict(name="byol", size=224, min_area=0.2, dtype="bfloat16")
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    projector = dict(
        num_layers=2,
        hidden_dim=4096,
        output_dim=256,
        last_norm="no_affine",
        kernel_init="torch",
    )
    predictor = {**projector, "last_norm": "none"}
    config.method = dict(name="moco_v3", temperature=1.0, ema=0.996, gradient_scale=4.0)
    config.optim = dict(name="lars", weight_decay=1.5e-6, rate_in_momentum=False)
    config.schedule = dict(base_lr=0.3, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "r50_100":
        config.run.update(epochs=100)
        config.method.update(ema=0.99)
        config.optim.update(weight_decay=1e-6)
        config.schedule.update(base_lr=0.6)
    if variant == "vit_s":
        config.run.update(epochs=300)
        config.augment.update(min_area=0.08)
        config.encoder = dict(
            name="vit", size="s", num_heads=12, patch=16, freeze_patches=True, dtype="bfloat16"
        )
        projector.update(num_layers=3)
        predictor.update(last_norm="no_affine")
        config.method = dict(name="moco_v3", temperature=0.2, ema=0.99)
        config.optim = dict(name="adamw", weight_decay=0.1, decay_all=True)
        config.schedule = dict(base_lr=1.5e-4, scaling="linear", warmup_epochs=40.0)
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="byol", base_lr=2e-3, solarize=False)
        projector.update(hidden_dim=128, output_dim=64)
        predictor.update(hidden_dim=128, output_dim=64)
        ema = 0.9 if variant == "digits" else 0.99
        config.method = dict(name="moco_v3", temperature=0.3, ema=ema)
    config.heads = dict(projector=projector, predictor=predictor)
    return config
