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

from ml_collections import ConfigDict, config_dict

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
    config = ConfigDict()
    config.run = dict(seed=0, epochs=90, log_every=50, checkpoint_every=2000)
    config.data = dict(
        name=IMAGENET[fraction],
        split="train",
        test_split="validation",
        path=config_dict.placeholder(str),
        labels_from_folders=False,
        batch_size=4096,
        canvas=8192,  # larger than any of its photographs: none is scaled before it is cut
        fraction=1.0,
    )
    config.augment = dict(name="finetune", size=224)
    classifier = dict(num_classes=config_dict.placeholder(int), zero_init=True)
    config.heads = dict(classifier=classifier, select=0)
    config.method = dict(name="supervised", train_from="classifier", grad_cache_chunks=1)
    config.optim = dict(name="sgd", weight_decay=0.0, momentum=0.9)
    config.schedule = dict(base_lr=0.1, scaling="linear", warmup_epochs=0.0)
    config.parallel = dict(preset="replicated", fsdp=8)
    config.evals = dict(classifier=dict(every_epochs=10.0))
    config.warm_start = dict(
        checkpoint=config_dict.placeholder(str),
        trees={
            "params/encoder": "params/encoder",
            "batch_stats/encoder": "batch_stats/encoder",
        },
        required=True,
    )
    if name in NETWORKS:
        net = NETWORKS[name]
        config.encoder = dict(name="resnet", depth=net.depth, width=net.width)
        config.encoder.update(sk_ratio=net.sk_ratio, dtype="bfloat16", remat=net.remat)
        config.parallel.update(preset=net.preset)
    else:
        config.run.update(epochs=60, log_every=10)
        config.data.update(name="tfds/cifar10", test_split="test", batch_size=100, canvas=32)
        config.data.update(fraction=float(fraction))
        config.augment.update(size=32)
        config.encoder = dict(name="resnet", depth=18, width=0.25, stem="imagenet", remat="none")
        config.evals = dict(classifier=dict(every_epochs=20.0))
    if name == "digits":  # which must not be mirrored; 1 % of the labels are 40
        config.data.update(name="digits", batch_size=20 if fraction == "0.01" else 100, canvas=28)
        config.augment = dict(name="finetune", size=28, min_area=0.35, flip=False)
    if name == "folder":
        config.data.update(dict(name="folder", labels_from_folders=True))
        config.data.update({key: config_dict.placeholder(int) for key in ("batch_size", "canvas")})
        config.augment = dict(name="finetune", size=config_dict.placeholder(int))
        config.encoder = dict(name=config_dict.placeholder(str))  # as the checkpoint has it
    return config
