"""CLIP: images and captions, contrasted with all other pairs of the batch.

Radford et al. 2021, https://arxiv.org/abs/2103.00020. Top-1 of zero-shot classification on
ImageNet; none was run here:

  variant   image tower  batch   epochs  data                          published
  vit_b16   ViT-B/16     32,768      32  400 M pairs, not released     68.6 %, recalled
  digits    R18             128      20  built-in: minutes on two cores
  openmoji  R18             256      20  drawings of the extra text

open_clip measures 68.3 % with the released weights of vit_b16 (docs/openclip_results.csv there).
The paper crops a random square and does nothing else; here it is a crop of at least nine tenths of
the area. Give your own pairs as --config.data.name and --config.data.path.

  python -m simclr_jax train --config=configs/clip.py:digits --workdir=runs/clip
  python -m simclr_jax evaluate --workdir=runs/clip --protocol=zero_shot
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("vit_b16", "digits", "openmoji")


def get_config(variant: str = "vit_b16") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=32, checkpoint_every=2000)
    config.data = dict(
        name="webdataset", split="all", batch_size=32768, canvas=8192, captions=dict()
    )
    config.augment = dict(name="finetune", size=224, min_area=0.9, flip=False)
    config.encoder = dict(name="vit", size="b", patch=16, pre_norm=True, learned_positions=224)
    config.encoder.update(dtype="bfloat16")
    projector = dict(num_layers=1, output_dim=512, last_norm="none", kernel_init="lecun")
    text = dict(width=512, depth=12, num_heads=8, dtype="bfloat16")
    config.method = dict(name="clip", temperature=0.07)
    config.optim = dict(name="adamw", weight_decay=0.2, b2=0.98)
    config.schedule = dict(base_lr=5e-4, scaling="none", warmup_epochs=0.16)
    if variant == "digits":
        for name, section in shared.captioned_digits().items():
            config[name] = section
        projector.update(output_dim=64)
        text = dict(width=64, depth=2, num_heads=2)
        config.optim.update(weight_decay=0.05)
    if variant == "openmoji":  # whose names tell left from right
        config.run.update(epochs=20, log_every=10, checkpoint_every=200)
        config.data = dict(
            name="openmoji",
            split="train",
            test_split="test",
            batch_size=256,
            canvas=72,
            captions=dict(context=20, vocab_size=2000),
        )
        config.augment = dict(name="finetune", size=64, min_area=0.3, flip=False)
        config.encoder = dict(name="resnet", depth=18, width=0.25)
        projector.update(output_dim=128)
        text = dict(width=128, depth=2, num_heads=4, dropout=0.2)
        config.schedule = dict(base_lr=2e-3, scaling="none", warmup_epochs=2.0)
    config.heads = dict(projector=projector, text=text, text_projector=projector)
    return config
