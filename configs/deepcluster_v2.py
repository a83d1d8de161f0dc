"""DeepCluster v2 pretraining: clusters of all images, found anew in each epoch.

Caron et al. 2020, https://arxiv.org/abs/2006.09882, Appendix. A ResNet-50 with views of 2 x 160 and
4 x 96 px, batch 4096, 400 epochs, three clusterings of 3000: 74.3 % top-1 in linear evaluation,
README of the released code, where 800 epochs with more views have 75.2 %. Not run here.

One pass without updates fills the bank: the first epoch of a run, which the epochs here count. LARC
stands in the released code, and LARS with all parameters here: its trust ratio is of the sum of
gradient and decay. Its rate begins at 0.3 and ends at a thousandth of the peak; here both are 0.

  python -m simclr_jax train --config=configs/deepcluster_v2.py --workdir=gs://bucket/deepcluster
  python -m simclr_jax train --config=configs/deepcluster_v2.py:digits --workdir=runs/deepcluster
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=401, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=4096)
    config.augment = dict(
        name="multi_crop", size=160, local_size=96, num_local=4, min_area=0.08, dtype="bfloat16"
    )
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
    config.method = dict(name="deepcluster_v2", num_clusters=3000, num_clusterings=3)
    config.optim = dict(name="lars", weight_decay=1e-6, rate_in_momentum=False, adapt_all=True)
    config.schedule = dict(base_lr=0.3, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "digits":
        shared.make_small(
            config,
            variant,
            views="multi_crop",
            base_lr=2e-3,
            jitter=(0.4, 0.4, 0.2, 0.1),
            blur=(0.0, 0.0),
            **shared.SMALL_MULTI_CROP,
        )
        projector.update(hidden_dim=128, output_dim=64)
        config.method.update(num_clusters=30)
    config.heads = dict(projector=projector)
    return config
