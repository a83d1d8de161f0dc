"""Fine-tuning: the whole pretrained network, with 1 %, 10 % or 100 % of the labels.

v2: Chen et al. 2020, https://arxiv.org/abs/2006.10029, Section 3.1. Batch 1024, LARS without
weight decay, no warm-up, 60 epochs with 1 % of the labels and 30 with more. The classifier is on
the first projector layer, and on the encoder with all labels. The rate is 0.005 * sqrt(1024) =
0.16 for standard ResNets, as in the official README's command, and 0.002 * sqrt(1024) = 0.064 for
wider ones and those with selective kernels; the latter is recalled from the paper and was not
verified.

v1: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix B.5. Batch 4096, SGD with Nesterov
momentum at 0.05 * 4096 / 256 = 0.8, the same epochs, from the encoder; recalled from the paper
and not verified. With all labels the epochs are our choice.

The images of 1 % and 10 % of ImageNet's labels are the official lists, which TFDS prepares as
imagenet2012_subset/1pct and /10pct; of other data sets they are a class-balanced draw. Published
numbers and those measured here: docs/recipes.md, by `launch/results_table.py`.

  python -m simclr_jax train --config=configs/finetune.py:v2_r50_1x_sk,fraction=0.01 \
      --config.warm_start.checkpoint=PRETRAINED --workdir=gs://...
  python -m simclr_jax train --config=configs/finetune.py:cifar10,fraction=0.01 \
      --config.warm_start.checkpoint=runs/cifar10 --workdir=runs/cifar10_finetuned
  python -m simclr_jax train --config=configs/finetune.py:folder --config.data.path=DIR \
      --config.warm_start.checkpoint=runs/mine --workdir=runs/mine_finetuned
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared
from simclr_jax.models.published import IMAGENET, NETWORKS, split_variant

OPTIONS = tuple(f"fraction={fraction}" for fraction in IMAGENET)
SMALL = ("cifar10", "digits", "folder")
VARIANTS = dict.fromkeys((*NETWORKS, *SMALL), (*OPTIONS, "select=0", "select=1"))
PUBLISHED = {
    f"{name},{option}": top1
    for name, network in NETWORKS.items()
    for option, top1 in zip(OPTIONS, network.finetuned, strict=True)
}
MEASURED: dict[str, float] = {}  # variant -> top-1 in %


def get_config(variant: str = "v2_r50_1x,fraction=0.01") -> ConfigDict:
    """Returns the recipe for a published network on ImageNet, a small one, or one's own images.

    Args:
      variant: "NETWORK[,fraction=0.01|0.1|1][,select=0|1]". NETWORK is one of `NETWORKS`;
        "cifar10" or "digits" for what configs/simclr_cifar10.py:small and
        configs/simclr_digits.py pretrain; or "folder" for class folders in DIR/train and
        DIR/test and whatever network the checkpoint has. The classifier is on the encoder
        (select=0) or on the first projector layer (1), if not said as published for that share of
        the labels.
    """
    name, options = split_variant(variant, VARIANTS)
    fraction = options.get("fraction", "1")
    v1 = name.startswith("v1")
    select = int(options.get("select", "0" if v1 or fraction == "1" else "1"))
    config = ConfigDict(shared.labelled_images(name, fraction, batch_size=4096 if v1 else 1024))
    config.run = dict(epochs=60 if fraction == "0.01" else 30, log_every=10)
    projector = dict(num_layers=2 if v1 else 3, output_dim=128)  # from which layer 1 may be used
    config.heads = dict(classifier={}, projector=projector, select=select)
    config.method = dict(name="supervised", train_from="stem")
    if v1:
        config.optim = dict(name="sgd", weight_decay=0.0, momentum=0.9)
        config.schedule = dict(base_lr=0.05, scaling="linear", warmup_epochs=0.0)
    else:
        config.optim = dict(name="lars", weight_decay=0.0, momentum=0.9)
        config.schedule = dict(base_lr=0.005, scaling="sqrt", warmup_epochs=0.0)
    config.evals = dict(classifier=dict(every_epochs=10.0))
    trees = ["params/encoder", "batch_stats/encoder"]
    if select:
        trees += ["params/projector/dense1", "params/projector/norm1"]
        trees += ["batch_stats/projector/norm1"]
    config.warm_start = dict(trees={tree: tree for tree in trees}, required=True)
    if name in NETWORKS:
        config.update(shared.network(name))
        net = NETWORKS[name]
        if not v1 and (net.width > 1 or net.sk_ratio > 0):
            config.schedule.update(base_lr=0.002)
    else:
        config.encoder = dict(name="resnet", depth=18, width=0.25)
        config.heads.update(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
        config.optim = dict(name="adamw", weight_decay=0.01)
        config.schedule = dict(base_lr=1e-3, scaling="none", warmup_epochs=2.0)
        config.evals = dict(classifier=dict(every_epochs=20.0))
    if name == "folder":
        config.encoder = dict(name=None)  # as the checkpoint has it
        config.heads = dict(classifier={}, select=select)
    return config
