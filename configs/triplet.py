"""Triplets on the classes of CIFAR-10, or on those of digits.

Schroff et al. 2015, https://arxiv.org/abs/1503.03832, and Hermans et al. 2017,
https://arxiv.org/abs/1703.07737. Both are of faces and of persons: there is no published number on
ImageNet or CIFAR-10 to reach. The variant cifar10 has SimCLR's small network and rates of ours; not
run here.

  python -m simclr_jax train --config=configs/triplet.py:digits --workdir=runs/triplet
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("cifar10", "digits")


def get_config(variant: str = "cifar10") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=200)
    config.data = dict(
        name="tfds/cifar10",
        split="train",
        test_split="test",
        batch_size=256,
        canvas=32,
    )
    config.augment = dict(name="simclr_cifar", size=32)
    config.encoder = dict(name="resnet", depth=18, stem="cifar")
    config.heads = dict(projector=dict(num_layers=2, output_dim=128))
    config.method = dict(name="triplet", margin=0.5, mining="batch_hard", positives="labels")
    config.optim = dict(name="adamw", weight_decay=1e-4)
    config.schedule = dict(base_lr=1e-3, scaling="none", warmup_epochs=5.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "digits":
        shared.make_small(config, variant, views="simclr_cifar", base_lr=2e-3)
        config.heads = dict(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
    return config
