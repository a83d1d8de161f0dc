"""BYOL: its target's rate and update are the official ones; the predictor has no target."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.run_facts import RunFacts
from simclr_jax.methods.byol import byol
from simclr_jax.methods.memory import cosine_ema
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel

GOLDEN = Path(__file__).parents[2] / "golden/family/byol.npz"
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=0, batch_size=16)


@pytest.mark.parametrize("base", [0.99, 0.996])
def test_the_targets_rate_is_that_of_the_official_code(base):
    with np.load(GOLDEN) as file:
        ema = cosine_ema(base, int(file["ema_schedule/max_steps"]))
        got = ema(jnp.asarray(file["ema_schedule/step"], jnp.float32))
        np.testing.assert_allclose(got, file[f"ema_schedule/base{base}"], atol=1e-6)


def test_a_network_without_a_predictor_is_refused(tiny_encoder):
    with pytest.raises(ValueError, match="needs heads with a projector and a predictor"):
        byol(SSLModel(tiny_encoder, MLP()), lambda key, batch: batch["image"], FACTS)
