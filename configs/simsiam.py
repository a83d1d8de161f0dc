"""SimSiam pretraining: no negatives and no momentum, only a predictor and a stopped gradient.

Chen and He 2020, https://arxiv.org/abs/2011.10566. ResNet-50, batch 512, 100 epochs, SGD with decay
1e-4 of everything at 0.05 * 512 / 256 = 0.1, no warm-up: 68.1 % top-1 in linear evaluation (README
of the released code). Not run here. There the predictor's rate is constant, and here it falls with
the others. The released loss is half of ours less 1, which half of the gradient stands for; the
bias of the last projector layer, which its BatchNorm takes out again, is left out.

  python -m simclr_jax train --config=configs/simsiam.py --workdir=gs://bucket/simsiam
  python -m simclr_jax train --config=configs/simsiam.py:digits --workdir=runs/simsiam
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("r50", "digits")


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
    config.optim = dict(name="sgd", weight_decay=1e-4, nesterov=False, decay_norms=True)
    config.schedule = dict(base_lr=0.05, scaling="linear", warmup_epochs=0.0)
    config.evals = dict(knn=dict(every_epochs=10.0))
    config.heads = dict(projector=projector, predictor=predictor)
    if variant == "digits":  # which are grey and must not be mirrored
        config.run.update(epochs=50, log_every=25, checkpoint_every=500)
        config.data.update(name="digits", test_split="test", batch_size=128, canvas=28)
        config.augment = dict(name="simclr_cifar", size=28, min_area=0.35, flip=False)
        config.encoder = dict(name="resnet", depth=18, width=0.25)
        config.heads["projector"].update(num_layers=2, hidden_dim=128, output_dim=128)
        config.heads["predictor"].update(hidden_dim=32, output_dim=128)
        config.method.update(gradient_scale=1.0)
        config.optim = dict(name="adamw", weight_decay=1e-4)
        config.schedule = dict(base_lr=2e-3, scaling="none", warmup_epochs=3.0)
        config.evals = dict(knn=dict(every_epochs=10.0))
    return config
