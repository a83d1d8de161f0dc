"""SimCLR on 4,000 handwritten digits: the demo, a few minutes on two CPU cores.

The method of Chen et al. 2020, https://arxiv.org/abs/2002.05709, on a problem small enough
to watch. There is no published number. What this recipe reaches stands in README.md.

  python -m simclr_jax train --config=configs/simclr_digits.py --workdir=runs/digits
  python -m simclr_jax train --config=configs/simclr_digits.py:smoke --workdir=runs/smoke
  python -m simclr_jax train --config=configs/simclr_digits.py:vit --workdir=runs/vit
"""

from ml_collections import ConfigDict

VARIANTS = ("", "smoke", "vit")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the recipe; "smoke" takes one epoch instead of all, "vit" a small ViT."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; this recipe knows '', 'smoke' and 'vit'.")
    config = ConfigDict()
    config.run = dict(epochs=50, log_every=25, checkpoint_every=500)
    config.data = dict(name="digits", split="train", test_split="test", batch_size=128, canvas=28)
    # Digits are grey and must not be mirrored: crops, brightness and contrast are what is left.
    config.augment = dict(
        name="simclr", size=28, min_area=0.35, flip=False, color_strength=0.5, blur=False
    )
    config.encoder = dict(name="resnet", depth=18, width=0.25)
    config.heads = dict(projector=dict(num_layers=2, hidden_dim=128, output_dim=64))
    config.method = dict(name="simclr", temperature=0.3)
    config.optim = dict(name="adamw", weight_decay=1e-4)
    config.schedule = dict(base_lr=4e-3, scaling="none", warmup_epochs=3.0)
    config.evals = dict(knn=dict(every_epochs=10.0, k=200, temperature=0.1))
    if variant == "smoke":
        config.run.update(epochs=1, log_every=1)
        config.schedule.update(warmup_epochs=0.1)
    elif variant == "vit":
        config.encoder = dict(name="vit", size="tiny", patch=4)
        config.optim.update(weight_decay=0.05)
        config.schedule.update(base_lr=1e-3)
    return config
