"""CPC v2: an encoder of patches, by which rows of them tell the next ones.

van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; Henaff et al. 2019,
https://arxiv.org/abs/1905.09272. Linear top-1 on ImageNet: v2 63.8 % with a ResNet-50 and 71.5 %
with a ResNet-161, v1 48.7 % with a ResNet-101. All of this is recalled from the papers, of which
there is no released code; not run here.

r50 has v2's patches of 80 px every 32 px in views of 260 px, and LayerNorm. The optimizer is ours:
AdamW at 2e-4 for a batch of 512. Of v2's augmentations of patches it has dropped colours alone.

  python -m simclr_jax train --config=configs/cpc.py --workdir=gs://bucket/cpc
  python -m simclr_jax train --config=configs/cpc.py:digits --workdir=runs/cpc
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=200, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=512)
    config.augment = dict(name="finetune", size=260, min_area=0.3)
    config.encoder = dict(name="resnet", depth=50, norm="layer", remat="blocks", dtype="bfloat16")
    config.heads = dict()
    config.method = dict(name="cpc", patch=80, stride=32, drop_colours=0.8)
    config.method.update(first_distance=2, num_distances=3, context_width=256, context_layers=5)
    config.optim = dict(name="adamw", weight_decay=1e-5)
    config.schedule = dict(base_lr=2e-4, scaling="none", warmup_epochs=5.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    if variant == "digits":
        shared.make_small(config, variant, views="finetune", base_lr=1e-3, min_area=0.5)
        config.encoder = dict(name="resnet", depth=18, width=0.25, stem="cifar", norm="layer")
        # 9 patches a view, and few epochs: each patch costs a pass of the encoder.
        config.run.update(epochs=15)
        config.method.update(patch=12, stride=8, num_distances=1)
        config.method.update(context_width=64, context_layers=3, drop_colours=0.0)
    return config
