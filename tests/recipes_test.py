"""Every recipe and every variant builds, on devices or not, and keeps its published numbers."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from simclr_jax import build
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Record
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.run import _online_evaluation
from simclr_jax.train.metrics import MetricsWriter

CONFIGS = Path(__file__).parents[1] / "configs"


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Images:
    """As many images as the real data set has, without having them."""

    class_names = tuple("0123456789")
    fingerprint = "none"

    def __init__(self, name, size):
        self.name, self._size = name, size

    def __len__(self):
        return self._size

    def __getitem__(self, index, /):
        return Record(np.zeros((300, 400, 3), np.uint8), 0, str(index))


SIZES = {"digits": 4000, "tfds/cifar10": 50_000, "tfds/imagenet2012": 1_281_167, "folder": 900}
IMAGENET = recipe("simclr_imagenet")
VARIANTS = [
    ("simclr_digits", ""),
    ("simclr_digits", "smoke"),
    *(("simclr_cifar10", variant) for variant in ("r18", "r50", "small")),
    ("simclr_folder", ""),
    ("simclr_folder", "laptop"),
    *(("simclr_imagenet", variant) for variant in (*IMAGENET.V1, *IMAGENET.V2, "smoke")),
]


@pytest.fixture
def parts(monkeypatch):
    def build_parts(name, variant):
        monkeypatch.setattr(
            Dataset, "open", lambda self, split: Images(self.name, SIZES[self.name])
        )
        return build.parts(recipe(name).get_config(variant).to_dict(), make_mesh())

    return build_parts


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_builds_under_eval_shape(parts, name, variant):
    p = parts(name, variant)
    assert p.num_steps > 1
    assert "encoder" in p.abstract_state.params
    online = _online_evaluation(p, MetricsWriter("unused"), **p.config["evals"])
    assert len(online) == len(p.config["evals"])


@pytest.mark.parametrize("name", sorted({name for name, _ in VARIANTS}))
def test_an_unknown_variant_is_told_what_there_is(name):
    with pytest.raises(ValueError, match=r"Unknown variant 'r5'; this recipe knows "):
        recipe(name).get_config("r5")


@pytest.mark.parametrize(
    ("name", "variant", "steps", "peak"),
    [
        ("simclr_cifar10", "r18", 97657, 2.0),
        ("simclr_imagenet", "v1_r50_1x", 312785, 4.8),
        ("simclr_imagenet", "v2_r50_1x", 250228, 6.4),
    ],
)
def test_published_recipes_have_the_official_length_and_rate(parts, name, variant, steps, peak):
    p = parts(name, variant)
    assert p.num_steps == steps
    rates = [float(p.schedule(step)) for step in range(0, steps, 97)]
    np.testing.assert_allclose(max(rates), peak, rtol=1e-3)


def test_sizes_that_are_left_open_come_from_the_images(parts):
    p = parts("simclr_folder", "")
    assert p.config["augment"]["size"] == 224
    assert (p.dataset.canvas, p.dataset.batch_size) == (320, 256)


def test_the_largest_network_has_the_published_size(parts):
    encoder = parts("simclr_imagenet", "v2_r152_3x_sk").abstract_state.params["encoder"]
    assert sum(leaf.size for leaf in jax.tree.leaves(encoder)) == 794_704_160
