"""Barlow Twins pretraining: a wide projector whose dimensions say different things.

Zbontar et al. 2021, https://arxiv.org/abs/2103.03230. ResNet-50, batch 2048, 1000 epochs, LARS at
0.2 * 2048 / 256 = 1.6, and 0.0048 / 0.2 of that for biases and BatchNorm: 73.5 % top-1 in linear
evaluation (README of the released code). Not run here. There the decay is 1e-6 and the last rate a
thousandth of the first, here 0. With its many devices the gradient of what LARS does not adapt was
divided by their number, which the rate of biases was tuned with; ours is the exact one.

  python -m simclr_jax train --config=configs/barlow_twins.py --workdir=gs://bucket/barlow_twins
  python -m simclr_jax train --config=configs/barlow_twins.py:digits --workdir=runs/barlow_twins
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=1000, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=2048)
    config.augment = dict(name="byol", size=224, dtype="bfloat16")
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    head = dict(
        num_layers=3, hidden_dim=8192, output_dim=8192, last_norm="none", kernel_init="torch"
    )
    config.heads = dict(projector=head)
    config.method = dict(name="barlow_twins", off_diagonal_weight=0.0051)
    config.optim = dict(
        name="lars",
        weight_decay=1e-6,
        rate_in_momentum=False,
        rates=((r".*/(bias|[^/]*norm[^/]*/scale)", 0.024),),
    )
    config.schedule = dict(base_lr=0.2, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="byol", base_lr=2e-3, solarize=False)
        config.heads["projector"].update(num_layers=2, hidden_dim=256, output_dim=256)
    return config
