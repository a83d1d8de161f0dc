"""SimCLR on a folder of your own images, without labels.

Chen et al. 2020, https://arxiv.org/abs/2002.05709. The temperature and the rate are those that
the authors advise for small batches (google-research/simclr, issue 166), and so is the gradient
(gradient_scale=2, see configs/simclr_imagenet.py). There is no published number: what to expect
depends on the images. View size, canvas and batch size come from the images, unless they are set.

  python -m simclr_jax train --config=configs/simclr_folder.py --config.data.path=DIR --workdir=D
  python -m simclr_jax train --config=configs/simclr_folder.py:laptop --config.data.path=DIR ...

Images in class subfolders, split into DIR/train and DIR/test, can also be judged:
--config.data.labels_from_folders --config.data.split=train --config.data.test_split=test
"""

from ml_collections import ConfigDict

VARIANTS = ("", "laptop")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the recipe; variant "laptop" has small views and few epochs."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; this recipe knows '' and 'laptop'.")
    config = ConfigDict()
    config.run = dict(epochs=200, log_every=20, checkpoint_every=500)
    config.data = dict(name="folder", split="all")
    config.augment = dict(name="simclr", color_strength=1.0)
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    config.heads = dict(projector=dict(num_layers=3, output_dim=128))
    config.method = dict(name="simclr", temperature=0.2, gradient_scale=2.0)
    config.optim = dict(name="lars", weight_decay=1e-4)
    config.schedule = dict(base_lr=0.075, scaling="sqrt", warmup_epochs=10.0)
    if variant == "laptop":
        config.run.update(epochs=20, log_every=5)
        # A first look at what is there.
        config.update(data=dict(canvas=256, max_unreadable=0.5), augment=dict(size=64))
        config.encoder = dict(name="resnet", depth=18, width=0.5)
        config.schedule.update(warmup_epochs=2.0)
    return config
