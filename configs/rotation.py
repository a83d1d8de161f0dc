"""Rotation: an encoder that tells how an image was turned.

Gidaris et al. 2018, https://arxiv.org/abs/1803.07728

  variant        network              data      published                           here
  cifar10        ResNet-18, 1/4 wide  CIFAR-10  none: the released rates            not run
  cifar10_small  ResNet-18, 1/4 wide  CIFAR-10  none: minutes on two cores          see docs
  r50            ResNet-50            ImageNet  48.2 %, linear (VISSL, 105 epochs)  not run

cifar10 and r50 take the released rates for CIFAR-10, SGD at 0.1 with decay 5e-4 and Nesterov
momentum, 200 epochs, on half a cosine instead of steps; cifar10_small has the stem for ImageNet,
which costs a tenth. There is no variant for digits: a 6 that is turned is a 9. Nor is it for other
images without an upright, as from the air or of cells.

  python -m simclr_jax train --config=rotation:cifar10 --config.data.path=DIR --workdir=runs/x
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
    config.augment = dict(name="finetune", size=224, min_area=0.08)
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    config.heads = dict()
    config.method = dict(name="rotation")
    config.optim = dict(name="sgd", weight_decay=5e-4, nesterov=True)
    config.schedule = dict(base_lr=0.1, scaling="linear", warmup_epochs=5.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "cifar10":
        config.run.update(epochs=200, checkpoint_every=1000)
        config.data.update(name="tfds/cifar10", test_split="test", batch_size=128, canvas=32)
        config.augment.update(size=32, min_area=0.5)
        config.encoder = dict(name="resnet", depth=18, width=0.25, stem="cifar")
        config.schedule = dict(base_lr=0.1, scaling="none", warmup_epochs=0.0)
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="finetune", base_lr=2e-3, min_area=0.5)
    return config
