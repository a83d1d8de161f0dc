"""DCL pretraining, and DCLW: SimCLR for small batches.

Yeh et al. 2021, https://arxiv.org/abs/2110.06848. A ResNet-50 with batch 256 and 200 epochs reaches
68.2 % top-1 in linear evaluation, where SimCLR has 61.8 % (abstract). Not run here. Batch, epochs
and temperature are the paper's; rate, decay and the gradient's factor of 2 are SimCLR's for a batch
as small, since the paper's own were not at hand. "dclw" adds the weights of the paper.

  python -m simclr_jax train --config=configs/dcl.py:digits --workdir=runs/dcl
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "dclw", "digits", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=200, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=256)
    config.augment = dict(name="simclr", size=224, dtype="bfloat16")
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    config.heads = dict(projector=dict(num_layers=2, output_dim=128))
    config.method = dict(name="dcl", temperature=0.1, gradient_scale=2.0)
    if variant == "dclw":
        config.method.update(sigma=0.5)
    config.optim = dict(name="lars", weight_decay=1e-6)
    config.schedule = dict(base_lr=0.075, scaling="sqrt", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="simclr_cifar", base_lr=4e-3)
        config.heads = dict(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
        config.method = dict(name="dcl", temperature=0.3)
    return config
