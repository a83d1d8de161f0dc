"""Encoders of one's own: what is imported, when, and what is said of what is not."""

import importlib
import os
import re
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.build import schema
from simclr_jax.build.experiment import build_experiment
from simclr_jax.build.network import network
from simclr_jax.cli import recipe
from simclr_jax.core.errors import UserError
from simclr_jax.core.tree import path_name
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.interop.formats import export
from simclr_jax.models import own
from simclr_jax.models.ssl import ENCODERS
from simclr_jax.verify.shrunk import shrink
from tests.helpers import update

PAGE = Path(__file__).parents[3] / "docs" / "encoders.md"
OTHERS = """
import flax.linen as nn

class Norms(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.LayerNorm()(nn.Dense(8)(images.mean(axis=(1, 2))))

class Maps(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(4)(images)

class Caches(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        seen = self.variable("cache", "seen", lambda: 0)
        return nn.Dense(4)(images.mean(axis=(1, 2)))

class Deaf(nn.Module):
    def __call__(self, images):
        return images.mean(axis=(1, 2))

def function(images): ...
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The modules own_page, from docs/encoders.md, and own_others, in the current directory."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "own_page.py").write_text(code)
    (tmp_path / "own_others.py").write_text(OTHERS)
    (tmp_path / "own_broken.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*ENCODERS}
    importlib.invalidate_caches()
    yield tmp_path
    for name in ENCODERS.keys() - before:
        del ENCODERS[name]
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def with_encoder(tiny_config, name, **settings):
    return {**tiny_config, "encoder": {"name": name, **settings}}


def test_a_config_imports_nothing_until_somebody_types_the_path(modules, tiny_config):
    config = with_encoder(tiny_config, "own_page:ThreeConvs", width=32)
    for use in (network, schema.complete, build_experiment):
        with pytest.raises(UserError, match=r"trust that module.* --encoder=own_page:ThreeConvs"):
            use(config)
    assert "own_page" not in sys.modules
    own.import_encoder("own_page:ThreeConvs")
    shapes = network(config).shapes["params"]
    assert shapes["encoder"]["conv2"]["kernel"].shape == (3, 3, 16, 32)


def test_a_path_typed_as_a_setting_is_imported_and_its_fields_are_settings(modules):
    words = ["--config.encoder.name=own_page:ThreeConvs", "--config.encoder.width=16"]
    config = recipe.load("simclr_digits", words).config
    assert config["encoder"] == {"name": "own_page:ThreeConvs", "width": 16, "dtype": "float32"}
    assert type(config["encoder"]["width"]) is int, "the recipe's ResNet has 0.25"
    assert recipe.load("simclr_digits", words[:1]).config["encoder"]["width"] == 64
    meanings = {key.path: key.meaning for key in schema.describe(config)}
    assert meanings["encoder.width"] == "channels of the last one, and of the representation."
    with pytest.raises(UserError, match=r"encoder.widht does not exist. Did you mean 'width'"):
        recipe.load("simclr_digits", [words[0], "--config.encoder.widht=16"])


def test_optimizers_and_layouts_know_it_by_the_names_of_its_parameters(modules, tiny_config):
    own.import_encoder("own_others:Norms")
    config = with_encoder(tiny_config, "own_others:Norms")
    config["optim"] = {"name": "lars", "weight_decay": 1.0}
    config["schedule"] = {"base_lr": 1.0, "scaling": "none", "warmup_epochs": 0.0}
    config["parallel"] = {"preset": "fsdp", "fsdp": 4}
    experiment = build_experiment(config)
    params = jax.tree.map(lambda x: jnp.ones(x.shape), experiment.abstract_state.params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = update(experiment.tx, zeros, experiment.tx.init(params), params)
    moved = {
        path_name(path)
        for path, x in jax.tree_util.tree_leaves_with_path(updates["encoder"])
        if np.any(x)
    }
    assert moved == {"Dense_0/kernel"}, "alone decays"
    kernel = experiment.abstract_state.params["encoder"]["Dense_0"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 2)


def test_verify_computes_it_in_float64(modules, tiny_config):
    own.import_encoder("own_page:ThreeConvs")
    config = with_encoder(tiny_config, "own_page:ThreeConvs", dtype="bfloat16")
    assert shrink(config, multiple=8, num_steps=1).config["encoder"]["dtype"] == "float64"


@pytest.fixture
def trained(modules):
    own.import_encoder("own_page:ThreeConvs")
    net = ENCODERS["own_page:ThreeConvs"](width=16, dtype="bfloat16")
    assert isinstance(net, nn.Module)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
    return TrainedEncoder(net, variables["params"], variables["batch_stats"], 16)


def test_goes_out_as_stablehlo(trained, tmp_path):
    assert export(trained, tmp_path / "own.stablehlo", "stablehlo").difference.relative < 1e-5


@pytest.mark.interop("torch", "safetensors")
def test_does_not_go_out_to_pytorch(trained, tmp_path):
    with pytest.raises(UserError, match=r"PyTorch, which has no ThreeConvs.*--format=stablehlo"):
        export(trained, tmp_path / "own.safetensors", "safetensors")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_page.ThreeConvs:", r"must be MODULE:CLASS, such as my_module:MyEncoder"),
        ("own/page.py:ThreeConvs", r"must be MODULE:CLASS"),
        ("own_pages:ThreeConvs", r"there is no module own_pages, neither in .*PYTHONPATH"),
        ("own_page:ThreeConv", r"no linen module ThreeConv. Did you mean 'ThreeConvs'\? It has"),
        ("own_others:function", r"own_others has no linen module function"),
        ("own_others:Deaf", r"Deaf.__call__ must be \(self, images, \*, train\)"),
    ],
)
def test_what_cannot_be_imported_is_told(modules, path, message):
    with pytest.raises(UserError, match=message):
        own.import_encoder(path)
    assert path not in ENCODERS


def test_what_a_module_lacks_is_its_own_error(modules):
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        own.import_encoder("own_broken:Anything")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Maps", r"config.encoder: Maps must return one vector .* it returned \[1, 12, 12, 4\]"),
        ("Caches", r"collections cache; only params and batch_stats are trained"),
    ],
)
def test_what_is_no_encoder_is_told_before_anything_is_computed(
    modules, tiny_config, name, message
):
    own.import_encoder(f"own_others:{name}")
    with pytest.raises(UserError, match=message):
        network(with_encoder(tiny_config, f"own_others:{name}"))


def test_the_current_directory_hides_no_library(modules):
    (modules / "numpy.py").write_text("raise RuntimeError")
    own.import_encoder("own_page:ThreeConvs")
    assert sys.path[-1] == os.getcwd()
