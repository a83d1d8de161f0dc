"""shrink: what is small stays, and each change is told."""

import jax
import numpy as np
import pytest

from simclr_jax.build.experiment import build_experiment
from simclr_jax.data.records import Source
from simclr_jax.verify.shrunk import shrink
from tests import helpers


def recipe(name, variant):
    return helpers.recipe(name).get_config(variant).to_dict()


def shrunk(config):
    return shrink(config, multiple=16, num_steps=3)


def test_a_recipe_for_laptops_keeps_its_size():
    small = shrunk(recipe("simclr_digits", ""))
    assert small.changes == [
        "data.batch_size 128 -> 32",
        "all numbers float32 -> float64 (what still differs is not rounding)",
        "schedule: from the first step on its peak, 0.004",
    ]


def test_each_change_of_a_large_recipe_is_told():
    config = recipe("simclr_imagenet", "v2_r152_3x_sk,memory")
    small = shrunk(config)
    assert small.changes == [
        "data.batch_size 4096 -> 32",
        "augment.size 224 -> 33",
        "data.canvas 8192 -> 48",
        "encoder.depth 152 -> 50 (the same blocks, fewer of them)",
        "encoder.width 3.0 -> 0.125",
        "method.memory.size 65536 -> 128 (two batches)",
        "all numbers bfloat16 -> float64 (what still differs is not rounding)",
        "schedule: from the first step on its peak, 6.4",
    ]
    assert small.config["encoder"]["sk_ratio"] == 0.0625
    assert config["encoder"]["depth"] == 152, "the recipe itself was changed"


def test_a_vit_becomes_a_tiny_one_with_whole_patches():
    config = recipe("simclr_imagenet", "v1_r50_1x")
    config["encoder"] = {
        "name": "vit",
        "size": "s",
        "patch": 14,
        "num_heads": 12,
        "drop_path": 0.1,
        "learned_positions": 224,
        "freeze_patches": True,
    }
    small = shrunk(config)
    assert small.changes[:6] == [
        "data.batch_size 4096 -> 32",
        "augment.size 224 -> 28",
        "data.canvas 8192 -> 48",
        "encoder.size s -> tiny (the same blocks, fewer of them)",
        "encoder.num_heads 12 -> None",
        "encoder.drop_path 0.1 -> 0.0 (parts of a batch draw for themselves)",
    ]
    kept = {"patch": 14, "learned_positions": 224, "freeze_patches": True, "dtype": "float64"}
    assert kept.items() <= small.config["encoder"].items()


def test_a_small_vit_keeps_its_size():
    assert not any("encoder" in change for change in shrunk(recipe("simclr_digits", "vit")).changes)


def test_a_batch_becomes_a_multiple():
    config = recipe("finetune", "digits,fraction=0.01")
    assert "data.batch_size 20 -> 16 (a multiple of 16)" in shrunk(config).changes


@pytest.mark.parametrize(
    ("name", "variant", "num_classes", "told"),
    [
        ("simclr_folder", "", 10, "augment.size None -> 33"),
        ("finetune", "v2_r50_1x_sk,fraction=0.01", 1000, "warm_start None -> random weights"),
        ("linear_probe", "v1_r50_1x", 1000, "warm_start None -> random weights"),
        ("supervised", "cifar10", 10, "schedule: from the first step on its peak, 0.002"),
        (
            "distill",
            "v2_r50_1x,fraction=0.1",
            1000,
            "method.teacher None -> the student's network with random weights",
        ),
    ],
)
def test_a_recipe_builds_without_data_and_without_checkpoints(name, variant, num_classes, told):
    small = shrunk(recipe(name, variant))
    assert told in small.changes
    assert len(small.source.class_names) == num_classes
    with jax.enable_x64(True):
        built = build_experiment(small.config, jax.devices(), train_source=small.source)
    first = next(built.dataset.eval_batches(small.source, built.policy.cuts))
    assert first["image"].shape == built.abstract_batch["image"].shape
    assert set(first["label"]) <= set(range(num_classes))
    assert len(set(first["label"])) > 1
    assert np.ptp(first["size"]) > 0
    assert isinstance(small.source, Source)
