"""Distillation: a student learns a fine-tuned teacher's predictions on all images, unlabelled.

Chen et al. 2020, https://arxiv.org/abs/2006.10029, Sections 2 and 3.1, recalled and not verified
but for the augmentation (github.com/google-research/simclr, issue 81): 400 epochs, and batch,
LARS, rate and weight decay of the pretraining, 0.1 * sqrt(4096) = 6.4, 5 % warm-up; random crop
and mirror; no label. The student has no projector. The temperature is 1, and 0.1 for a student
of the teacher's own architecture ("self"). The loss, a mean over images times the temperature's
square, and LARS on all kernels, the classifier's too, are those of the official notebook.

The published networks come from v2_r152_3x_sk, fine-tuned with 1 % or 10 % of the labels: first
it is its own student, then that student teaches the smaller ones. Published numbers and those
measured here: docs/recipes.md, by `launch/results_table.py`.

  python -m simclr_jax train --config=configs/distill.py:v2_r152_3x_sk,self,fraction=0.01 \
      --config.method.teacher=FINETUNED --workdir=gs://bucket/self
  python -m simclr_jax train --config=configs/distill.py:v2_r50_1x,fraction=0.01 \
      --config.method.teacher=gs://bucket/self --workdir=gs://...
  python -m simclr_jax train --config=configs/distill.py:cifar10,fraction=0.01 \
      --config.method.teacher=runs/cifar10_finetuned --workdir=runs/cifar10_student
  python -m simclr_jax train --config=configs/distill.py:folder --config.data.path=DIR \
      --config.method.teacher=runs/mine_finetuned --workdir=runs/mine_student
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared
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
    # On ImageNet all images are there, none with a label; on the others most labels are hidden.
    fraction = "1" if name in NETWORKS else options.get("fraction", "1")
    config = ConfigDict(shared.labelled_images(name, fraction, batch_size=4096))
    config.run = dict(epochs=400, checkpoint_every=2000)
    config.heads = dict(classifier=dict(zero_init=False))
    config.method = dict(name="distill", temperature=0.1 if "self" in options else 1.0)
    config.optim = dict(name="lars", weight_decay=1e-4, momentum=0.9, adapt_classifier=True)
    config.schedule = dict(base_lr=0.1, scaling="sqrt", warmup_epochs=20.0)
    config.evals = dict(classifier=dict(every_epochs=20.0))
    if name in NETWORKS:
        config.update(shared.network(name))
    else:
        config.run.update(epochs=24, log_every=25)
        config.data.update(keep_unlabelled=True)
        config.encoder = dict(name="resnet", depth=18, width=0.125)
        config.optim = dict(name="adamw", weight_decay=1e-4)
        config.schedule = dict(base_lr=2e-3, scaling="none", warmup_epochs=0.5)
        config.evals = dict(classifier=dict(every_epochs=4.0))
    if name in ("cifar10", "digits"):
        config.data.update(batch_size=128)
    if name in ("cifar10", "folder"):
        config.augment.update(min_area=0.3)
    if name == "folder":
        config.encoder.update(width=0.25 if "laptop" in options else 1.0)
    return config
