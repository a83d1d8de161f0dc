"""An encoder or a tower as an ONNX graph with the weights inside, by way of the PyTorch module."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simclr_jax.core.optional import import_optional
from simclr_jax.interop.encoder import Encode, Trained
from simclr_jax.interop.torch_bridge import in_torch_layout, torch_module

OPSET = 18  # what the exporter emits without a conversion afterwards, and old runtimes know


def write(encoder: Trained, path: Path) -> str:
    """Writes the graph; returns how to use the file."""
    torch = import_optional("torch")
    inputs = encoder.inputs()
    # Two of each: a batch of one would be taken as fixed.
    twos = [np.ones((2, *x.shape), x.dtype) for x in inputs.values()]
    batch = torch.export.Dim("batch")
    with _quiet():
        torch.onnx.export(
            torch_module(encoder),
            tuple(torch.tensor(in_torch_layout(x)) for x in twos),
            str(path),
            input_names=[*inputs],
            output_names=["representation"],
            dynamic_shapes=tuple({0: batch} for _ in twos),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return (
        f"It takes {encoder.takes(channels_first=True)}, for any n, by the names "
        f"{' and '.join(inputs)}; its output is 'representation'. Opset {OPSET}."
    )


def read(path: Path) -> Encode:
    """Returns what ONNX Runtime computes with the file on the CPU."""
    session = import_optional("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )

    def encode(*inputs: np.ndarray) -> np.ndarray:
        names = [x.name for x in session.get_inputs()]
        named = dict(zip(names, map(in_torch_layout, inputs), strict=True))
        return session.run(["representation"], named)[0]

    return encode


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about itself: its deprecations, and parts it cannot find."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            # Of a batch that two inputs share.
            warnings.filterwarnings("ignore", ".*axis name: batch will not be used", UserWarning)
            yield
    finally:
        log.setLevel(level)
