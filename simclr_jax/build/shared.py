"""What several recipes share: published networks, ImageNet, small images, labels, captions."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.models.published import IMAGENET, NETWORKS

LARGEST = "v2_r152_3x_sk"
# Settings of variants for minutes on two cores. Digits are grey and must not be mirrored.
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "digits": dict(
        run=dict(epochs=50, log_every=25, checkpoint_every=500),
        data=dict(name="digits", canvas=28),
        augment=dict(size=28, min_area=0.35, flip=False),
        schedule=dict(warmup_epochs=3.0),
        knn=dict(every_epochs=10.0),
    ),
    "cifar10_small": dict(
        run=dict(epochs=12, checkpoint_every=2000),
        data=dict(name="tfds/cifar10", canvas=32),
        augment=dict(size=32),
        schedule=dict(warmup_epochs=1.0),
        knn=dict(every_epochs=6.0, max_train=10_000),
    ),
}
SMALL_MULTI_CROP = dict(local_size=20, num_local=4, local_min_area=0.15, local_max_area=0.35)


def network(name: str) -> dict[str, dict[str, Any]]:
    """Returns the section "encoder" of a published network, and "parallel" if it must be spread.

    Args:
      name: one of `published.NETWORKS`.
    """
    net = NETWORKS[name]
    encoder = dict(name="resnet", depth=net.depth, width=net.width, sk_ratio=net.sk_ratio)
    encoder.update(dtype="bfloat16")
    if name != LARGEST:
        return dict(encoder=encoder)
    # So 256 TPU chips of 16 GB pretrain it with a batch of 4096.
    return dict(encoder=encoder | dict(remat="blocks"), parallel=dict(preset="fsdp"))


def check_variant(variant: str, known: Sequence[str]) -> None:
    """Checks that a recipe has a variant.

    Raises:
      ValueError: if it has not; with those that it has.
    """
    if variant not in known:
        raise ValueError(f"Unknown variant {variant!r}; this recipe knows {', '.join(known)}.")


def imagenet(batch_size: int) -> dict[str, Any]:
    """Returns the section "data" for pretraining on ImageNet, judged on its validation images.

    Args:
      batch_size: images in a step.
    """
    return dict(
        name="tfds/imagenet2012",
        split="train",
        test_split="validation",
        batch_size=batch_size,
        canvas=8192,  # larger than any of its photographs: none is scaled before it is cut
    )


def make_small(
    config: ConfigDict, variant: str, *, views: str, base_lr: float, **augment: Any
) -> None:
    """Makes a pretraining recipe small: sets all sections but heads and method.

    Args:
      config: the recipe, changed in place.
      variant: a key of `SMALL`.
      views: name of the augmentation.
      base_lr: rate of AdamW, or of what the recipe puts in its place.
      **augment: settings of the augmentation other than those of the variant.
    """
    small = SMALL[variant]
    config.run = small["run"]
    config.data = dict(small["data"], split="train", test_split="test", batch_size=128)
    config.augment = {"name": views, **small["augment"], **augment}
    config.encoder = dict(name="resnet", depth=18, width=0.25)
    config.optim = dict(name="adamw", weight_decay=1e-4)
    config.schedule = dict(base_lr=base_lr, scaling="none", **small["schedule"])
    config.evals = dict(knn=small["knn"])


def labelled_images(name: str, fraction: str, batch_size: int) -> dict[str, dict[str, Any]]:
    """Returns the sections "data" and "augment" for training with labels.

    Args:
      name: a published network for ImageNet; or "cifar10", "digits", or "folder" for class folders
        in DIR/train and DIR/test, whose sizes come from the images or from a checkpoint.
      fraction: share of the labels, "0.01", "0.1" or "1".
      batch_size: images in a step on ImageNet.
    """
    data: dict[str, Any]
    augment: dict[str, Any]
    if name in NETWORKS:
        data = imagenet(batch_size) | dict(name=IMAGENET[fraction])
        augment = dict(size=224)
    elif name == "folder":
        data = dict(name="folder", test_split="test", labels_from_folders=True)
        augment = {}
    elif name == "digits":  # which must not be mirrored; 1 % of the labels are 40
        data = dict(name="digits", test_split="test", canvas=28)
        data.update(batch_size=20 if fraction == "0.01" else 100)
        augment = dict(size=28, min_area=0.35, flip=False)
    else:
        data = dict(name="tfds/cifar10", test_split="test", batch_size=100, canvas=32)
        augment = dict(size=32)
    if name not in NETWORKS and fraction != "1":
        data.update(fraction=float(fraction))
    return dict(data=dict(data, split="train"), augment=dict(name="finetune", **augment))


def captioned_digits() -> dict[str, dict[str, Any]]:
    """Returns the sections that two towers train by on digits, which are grey and not mirrored.

    All but "heads", "method" and "optim": minutes on two cores.
    """
    return dict(
        run=dict(epochs=20, log_every=25, checkpoint_every=500),
        data=dict(
            name="digits",
            split="train",
            test_split="test",
            batch_size=128,
            canvas=28,
            captions=dict(context=12, vocab_size=400),
        ),
        augment=dict(name="finetune", size=28, min_area=0.6, flip=False),
        encoder=dict(name="resnet", depth=18, width=0.25),
        schedule=dict(base_lr=2e-3, scaling="none", warmup_epochs=1.0),
        evals=dict(knn=dict(every_epochs=10.0)),
    )
