"""Every test runs on 8 virtual CPU devices, and implicit rank promotion is an error."""

import contextlib
import gc
import resource
import signal
import tempfile
import threading
from typing import Any

import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir

from simclr_jax.core.tree import path_name
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.models.vit import ViT
from tests.tiny import TinyEncoder, tiny_is_known, tiny_settings

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# What several tests compile is compiled once. Not shared with other processes: JAX does not lock
# the files, and one that is half-written would be read with a warning.
COMPILED = tempfile.TemporaryDirectory(prefix="simclr_jax_")
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# JAX 0.10 makes an MLIR context for each program, a third of the cost of an operation outside of
# jit; later versions share one among ten. Two threads must not lower with the same.
_make_context, _contexts, CONTEXT_PROGRAMS = mlir.make_ir_context, threading.local(), 50


def _context_of_thread() -> Any:
    context, programs = getattr(_contexts, "value", (None, CONTEXT_PROGRAMS))
    if programs == CONTEXT_PROGRAMS:  # what it has interned grows
        context, programs = _make_context(), 0
    _contexts.value = context, programs + 1
    return context


mlir.make_ir_context = _context_of_thread


def pytest_collection_finish():
    """Spares the garbage collector what lives to the end, and most of its turns."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def tiny_encoder():
    return TinyEncoder()


@pytest.fixture
def trained_vit():
    """Returns a function that makes a tiny ViT in which no parameter is zero or one."""

    def make(image_size: int = 16, **settings) -> TrainedEncoder:
        network = ViT(**{"size": "tiny", "patch": 4} | settings)
        images = jax.numpy.zeros((1, image_size, image_size, 3))
        init = lambda: network.init(jax.random.key(0), images, train=False)
        rng = np.random.default_rng(0)

        def draw(path, x):
            values = rng.standard_normal(x.shape) * (x.shape[0] ** -0.5 if x.ndim > 1 else 0.2)
            return (values + path_name(path).endswith("scale")).astype(np.float32)

        params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init)["params"])
        return TrainedEncoder(network, params, {}, image_size)

    return make


@pytest.fixture
def tiny_config():
    """The config of tests/tiny.py, whose network is known during the test."""
    with tiny_is_known():
        yield tiny_settings()


@pytest.fixture
def full_disk():
    """Returns a context in which no file of this process may grow beyond some bytes."""

    @contextlib.contextmanager
    def limit(num_bytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error, and no signal
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    return limit


@pytest.fixture
def batch():
    """Two cuts of each of 16 pictures of coloured tiles, all on one device."""
    tiles = np.random.default_rng(0).integers(0, 256, (16, 2, 4, 4, 3), np.uint8)
    return {
        "image": jax.numpy.asarray(tiles.repeat(4, axis=2).repeat(4, axis=3)),
        "size": jax.numpy.full((16, 2, 2), 16, jax.numpy.int32),
        "label": jax.numpy.full((16,), -1, jax.numpy.int32),
    }
