"""SimCLR and SimCLRv2 pretraining on ImageNet, for TPU slices.

v1: Chen et al. 2020, https://arxiv.org/abs/2002.05709. Batch 4096, 1000 epochs, LARS, 2-layer
projector. v2: Chen et al. 2020, https://arxiv.org/abs/2006.10029. Batch 4096, 800 epochs,
3-layer projector, ResNet-D stem and selective kernels in the _sk networks. The published v2
networks also trained with a momentum memory, which the official code lacks: ",memory" adds it,
see methods/momentum_memory.py. Without it, its author reports 71.1 instead of 71.7 for v2_r50_1x.

Rates and weight decays are the official code's, which minimises the sum of the losses of an
image's two views. method.gradient_scale=2 takes its gradient, with the memory, too; the loss
that is logged is the papers' mean over views.

Published are the accuracies of what comes after: of configs/linear_probe.py on the frozen
encoder, 69.1 to 76.6 % with v1 and 71.7 to 79.8 % with v2, and of configs/finetune.py. They
stand in docs/recipes.md network by network, by `launch/results_table.py`.

  python -m simclr_jax train --config=configs/simclr_imagenet.py:v1_r50_1x --workdir=gs://...
  python -m simclr_jax train --config=configs/simclr_imagenet.py:v2_r50_1x,memory --workdir=gs://...
  python -m simclr_jax train --config=configs/simclr_imagenet.py:smoke --workdir=runs/smoke
"""

from typing import Any

from ml_collections import ConfigDict

from simclr_jax.build import shared
from simclr_jax.models.published import NETWORKS, split_variant

VARIANTS = {name: ("memory",) if name.startswith("v2") else () for name in NETWORKS}
VARIANTS["smoke"] = ()


def get_config(variant: str = "v1_r50_1x") -> ConfigDict:
    """Returns the recipe for a published network, or a small one to see it run.

    Args:
      variant: one of `NETWORKS`, "NETWORK,memory" for those of v2; or "smoke", v1 on the built-in
        digits, a minute on a laptop.
    """
    name, options = split_variant(variant, VARIANTS)
    v2 = name.startswith("v2")
    config: Any = ConfigDict(shared.network("v1_r50_1x" if name == "smoke" else name))
    config.run = dict(epochs=800 if v2 else 1000, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=4096)
    config.augment = dict(name="simclr", size=224, color_strength=1.0, dtype="bfloat16")
    config.heads = dict(projector=dict(num_layers=3 if v2 else 2, output_dim=128))
    memory = dict(memory=dict(size=65536, ema=0.999)) if "memory" in options else {}
    config.method = dict(name="simclr", temperature=0.1, gradient_scale=2.0, **memory)
    config.optim = dict(name="lars", weight_decay=1e-4 if v2 else 1e-6, momentum=0.9)
    if v2:  # peak 0.1 * sqrt(4096) = 6.4; warm-up over 5 % of the run
        config.schedule = dict(base_lr=0.1, scaling="sqrt", warmup_epochs=40.0)
    else:  # peak 0.3 * 4096 / 256 = 4.8
        config.schedule = dict(base_lr=0.3, scaling="linear", warmup_epochs=10.0)
    config.evals = dict(knn=dict(every_epochs=10.0, k=200, temperature=0.07, max_train=50_000))
    if variant == "smoke":
        config.run.update(epochs=1, log_every=1)
        config.data.update(name="digits", test_split="test", batch_size=16, canvas=28)
        config.augment.update(size=32, dtype="float32")
        config.encoder.update(width=0.125, dtype="float32")
        config.schedule.update(warmup_epochs=0.1)
        config.evals = dict()
    return config
