"""The supervised baseline: the same networks from scratch, with labels.

The authors say of theirs (github.com/google-research/simclr, issues 10 and 110): SGD at
0.1 * batch / 256, weight decay 1e-4, half a cosine, and random crop and mirror alone. They do
not state batch, epochs and warm-up: 4096, 90 and 5 are our choice, after Goyal et al. 2017,
https://arxiv.org/abs/1706.02677. The v1 paper's baselines are other ones.

Published numbers and those measured here: docs/recipes.md, by `launch/results_table.py`.

  python -m simclr_jax train --config=configs/supervised.py:v2_r50_1x --workdir=gs://...
  python -m simclr_jax train --config=configs/supervised.py:cifar10,fraction=0.01 --workdir=D
  python -m simclr_jax train --config=configs/supervised.py:folder,laptop \
      --config.data.path=DIR --workdir=runs/mine_supervised
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared
from simclr_jax.models.published import IMAGENET, NETWORKS, split_variant

OPTIONS = tuple(f"fraction={fraction}" for fraction in IMAGENET)
VARIANTS = {
    **dict.fromkeys(NETWORKS, ()),
    "cifar10": OPTIONS,
    "digits": OPTIONS,
    "folder": (*OPTIONS, "laptop"),
}
PUBLISHED = {name: n.supervised for name, n in NETWORKS.items() if n.supervised is not None}
MEASURED: dict[str, float] = {}  # variant -> top-1 in %


def get_config(variant: str = "v2_r50_1x") -> ConfigDict:
    """Returns the recipe for a published network on ImageNet, a small one, or one's own images.

    Args:
      variant: one of `NETWORKS`; or "cifar10[,fraction=0.01|0.1|1]", or the same with "digits",
        to compare with configs/finetune.py; or with "folder", for class folders in DIR/train and
        DIR/test, and the network of configs/simclr_folder.py, ",laptop" that of its variant.
    """
    name, options = split_variant(variant, VARIANTS)
    fraction = options.get("fraction", "1")
    config = ConfigDict(shared.labelled_images(name, fraction, batch_size=4096))
    config.run = dict(epochs=90, checkpoint_every=2000)
    config.heads = dict(classifier=dict(zero_init=False))
    config.method = dict(name="supervised", train_from="stem")
    config.optim = dict(name="sgd", weight_decay=1e-4, momentum=0.9)
    # Peak 0.1 * 4096 / 256 = 1.6.
    config.schedule = dict(base_lr=0.1, scaling="linear", warmup_epochs=5.0)
    config.evals = dict(classifier=dict(every_epochs=10.0))
    if name in NETWORKS:
        config.update(shared.network(name))
    else:
        config.run.update(epochs=100, log_every=10)
        config.encoder = dict(name="resnet", depth=18, width=0.25)
        config.optim = dict(name="adamw", weight_decay=0.01)
        config.schedule = dict(base_lr=2e-3, scaling="none", warmup_epochs=5.0)
        config.evals = dict(classifier=dict(every_epochs=20.0))
    if name == "folder":
        config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
        if "laptop" in options:
            config.update(data=dict(canvas=96), augment=dict(size=64))
            config.encoder = dict(name="resnet", depth=18, width=0.5)
    return config
