"""SigLIP: of each image and each caption of the batch, whether they belong together.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343. Top-1 of zero-shot classification on ImageNet;
neither was run here:

  variant  image tower  batch   data                                   published
  b16      ViT-B/16     32,768  WebLI, not released: 40 G pairs seen     76.0 %
  digits   R18             128  built-in: minutes on two cores

The number is what open_clip measures with the released weights (docs/openclip_results.csv there);
batch, rate, decay and betas are recalled from the paper. Its image tower has no projection after
the pooling, here both have one. Give your own pairs as --config.data.name and --config.data.path.

  python -m simclr_jax train --config=configs/siglip.py:digits --workdir=runs/siglip
  python -m simclr_jax evaluate --workdir=runs/siglip --protocol=zero_shot
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("b16", "digits")


def get_config(variant: str = "b16") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=1, checkpoint_every=2000)
    config.data = dict(
        name="webdataset",
        split="all",
        batch_size=32768,
        canvas=8192,
        captions=dict(context=64, vocab_size=32000),
    )
    config.augment = dict(name="finetune", size=224, min_area=0.9)
    config.encoder = dict(name="vit", size="b", patch=16, learned_positions=224, pool="probe")
    config.encoder.update(dtype="bfloat16")
    projector = dict(num_layers=1, output_dim=768, last_norm="none", kernel_init="lecun")
    text = dict(width=768, depth=12, num_heads=12, causal=False, dtype="bfloat16")
    config.method = dict(name="siglip", scale=10.0, bias=-10.0)
    config.optim = dict(name="adamw", weight_decay=1e-4, b2=0.95)
    config.schedule = dict(base_lr=1e-3, scaling="none", warmup_epochs=0.05)
    if variant == "digits":
        for name, section in shared.captioned_digits().items():
            config[name] = section
        projector.update(output_dim=64)
        text = dict(width=64, depth=2, num_heads=2, causal=False)
        config.method = dict(name="siglip", scale=10.0)
        config.optim.update(weight_decay=0.05)
    config.heads = dict(projector=projector, text=text, text_projector=projector)
    return config
