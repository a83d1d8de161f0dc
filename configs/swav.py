"""SwAV pretraining: prototypes, codes by Sinkhorn, and multi-crop.

Caron et al. 2020, https://arxiv.org/abs/2006.09882. A ResNet-50 with views of 2 x 224 and 6 x 96
px, top-1 in linear evaluation, README of the released code; neither was run here:

  variant  batch  epochs  rate                     queue                   published
  r50       4096     800  0.3 at 256, warmed up    none                       75.3 %
  r50_256    256     400  0.6, without a warm-up   3840 from epoch 15 on      74.3 %
  digits     128      50  none of these: minutes on two cores

Variant cifar10_small is like digits, with 12 epochs of CIFAR-10.

LARC stands in the released code, and LARS with all parameters here: its trust ratio is of the sum
of gradient and decay. Its rate begins at 0.3 and ends at a thousandth of the peak; here both are 0.

  python -m simclr_jax train --config=configs/swav.py --workdir=gs://bucket/swav
  python -m simclr_jax train --config=configs/swav.py:digits --workdir=runs/swav
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "r50_256", "digits", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=800, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=4096)
    config.augment = dict(name="multi_crop", size=224, local_size=96, num_local=6, dtype="bfloat16")
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    projector = dict(
        num_layers=2,
        hidden_dim=2048,
        output_dim=128,
        hidden_bias=True,
        last_bias=True,
        last_norm="none",
        kernel_init="torch",
    )
    config.heads = dict(projector=projector, prototypes=dict(num_prototypes=3000))
    config.method = dict(name="swav", temperature=0.1, epsilon=0.05, freeze_epochs=1.0)
    config.optim = dict(name="lars", weight_decay=1e-6, rate_in_momentum=False, adapt_all=True)
    config.schedule = dict(base_lr=0.3, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "r50_256":
        config.run.update(epochs=400)
        config.data.update(batch_size=256)
        config.method.update(queue_size=3840, queue_start_epoch=15.0)
        config.schedule = dict(base_lr=0.6, scaling="none", warmup_epochs=0.0)
    if variant in shared.SMALL:
        shared.make_small(
            config,
            variant,
            views="multi_crop",
            base_lr=2e-3,
            color_strength=0.5,
            blur=(0.0, 0.0),
            local_blur=0.0,
            **shared.SMALL_MULTI_CROP,
        )
        config.heads["projector"].update(hidden_dim=128, output_dim=64)
        config.heads["prototypes"].update(num_prototypes=30 if variant == "digits" else 100)
        config.method.update(epsilon=0.03)
    return config
