"""BYOL pretraining: no negatives, a predictor, and a target that follows the network.

Grill et al. 2020, https://arxiv.org/abs/2006.07733. Batch 4096, 1000 epochs, LARS with weight
decay 1.5e-6 at 0.2 * 4096 / 256 = 3.2, 10 epochs of warm-up, target rate from 0.996 to 1. Its
ResNet-50 reaches 74.3 % top-1 in linear evaluation, recalled from the paper; the official
repository's checkpoint has 74.4 %. Not run here. The official code scales by the rate after the
momentum, its own loss is the sum over the two views, and its images are normalised: here a factor
of 2 of the gradient stands for the sum, and pixels are in [0, 1].

  python -m simclr_jax train --config=configs/byol.py --workdir=gs://bucket/byol
  python -m simclr_jax train --config=configs/byol.py:digits --workdir=runs/byol
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe: "r50" as published, or a small one, minutes on two cores."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=1000, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=4096)
    config.augment = dict(name="byol", size=224, dtype="bfloat16")
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    head = dict(
        num_layers=2,
        hidden_dim=4096,
        output_dim=256,
        hidden_bias=True,
        last_norm="none",
        kernel_init="lecun",
    )
    config.method = dict(name="byol", ema=0.996, gradient_scale=2.0)
    config.optim = dict(name="lars", weight_decay=1.5e-6, rate_in_momentum=False)
    config.schedule = dict(base_lr=0.2, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0, temperature=0.07))
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="byol", base_lr=0.2, solarize=False)
        config.optim = dict(name="sgd", weight_decay=5e-4)
        head.update(hidden_dim=128, output_dim=64)
        config.method = dict(name="byol", ema=0.9 if variant == "digits" else 0.97)
    config.heads = dict(projector=head, predictor=head)
    return config
