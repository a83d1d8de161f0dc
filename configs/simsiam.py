"""SimSiam pretraining: no negatives and no momentum, only a predictor and a stopped gradient.

Chen and He 2020, https://arxiv.org/abs/2011.10566. ResNet-50, batch 512, 100 epochs, SGD with decay
1e-4 of everything at 0.05 * 512 / 256 = 0.1, no warm-up: 68.1 % top-1 in linear evaluation (README
of the released code). Not run here. The rate of the predictor stays at 0.1; the other falls once an
epoch in the released code, and here in every step. The released loss is half of ours less 1, which
half of the gradient stands for; the bias of the last projector layer, which its BatchNorm takes out
again, is left out.

  python -m simclr_jax train --config=configs/simsiam.py --workdir=gs://bucket/simsiam
  python -m simclr_jax train --config=configs/simsiam.py:digits --workdir=runs/simsiam
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits", "cifar10_small")


def get_config(variant: str = "r50") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=100, checkpoint_every=2000)
    config.data = shared.imagenet(batch_size=512)
    config.augment = dict(
        name="simclr",
        size=224,
        color_strength=0.5,
        min_area=0.2,
        crop_sampler="area",
        dtype="bfloat16",
    )
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    projector = dict(
        num_layers=3, hidden_dim=2048, output_dim=2048, last_norm="no_affine", kernel_init="torch"
    )
    predictor = dict(
        num_layers=2,
        hidden_dim=512,
        output_dim=2048,
        last_bias=True,
        last_norm="none",
        kernel_init="torch",
    )
    config.method = dict(name="simsiam", gradient_scale=0.5)
    config.optim = dict(
        name="sgd",
        weight_decay=1e-4,
        nesterov=False,
        decay_norms=True,
        rates=(("predictor/.*", "constant"),),
    )
    config.schedule = dict(base_lr=0.05, scaling="linear", warmup_epochs=0.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    config.heads = dict(projector=projector, predictor=predictor)
    if variant in shared.SMALL:
        shared.make_small(config, variant, views="simclr_cifar", base_lr=0.2)
        config.optim = dict(name="sgd", weight_decay=5e-4)
        config.heads["projector"].update(num_layers=2, hidden_dim=128, output_dim=128)
        config.heads["predictor"].update(hidden_dim=32, output_dim=128)
        config.method.update(gradient_scale=1.0)
    return config
