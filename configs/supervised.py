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

from ml_collections import ConfigDict, config_dict

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
    config = ConfigDict()
    config.run = dict(seed=0, epochs=90, log_every=50, checkpoint_every=2000)
    config.data = dict(
        name="tfds/imagenet2012",
        split="train",
        test_split="validation",
        path=config_dict.placeholder(str),
        labels_from_folders=False,
        batch_size=4096,
        canvas=8192,  # larger than any of its photographs: none is scaled before it is cut
        fraction=1.0,
    )
    config.augment = dict(name="finetune", size=224)
    classifier = dict(num_classes=config_dict.placeholder(int), zero_init=False)
    config.heads = dict(classifier=classifier, select=0)
    config.method = dict(name="supervised", train_from="stem", grad_cache_chunks=1)
    config.optim = dict(name="sgd", weight_decay=1e-4, momentum=0.9)
    # Peak 0.1 * 4096 / 256 = 1.6.
    config.schedule = dict(base_lr=0.1, scaling="linear", warmup_epochs=5.0)
    config.parallel = dict(preset="replicated", fsdp=8)
    config.evals = dict(classifier=dict(every_epochs=10.0))
    if name in NETWORKS:
        net = NETWORKS[name]
        config.encoder = dict(name="resnet", depth=net.depth, width=net.width)
        config.encoder.update(sk_ratio=net.sk_ratio, dtype="bfloat16", remat=net.remat)
        config.parallel.update(preset=net.preset)
    else:
        config.run.update(epochs=100, log_every=10)
        config.data.update(name="tfds/cifar10", test_split="test", batch_size=100, canvas=32)
        config.data.update(fraction=float(fraction))
        config.augment.update(size=32)
        config.encoder = dict(name="resnet", depth=18, width=0.25, stem="imagenet", remat="none")
        config.optim = dict(name="adamw", weight_decay=0.01)
        config.schedule = dict(base_lr=2e-3, scaling="none", warmup_epochs=5.0)
        config.evals = dict(classifier=dict(every_epochs=20.0))
    if name == "digits":  # which must not be mirrored; 1 % of the labels are 40
        config.data.update(name="digits", batch_size=20 if fraction == "0.01" else 100, canvas=28)
        config.augment = dict(name="finetune", size=28, min_area=0.35, flip=False)
    if name == "folder":
        config.data.update(dict(name="folder", labels_from_folders=True))
        config.data.update({key: config_dict.placeholder(int) for key in ("batch_size", "canvas")})
        config.augment = dict(name="finetune", size=config_dict.placeholder(int))
        config.encoder.update(depth=50, width=1.0, dtype="bfloat16")
        if "laptop" in options:
            config.data.update(canvas=96)
            config.augment = dict(name="finetune", size=64)
            config.encoder.update(depth=18, width=0.5, dtype="float32")
    return config
