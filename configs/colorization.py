"""Colorization: an encoder of grey images, by which a decoder tells their colours.

Zhang et al. 2016, https://arxiv.org/abs/1603.08511

  variant  network               data      published                             here
  cifar10  ResNet-18, 1/4 wide   CIFAR-10  none: hours on two cores              not run
  r50      ResNet-50             ImageNet  40.1 %, linear (VISSL)                not run

Variant cifar10_small has 12 epochs and the ImageNet stem, whose last map is a single pixel there.

The rates are those of configs/rotation.py, for want of released ones for a ResNet. Digits have no
colour, and so there is no variant for them.

  python -m simclr_jax train --config=colorization:cifar10 --config.data.path=DIR --workdir=runs/x
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "cifar10", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=105, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=256)
    config.augment = dict(name="finetune", size=224, min_area=0.2)
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    config.heads = dict()
    config.method = dict(name="colorization", decoder_width=128, prior_momentum=0.99)
    config.optim = dict(name="sgd", weight_decay=1e-4)
    config.schedule = dict(base_lr=0.1, scaling="linear", warmup_epochs=5.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "cifar10":
        config.run.update(epochs=200, checkpoint_every=1000)
        config.data.update(name="tfds/cifar10", test_split="test", batch_size=128, canvas=32)
        config.augment.update(size=32, min_area=0.35)
        config.encoder = dict(name="resnet", depth=18, width=0.25, stem="cifar")
        config.optim = dict(name="adamw", weight_decay=1e-4)
        config.schedule = dict(base_lr=2e-3, scaling="none", warmup_epochs=5.0)
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="finetune", base_lr=2e-3, min_area=0.35)
    return config
