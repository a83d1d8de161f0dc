"""SimCLR on CIFAR-10, without blur; with the CIFAR stem, but for the small variant.

Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix B.9, and the README of the official
code. Linear-probe top-1 on the test images:

  variant  network             batch  epochs  published                        here
  r18      ResNet-18            512    1000   about 91 % (official README)     not run
  r50      ResNet-50           1024    1000   94.0 % (paper, best of a sweep)  not run
  small    ResNet-18, 1/4 wide  128      18   none: made for two CPU cores     kNN 51.2 %

r18 and r50 have rates and decays of the official code, hence its gradient (gradient_scale=2, see
configs/simclr_imagenet.py). The weight decay of r50 is that of the paper's ImageNet runs, which
its Appendix B.9 refers to; recalled and not verified.

CIFAR-10 must be prepared as ArrayRecord; --config.data.path is the directory of TFDS data sets.

  python -m simclr_jax train --config=configs/simclr_cifar10.py:small --workdir=runs/cifar10
  python -m simclr_jax evaluate --workdir=runs/cifar10 --protocol=knn --fractions=1
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r18", "r50", "small")


def get_config(variant: str = "r18") -> ConfigDict:
    """Returns variant "r18", "r50" (published) or "small" (40 minutes on two CPU cores)."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=1000)
    config.data = dict(
        name="tfds/cifar10",
        split="train",
        test_split="test",
        batch_size=512,
        canvas=32,
    )
    config.augment = dict(name="simclr_cifar", size=32, color_strength=0.5)
    config.encoder = dict(name="resnet", depth=18, stem="cifar")
    config.heads = dict(projector=dict(num_layers=3, output_dim=128))
    config.method = dict(name="simclr", temperature=0.5, gradient_scale=2.0)
    config.optim = dict(name="lars", weight_decay=1e-4)
    # Peak 1.0 * 512 / 256 = 2.0.
    config.schedule = dict(base_lr=1.0, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=50.0, k=200, temperature=0.1))
    if variant == "r50":
        config.data.update(batch_size=1024)
        config.encoder.update(depth=50)
        config.heads.update(projector=dict(num_layers=2))
        config.optim.update(weight_decay=1e-6)
    if variant == "small":
        # The ImageNet stem shrinks the image by 4 at once: a tenth of the CIFAR stem's cost.
        config.run.update(epochs=18)
        config.data.update(batch_size=128)
        config.encoder = dict(name="resnet", depth=18, width=0.25)
        config.heads.update(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
        config.method.update(temperature=0.3, gradient_scale=1.0)
        config.optim = dict(name="adamw", weight_decay=1e-4)
        config.schedule = dict(base_lr=4e-3, scaling="none", warmup_epochs=1.0)
        config.evals.update(knn=dict(every_epochs=3.0, k=200, max_train=10_000))
    return config
