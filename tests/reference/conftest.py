"""The networks of the golden files, which the official TF code ran."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from simclr_jax.interop.names import official_names, tf1_name
from simclr_jax.models.heads import MLP
from simclr_jax.models.resnet import ResNet

GOLDEN = Path(__file__).parents[1] / "golden"
ENCODERS = {
    "r18_cifar": {"depth": 18, "stem": "cifar"},
    "r50": {"depth": 50},
    "r50_sk": {"depth": 50, "sk_ratio": 0.0625},
}


class GoldenNetwork(NamedTuple):
    encoder: ResNet
    projector: MLP
    golden: dict[str, np.ndarray]
    ours: dict[str, str]  # TF2 name -> our path
    variables: dict
    views: np.ndarray  # [n, 2, h, w, 3]


def golden_network(name: str, dtype: str) -> GoldenNetwork:
    """Reads one of `ENCODERS`, an eighth as wide as the standard network."""
    encoder = ResNet(width=0.125, dtype=dtype, **ENCODERS[name])
    projector = MLP(dtype=dtype)
    with np.load(GOLDEN / f"{name}_w0125.npz") as file:
        golden = {key: file[key] for key in file.files}
    paths = {official: path for path, official in official_names(encoder, projector).items()}
    theirs = [key.removeprefix("w/") for key in golden if key.startswith("w/")]
    ours = {key: paths[tf1_name(key) or ""] for key in theirs}
    variables = {}
    for key, path in ours.items():
        *parents, leaf = path.split("/")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = golden[f"w/{key}"].astype(dtype)
    x = golden["x"].astype(dtype)
    views = np.stack([x[..., :3], x[..., 3:]], axis=1)
    return GoldenNetwork(encoder, projector, golden, ours, variables, views)


@pytest.fixture(scope="session", name="golden_network")
def _golden_network():
    return golden_network
