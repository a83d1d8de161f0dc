"""Instance discrimination: a bank of one projection for each image.

Wu et al. 2018, https://arxiv.org/abs/1805.01978. ResNet-50, batch 256, 200 epochs, SGD at 0.03 with
decay 1e-4, a tenth of the rate at 120 and 160 epochs. Top-1 on ImageNet (README of the released
code): 58.5 % in linear evaluation, for a later version with 65,536 negatives, and 46.8 % of nearest
neighbours. Not run here. The softmax is over all images where the released code draws 4,096, and
the rate falls on half a cosine.

  variant  network    data      loss                   published top-1
  r50      ResNet-50  ImageNet  softmax, 1.28 M        see above
  nce      ResNet-50  ImageNet  4,096 random images    see above
  cifar10  ResNet-18  CIFAR-10  softmax, 50,000        80.8 % of nearest neighbours (recalled)
  digits   ResNet-18  digits    softmax, 4,000         none: minutes on two cores

  python -m simclr_jax train --config=configs/instdisc.py --workdir=gs://bucket/instdisc
  python -m simclr_jax train --config=configs/instdisc.py:digits --workdir=runs/instdisc
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "nce", "cifar10", "digits")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=200, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=256)
    config.augment = dict(
        name="single",
        size=224,
        color_strength=0.5,
        jitter_probability=1.0,
        hue=0.8,
        blur=False,
        min_area=0.2,
        crop_sampler="area",
        dtype="bfloat16",
    )
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    head = dict(num_layers=1, output_dim=128, last_bias=True, last_norm="none", kernel_init="torch")
    config.heads = dict(projector=head)
    config.method = dict(name="instdisc", temperature=0.07, bank_momentum=0.5, num_noise=0)
    if variant == "nce":
        config.method.update(num_noise=4096)
    config.optim = dict(name="sgd", weight_decay=1e-4, nesterov=False, decay_norms=True)
    config.schedule = dict(base_lr=0.03, scaling="linear", warmup_epochs=0.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "cifar10":
        config.data.update(name="tfds/cifar10", test_split="test", batch_size=128, canvas=32)
        config.augment.update(size=32, dtype="float32", flip=False)
        config.encoder = dict(name="resnet", depth=18, stem="cifar")
        config.method.update(temperature=0.1)
        config.optim.update(weight_decay=5e-4)
        config.schedule.update(scaling="none")
    if variant == "digits":
        shared.make_small(config, variant, views="single", base_lr=4e-3, blur=False)
        config.augment.update(color_strength=0.5)
        config.heads = dict(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
        config.method.update(temperature=0.1)
    return config
