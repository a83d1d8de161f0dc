"""SavedModel: a batch of one size, weights as variables."""

import numpy as np
import pytest

from simclr_jax.interop import saved_model
from simclr_jax.interop.parity import photographs

pytestmark = pytest.mark.interop
tf = pytest.importorskip("tensorflow")


def test_the_program_takes_its_batch_and_is_run_batch_by_batch(trained_encoder, tmp_path):
    encoder = trained_encoder(stem="cifar")
    path = tmp_path / "encoder"
    usage = saved_model.write(encoder, path, batch=3)
    assert "[3, 20, 20, 3]" in usage
    images = photographs(20)
    want = encoder.encode(images)
    got = saved_model.read(path)(images)  # 8 images, in three calls
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * want.max())
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    out = serve(images=tf.constant(images[:3]))["representation"]
    np.testing.assert_allclose(out, want[:3], rtol=0, atol=1e-5 * want.max())
    size = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert size >= sum(x.nbytes for x in encoder.tensors().values())
