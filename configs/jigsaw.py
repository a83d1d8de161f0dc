"""Jigsaw puzzles: an encoder that tells in which order the tiles of an image are.

Noroozi and Favaro 2016, https://arxiv.org/abs/1603.09246

  variant  network               data      permutations  published
  r50      ResNet-50             ImageNet          2000  46.7 %, linear (VISSL, 105 epochs)
  digits   ResNet-18, 1/4 wide   digits             100  none: minutes on two cores

None was run here. r50 is VISSL's: tiles of 64 px from a view of 255, two thirds of the images grey,
SGD at 0.1, but on half a cosine instead of steps, and crops of at least 60 % of the image. With 100
permutations it reached 48.6 %, with 10,000 48.1 %.

  python -m simclr_jax train --config=configs/jigsaw.py --workdir=gs://bucket/jigsaw
  python -m simclr_jax train --config=configs/jigsaw.py:digits --workdir=runs/jigsaw
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=105, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=256)
    config.augment = dict(name="finetune", size=255, min_area=0.6)
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    head = dict(num_layers=1, output_dim=1000, last_norm="scale_and_bias")
    config.heads = dict(projector=head)
    config.method = dict(name="jigsaw", num_permutations=2000, gap=21, grayscale=0.66)
    config.optim = dict(name="sgd", weight_decay=1e-4)
    config.schedule = dict(base_lr=0.1, scaling="linear", warmup_epochs=5.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "digits":
        shared.make_small(config, variant, views="finetune", base_lr=2e-3, min_area=0.6)
        config.encoder = dict(name="resnet", depth=18, width=0.25, stem="cifar")
        config.heads = dict(projector=dict(head, output_dim=64))
        config.method.update(num_permutations=100, gap=1, grayscale=0.0)
    return config
