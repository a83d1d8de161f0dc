"""What a config says of its encoder reaches the step and its layout."""

import jax
import numpy as np
import pytest

from simclr_jax.build.experiment import build_experiment
from simclr_jax.core.tree import path_name
from simclr_jax.models.vit import SIZES, Size


@pytest.fixture
def vit_config(tiny_config, monkeypatch):
    """ViTs of two blocks, learned positions and frozen patches."""
    monkeypatch.setitem(SIZES, "nano", Size(16, 2, 2))
    encoder = dict(name="vit", size="nano", patch=4, learned_positions=8, freeze_patches=True)
    return {**tiny_config, "encoder": encoder}


def test_frozen_patches_are_not_updated_and_do_not_decay(vit_config):
    vit_config["optim"] = {"name": "adamw", "weight_decay": 0.5}
    vit_config["schedule"]["warmup_epochs"] = 0.0
    experiment = build_experiment(vit_config, jax.devices()[:1])
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda x: draw(x.shape), experiment.abstract_state.params)
    state = experiment.tx.init(params)
    updates, _ = experiment.tx.update(params, state, params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        frozen = path_name(path).startswith("encoder/patches/")
        assert np.any(update) != frozen, path_name(path)
    assert "patches" not in str([path for path, _ in jax.tree_util.tree_leaves_with_path(state)])


@pytest.mark.parametrize("preset", ["zero1", "fsdp"])
def test_presets_split_every_matrix_of_a_vit(vit_config, preset):
    vit_config["encoder"]["freeze_patches"] = False
    vit_config["parallel"] = {"preset": preset, "fsdp": 4}
    state = build_experiment(vit_config).abstract_state
    leaves = jax.tree_util.tree_leaves_with_path({"params": state.params, "opt": state.opt_state})
    for path, leaf in leaves:
        name = path_name(path)
        split = name.endswith("kernel") and (preset == "fsdp" or name.startswith("opt"))
        assert leaf.sharding.is_fully_replicated != split, name


def test_says_what_images_the_patches_do_not_fit(vit_config):
    vit_config["augment"]["size"] = 13
    with pytest.raises(ValueError, match=r"config.augment.size and config.encoder: .*13x13 px"):
        build_experiment(vit_config)


def test_views_of_several_sizes_must_each_fit_the_encoder_and_the_method(vit_config):
    vit_config["augment"] = {"name": "multi_crop", "size": 24, "local_size": 22, "local_blur": 0.0}
    with pytest.raises(ValueError, match=r"config.augment, views of 22 px, and .*22x22 px"):
        build_experiment(vit_config)
    vit_config["augment"]["local_size"] = 20
    with pytest.raises(ValueError, match=r"takes views of one size, and config.augment gives 2"):
        build_experiment(vit_config)
