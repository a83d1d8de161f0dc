"""Semi-supervised contrast: SupCon on the labelled images, and NT-Xent on all of them.

Khosla et al. 2020, https://arxiv.org/abs/2004.11362, and Chen et al. 2020,
https://arxiv.org/abs/2002.05709. There is no published number for the sum. The variant r50 is
SimCLRv2's recipe of ImageNet (configs/simclr_imagenet.py) with 10 % of the labels, not run here;
digits and cifar10_small take minutes on two cores.

  python -m simclr_jax train --config=configs/hybrid.py:digits --workdir=runs/hybrid
  python -m simclr_jax train --config=configs/hybrid.py:digits --config.data.fraction=0.01 \
      --workdir=runs/hybrid_1pct
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=800, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=4096) | dict(fraction=0.1, keep_unlabelled=True)
    config.augment = dict(name="simclr", size=224, dtype="bfloat16")
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    config.heads = dict(projector=dict(num_layers=3, output_dim=128))
    config.method = dict(
        name="hybrid", temperature=0.1, labelled_weight=1.0, all_weight=1.0, gradient_scale=2.0
    )
    config.optim = dict(name="lars", weight_decay=1e-4)
    config.schedule = dict(base_lr=0.1, scaling="sqrt", warmup_epochs=40.0)
    config.evals = dict(knn=dict(every_epochs=50.0))
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="simclr_cifar", base_lr=4e-3)
        config.data.update(fraction=0.1, keep_unlabelled=True)
        config.heads = dict(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
        config.method.update(temperature=0.3, gradient_scale=1.0)
    return config
