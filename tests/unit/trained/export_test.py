"""Which projectors a tower can be exported with."""

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.models.heads import MLP
from simclr_jax.trained import export

KERNEL = np.ones((3, 2), np.float32)


def test_a_linear_projector_is_its_kernel():
    params = {"text_projector": {"dense1": {"kernel": KERNEL}}}
    found = export._linear(MLP(num_layers=1, last_norm="none"), params, "text_projector")
    np.testing.assert_array_equal(found, KERNEL)


@pytest.mark.parametrize(
    "projector",
    [
        None,
        MLP(num_layers=2, last_norm="none"),
        MLP(num_layers=1, last_norm="no_affine"),
        MLP(num_layers=1, last_norm="none", last_bias=True),
    ],
)
def test_another_projector_is_refused_with_what_works(projector):
    with pytest.raises(UserError, match=r"heads.projector .* no linear projector.*num_layers=1"):
        export._linear(projector, {"projector": {"dense1": {"kernel": KERNEL}}}, "projector")
