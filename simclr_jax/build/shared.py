"""Sections that several recipes share: published networks, and labelled images to train on."""

from typing import Any

from simclr_jax.models.published import IMAGENET, NETWORKS

LARGEST = "v2_r152_3x_sk"


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


def labelled_images(name: str, fraction: str, batch_size: int) -> dict[str, dict[str, Any]]:
    """Returns the sections "data" and "augment" for training with labels.

    Args:
      name: a published network for ImageNet; or "cifar10", "digits", or "folder" for class folders
        in DIR/train and DIR/test, whose sizes come from the images or from a checkpoint.
      fraction: share of the labels, "0.01", "0.1" or "1".
      batch_size: images in a step on ImageNet.
    """
    if name in NETWORKS:
        data = dict(name=IMAGENET[fraction], test_split="validation", batch_size=batch_size)
        augment = dict(size=224)
        data.update(canvas=8192)  # larger than any of its photographs: none is scaled before a cut
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
    return dict(data=dict(split="train", **data), augment=dict(name="finetune", **augment))
