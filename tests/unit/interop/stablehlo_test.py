"""StableHLO: any batch size, on three platforms."""

import jax
import numpy as np
import pytest

from simclr_jax.interop import stablehlo
from simclr_jax.interop.parity import photographs

pytest.importorskip("flatbuffers")


def test_the_program_takes_any_batch_and_knows_all_platforms(trained_encoder, tmp_path):
    encoder = trained_encoder(stem="cifar", dtype="bfloat16")
    path = tmp_path / "encoder.stablehlo"
    usage = stablehlo.write(encoder, path)
    assert "[n, 20, 20, 3]" in usage
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert exported.in_avals[0].dtype == np.float32
    images = photographs(20)
    want = encoder.encode(images)
    encode = stablehlo.read(path)
    for n in (1, 5):
        np.testing.assert_allclose(encode(images[:n]), want[:n], rtol=0, atol=1e-5 * want.max())
