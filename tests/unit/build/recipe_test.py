"""Recipes from Python values: every key can be set, sections within sections too."""

from pathlib import Path

import pytest

from simclr_jax.build import recipe
from simclr_jax.core.errors import UserError


def test_python_values_take_the_place_of_those_of_the_recipe():
    trees = {"params/encoder": "params/encoder"}
    config = recipe.load(
        "simclr_digits:smoke",
        {
            "data": {"path": Path("a/b"), "num_threads": 4},
            "method": {"memory": {"size": 4096}},
            "heads": {"projector": {"output_dim": 8}},
            "optim": {"name": "lars", "momentum": 0.5},
            "evals": {"knn": None},
            "warm_start": {"checkpoint": "runs/x", "trees": trees},
        },
    )
    assert (config["data"]["path"], config["data"]["num_threads"]) == ("a/b", 4)
    assert config["method"]["memory"] == {"size": 4096, "ema": 0.999}
    projector = config["heads"]["projector"]
    assert (projector["output_dim"], projector["hidden_dim"]) == (8, 128)
    assert (config["optim"]["name"], config["optim"]["momentum"]) == ("lars", 0.5)
    assert config["evals"]["knn"] is None
    assert config["warm_start"]["trees"] == trees


def test_what_the_recipe_says_stays():
    assert recipe.load("simclr_digits", {})["schedule"]["base_lr"] == 4e-3


def test_a_key_that_was_renamed_is_told():
    with pytest.raises(UserError, match=r"it is config.method.grad_cache_chunks now"):
        recipe.load("simclr_digits", {"method": {"chunks": 2}})


def test_recipes_that_come_with_the_program_are_listed():
    assert {"simclr_digits", "simclr_imagenet", "finetune"} <= {*recipe.names()}
