"""Distillation: a student learns a fine-tuned teacher's predictions on all images, unlabelled.

Chen et al. 2020, https://arxiv.org/abs/2006.10029, Sections 2 and 3.1, recalled and not verified
but for the augmentation (github.com/google-research/simclr, issue 81): 400 epochs, and batch,
LARS, rate and weight decay of the pretraining, 0.1 * sqrt(4096) = 6.4, 5 % warm-up; random crop
and mirror; no label. The student has no projector. The temperature is 1, and 0.1 for a student
of the teacher's own architecture ("self"). The loss, a mean over images times the temperature's
square, and LARS on all kernels, the classifier's too, are those of the official notebook.

The published networks come from v2_r152_3x_sk, fine-tuned with 1 % or 10 % of the labels: first
it is its own student, then that student teaches the smaller ones. Published numbers and those
measured here: README.md, from `launch/results_table.py`.

  python -m simclr_jax train --config=configs/distill.py:v2_r152_3x_sk,self,fraction=0.01 \
      --config.method.teacher=FINETUNED --workdir=gs://bucket/self
  python -m simclr_jax train --config=configs/distill.py:v2_r50_1x,fraction=0.01 \
      --config.method.teacher=gs://bucket/self --workdir=gs://...
  python -m simclr_jax train --config=configs/distill.py:cifar10,fraction=0.01 \
      --config.method.teacher=runs/cifar10_finetuned --workdir=runs/cifar10_student
  python -m simclr_jax train --config=configs/distill.py:folder --config.data.path=DIR \
      --config.method.teacher=runs/mine_finetuned --workdir=runs/mine_student
"""

from ml_collections import ConfigDict, config_dict

from simclr_jax.models.published import NETWORKS, split_variant

OPTIONS = ("fraction=0.01", "fraction=0.1")
VARIANTS = {
    **dict.fromkeys((name for name in NETWORKS if name.startswith("v2")), ("self", *OPTIONS)),
    "cifar10": OPTIONS,
    "digits": OPTIONS,
    "folder": (*OPTIONS, "laptop"),
}
PUBLISHED = {
    f"{name}{',self' if name == 'v2_r152_3x_sk' else ''},{option}": top1
    for name, network in NETWORKS.items()
    for option, top1 in zip(OPTIONS, network.distilled, strict=False)
}
MEASURED: dict[str, float] = {}  # variant -> top-1 in %


def get_config(variant: str = "v2_r50_1x,fraction=0.01") -> ConfigDict:
    """Returns the recipe for a student on ImageNet, on a small data set or on one's own images.

    Args:
      variant: "NETWORK[,self][,fraction=0.01|0.1]". NETWORK is the student, a v2 network, or
        "cifar10" or "digits" for one of half the width of what configs/finetune.py trains, or
        "folder" for a ResNet-18 that learns from all images in DIR/train, ",laptop" for one of a
        quarter of its width.
        fraction is the share of the labels that the teacher has seen. The student uses none, so
        it only says which published number to compare with; on the small data sets the other
        labels are hidden, too.
    """
    name, options = split_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(seed=0, epochs=400, log_every=50, checkpoint_every=2000)
    config.data = dict(
        name="tfds/imagenet2012",
        split="train",
        test_split="validation",
        path=config_dict.placeholder(str),
        labels_from_folders=False,
        batch_size=4096,
        canvas=8192,  # larger than any of its photographs: none is scaled before it is cut
        fraction=1.0,
        keep_unlabelled=False,
    )
    config.augment = dict(name="finetune", size=224)
    classifier = dict(num_classes=config_dict.placeholder(int), zero_init=False)
    config.heads = dict(classifier=classifier, select=0)
    config.method = dict(
        name="distill",
        teacher=config_dict.placeholder(str),
        temperature=0.1 if "self" in options else 1.0,
        alpha=1.0,
        grad_cache_chunks=1,
    )
    config.optim = dict(name="lars", weight_decay=1e-4, momentum=0.9, adapt_classifier=True)
    config.schedule = dict(base_lr=0.1, scaling="sqrt", warmup_epochs=20.0)
    config.parallel = dict(preset="replicated", fsdp=8)
    config.evals = dict(classifier=dict(every_epochs=20.0))
    if name in NETWORKS:
        net = NETWORKS[name]
        config.encoder = dict(name="resnet", depth=net.depth, width=net.width)
        config.encoder.update(sk_ratio=net.sk_ratio, dtype="bfloat16", remat=net.remat)
        config.parallel.update(preset=net.preset)
    else:
        config.run.update(epochs=24, log_every=25)
        config.data.update(name="tfds/cifar10", test_split="test", batch_size=128, canvas=32)
        config.data.update(fraction=float(options.get("fraction", "1")), keep_unlabelled=True)
        config.augment = dict(name="finetune", size=32, min_area=0.3)
        config.encoder = dict(name="resnet", depth=18, width=0.125, stem="imagenet", remat="none")
        config.optim = dict(name="adamw", weight_decay=1e-4)
        config.schedule = dict(base_lr=2e-3, scaling="none", warmup_epochs=0.5)
        config.evals = dict(classifier=dict(every_epochs=4.0))
    if name == "digits":  # which must not be mirrored
        config.data.update(name="digits", canvas=28)
        config.augment = dict(name="finetune", size=28, min_area=0.35, flip=False)
    if name == "folder":
        config.data.update(dict(name="folder", labels_from_folders=True))
        config.data.update({key: config_dict.placeholder(int) for key in ("batch_size", "canvas")})
        size = config_dict.placeholder(int)  # as the teacher has it
        config.augment = dict(name="finetune", size=size, min_area=0.3)
        config.encoder.update(width=0.25 if "laptop" in options else 1.0)
    return config
