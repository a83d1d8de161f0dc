"""SimCLR and SimCLRv2 pretraining: NT-Xent on two augmented views of each image.

Chen et al. 2020, https://arxiv.org/abs/2002.05709 (v1: 2-layer projector)
Chen et al. 2020, https://arxiv.org/abs/2006.10029 (v2: 3-layer projector, SK-ResNet)
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Labels, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.contrastive import contrastive_metrics, nt_xent
from simclr_jax.methods.base import Method, StepOutput, Variables


def simclr(
    model: nn.Module, augment: Callable[[PRNGKey, Batch], Views], *, temperature: float = 0.1
) -> Method:
    """Returns SimCLR for `model`.

    Args:
      model: its output has an entry "projection" of shape [n, d].
      augment: (key, batch) -> two views of each image.
      temperature: of NT-Xent, > 0.

    Raises:
      ValueError: if the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; it must be > 0. The papers use 0.1 to 0.5.")

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = model.init(key, views[:, 0], train=False)
        return Variables(variables["params"], variables["batch_stats"])

    def loss(
        params: Params, state: TrainState, views: Views, labels: Labels, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del labels, key
        b, v = views.shape[:2]
        rows = views.reshape(b * v, *views.shape[2:])  # batch-major: no communication
        out, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            rows,
            train=True,
            mutable=["batch_stats"],
        )
        z = out["projection"].reshape(b, v, -1)
        value = nt_xent(z, temperature=temperature)
        metrics = {
            "loss": value,
            "loss_chance": jnp.log(2.0 * b - 1.0),  # all similarities equal: nothing learned
            **contrastive_metrics(z, temperature=temperature),
        }
        return value, StepOutput(updated["batch_stats"], metrics)

    return Method(init, augment, loss)
