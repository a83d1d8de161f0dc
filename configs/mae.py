"""MAE pretraining: a vision transformer reconstructs images from a quarter of their patches.

He et al. 2021, https://arxiv.org/abs/2111.06377. ViT-B/16, batch 4096, AdamW at 1.5e-4 * 4096 / 256
with betas 0.9 and 0.95 and decay 0.05, 40 epochs of warm-up, 800 epochs, random crops of at least a
fifth of the image and mirroring. Top-1 on ImageNet after fine-tuning (README of the released code):
83.6 % (ViT-B), 85.9 % (ViT-L); in linear evaluation 68.0 % (ViT-B, 1600 epochs, recalled). Not run
here. It shows in fine-tuning: nearest neighbours reach 11.2 % after 100 epochs (lightly).

  python -m simclr_jax train --config=configs/mae.py --workdir=gs://bucket/mae
  python -m simclr_jax train --config=configs/mae.py:digits --workdir=runs/mae
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("vit_b", "vit_l", "digits")


def get_config(variant: str = "vit_b") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=800, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=4096)
    config.augment = dict(name="finetune", size=224, min_area=0.2, crop_sampler="area")
    config.encoder = dict(name="vit", size="b", patch=16, dtype="bfloat16")
    if variant == "vit_l":
        config.encoder.update(size="l", remat="blocks")
    config.heads = dict()
    config.method = dict(name="mae", mask_ratio=0.75, normalize_pixels=True)
    config.method.update(decoder_width=512, decoder_depth=8, decoder_heads=16)
    config.optim = dict(name="adamw", weight_decay=0.05, b1=0.9, b2=0.95)
    config.schedule = dict(base_lr=1.5e-4, scaling="linear", warmup_epochs=40.0)
    config.evals = dict(knn=dict(every_epochs=50.0))
    if variant == "digits":  # which must not be mirrored
        config.run.update(epochs=50, log_every=25, checkpoint_every=500)
        config.data.update(name="digits", test_split="test", batch_size=128, canvas=28)
        config.augment = dict(name="finetune", size=28, min_area=0.5, flip=False)
        config.encoder = dict(name="vit", size="tiny", patch=4)
        config.method.update(decoder_width=64, decoder_depth=2, decoder_heads=2)
        config.schedule = dict(base_lr=1e-3, scaling="none", warmup_epochs=3.0)
        config.evals = dict(knn=dict(every_epochs=10.0))
    return config
