"""Linear evaluation: a linear classifier on a frozen encoder, trained with labels.

v1: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix B.6. v2: Chen et al. 2020,
https://arxiv.org/abs/2006.10029, Section 3.1. Batch 4096, 90 epochs, SGD with Nesterov momentum
at 0.1 * 4096 / 256 = 1.6, no warm-up, no weight decay (the official README's command has 1e-6),
random crop and mirror. The encoder runs in inference mode, so that its BatchNorm statistics stay:
that is what the official TF1 code does; its TF2 code moves them.

Published numbers and those measured here: docs/recipes.md, by `launch/results_table.py`. The
papers have none for fraction=0.01 and 0.1.

  python -m simclr_jax train --config=configs/linear_probe.py:v2_r50_1x_sk \
      --config.warm_start.checkpoint=PRETRAINED --workdir=gs://...
  python -m simclr_jax train --config=configs/linear_probe.py:cifar10,fraction=0.01 \
      --config.warm_start.checkpoint=runs/cifar10 --workdir=runs/cifar10_probe
  python -m simclr_jax train --config=configs/linear_probe.py:folder --config.data.path=DIR \
      --config.warm_start.checkpoint=runs/mine --workdir=runs/mine_probe
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared
from simclr_jax.models.published import IMAGENET, NETWORKS, split_variant

OPTIONS = tuple(f"fraction={fraction}" for fraction in IMAGENET)
VARIANTS = dict.fromkeys((*NETWORKS, "cifar10", "digits", "folder"), OPTIONS)
PUBLISHED = {name: network.linear for name, network in NETWORKS.items()}
MEASURED: dict[str, float] = {}  # variant -> top-1 in %


def get_config(variant: str = "v2_r50_1x") -> ConfigDict:
    """Returns the recipe for a published network on ImageNet, a small one, or one's own images.

    Args:
      variant: "NETWORK[,fraction=0.01|0.1|1]". NETWORK is one of `NETWORKS`; "cifar10" or
        "digits" for what configs/simclr_cifar10.py:small and configs/simclr_digits.py pretrain;
        or "folder" for class folders in DIR/train and DIR/test and whatever network the
        checkpoint has.
    """
    name, options = split_variant(variant, VARIANTS)
    fraction = options.get("fraction", "1")
    config = ConfigDict(shared.labelled_images(name, fraction, batch_size=4096))
    config.run = dict(epochs=90, checkpoint_every=2000)
    config.heads = dict(classifier={})
    config.method = dict(name="supervised", train_from="classifier")
    config.optim = dict(name="sgd", weight_decay=0.0, momentum=0.9)
    config.schedule = dict(base_lr=0.1, scaling="linear", warmup_epochs=0.0)
    config.evals = dict(classifier=dict(every_epochs=10.0))
    trees = ("params/encoder", "batch_stats/encoder")
    config.warm_start = dict(trees={tree: tree for tree in trees}, required=True)
    if name in NETWORKS:
        config.update(shared.network(name))
    else:
        config.run.update(epochs=60, log_every=10)
        config.encoder = dict(name="resnet", depth=18, width=0.25)
        config.evals = dict(classifier=dict(every_epochs=20.0))
    if name == "folder":
        config.encoder = dict(name=None)  # as the checkpoint has it
    return config
