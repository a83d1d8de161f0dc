"""SupCon pretraining: all images of a class are positives.

Khosla et al. 2020, https://arxiv.org/abs/2004.11362

  variant  network    data      batch  epochs  published top-1                       here
  cifar10  ResNet-50  CIFAR-10   1024    1000  96.0 % (released code's README)       not run
  r50      ResNet-50  ImageNet   6144     700  78.7 % (paper, recalled)              not run
  digits   ResNet-18  digits      128      50  none: minutes on two cores

Variant cifar10_small is like digits, with 12 epochs of CIFAR-10.

cifar10 is the released recipe: SGD at 0.5 with decay 1e-4 of everything, 10 epochs of warm-up, and
a loss that is 0.1 / 0.07 of ours. There the rate begins at 0.01 and ends at a thousandth of the
peak; here both are 0. Of the ImageNet run the paper's batch, epochs and temperature are recalled;
it used AutoAugment and we SimCLR's views, and rate, decay and the gradient's factor of 2 are
SimCLR's.

  python -m simclr_jax train --config=configs/supcon.py:digits --workdir=runs/supcon
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("cifar10", "r50", "digits", "cifar10_small")


def get_config(variant: str = "cifar10") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=1000)
    config.data = dict(
        name="tfds/cifar10",
        split="train",
        test_split="test",
        batch_size=1024,
        canvas=32,
    )
    config.augment = dict(name="simclr_cifar", size=32, min_area=0.2, crop_sampler="area")
    config.encoder = dict(name="resnet", depth=50, stem="cifar")
    head = dict(
        num_layers=2,
        output_dim=128,
        hidden_bias=True,
        hidden_norm=False,
        last_bias=True,
        last_norm="none",
        kernel_init="torch",
    )
    config.heads = dict(projector=head)
    config.method = dict(name="supcon", temperature=0.1, gradient_scale=0.1 / 0.07)
    config.optim = dict(name="sgd", weight_decay=1e-4, nesterov=False, decay_norms=True)
    config.schedule = dict(base_lr=0.5, scaling="none", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=50.0))
    if variant == "r50":
        config.run.update(epochs=700, checkpoint_every=2000)
        config.data = shared.imagenet(batch_size=6144)
        config.augment = dict(name="simclr", size=224, dtype="bfloat16")
        config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
        config.method = dict(name="supcon", temperature=0.1, gradient_scale=2.0)
        config.optim = dict(name="lars", weight_decay=1e-6)
        config.schedule = dict(base_lr=0.3, scaling="linear", warmup_epochs=10.0)
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="simclr_cifar", base_lr=4e-3)
        config.heads = dict(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
        config.method = dict(name="supcon", temperature=0.3)
    return config
