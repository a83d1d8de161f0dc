"""NNCLR pretraining: nearest neighbours in a queue as positives.

Dwibedi et al. 2021, https://arxiv.org/abs/2104.14548. ResNet-50, batch 4096, 1000 epochs, LARS at
0.3 * 4096 / 256 with decay 1e-6, a queue of 98,304: 75.4 % top-1 in linear evaluation. All of this
is recalled from the paper, of which there is no released code; 75.6 %, with more crops, stands in
its abstract. Not run here. The views are BYOL's.

  python -m simclr_jax train --config=configs/nnclr.py --workdir=gs://bucket/nnclr
  python -m simclr_jax train --config=configs/nnclr.py:digits --workdir=runs/nnclr
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=1000, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=4096)
    config.augment = dict(name="byol", size=224, dtype="bfloat16")
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    projector = dict(
        num_layers=3,
        hidden_dim=2048,
        output_dim=256,
        hidden_bias=True,
        last_bias=True,
        last_norm="scale_and_bias",
        kernel_init="torch",
    )
    predictor = {**projector, "num_layers": 2, "hidden_dim": 4096, "last_norm": "none"}
    config.method = dict(name="nnclr", temperature=0.1, queue_size=98304)
    config.optim = dict(name="lars", weight_decay=1e-6)
    config.schedule = dict(base_lr=0.3, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    config.heads = dict(projector=projector, predictor=predictor)
    if variant == "digits":
        shared.make_small(config, variant, views="byol", base_lr=2e-3, solarize=False)
        config.heads["projector"].update(num_layers=2, hidden_dim=128, output_dim=64)
        config.heads["predictor"].update(hidden_dim=128, output_dim=64)
        config.method.update(temperature=0.3, queue_size=1024)
    return config
