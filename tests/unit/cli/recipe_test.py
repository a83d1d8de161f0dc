"""--config: recipes by name and by path, and every key from the command line."""

import pytest

from simclr_jax.build import recipe as recipes
from simclr_jax.cli import recipe
from simclr_jax.core.errors import UserError

OWN = """
from ml_collections import ConfigDict

def get_config(variant: str = "a") -> ConfigDict:
    if variant not in ("a", "b"):
        raise ValueError(f"Unknown variant {variant!r}; this recipe knows 'a' and 'b'.")
    return ConfigDict({
        "run": {"epochs": 1}, "data": {"name": "digits", "split": "train", "batch_size": 8,
        "canvas": 28}, "augment": {"name": "simclr", "size": 28}, "encoder": {"name": "resnet",
        "depth": 18}, "heads": {"projector": {}}, "method": {"name": "simclr"},
        "optim": {"name": "lars"}, "schedule": {"base_lr": 1.0},
    })
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_any_key_can_be_set_whether_or_not_the_recipe_states_it(own):
    loaded = recipe.load(
        f"{own}:b",
        [
            "--config.data.num_threads=4",
            "--config.method.memory.size=4096",
            "--config.optim.momentum=0.95",
            "--config.encoder.width=0.5",
            "--config.data.keep_unlabelled",
        ],
    )
    config = loaded.config
    assert config["data"]["num_threads"] == 4
    assert config["method"]["memory"] == {"size": 4096, "ema": 0.999}
    assert (config["optim"]["momentum"], config["encoder"]["width"]) == (0.95, 0.5)
    assert config["data"]["keep_unlabelled"] is True
    assert loaded.overrides["method.memory.size"] == 4096


def test_none_on_the_command_line_is_no_value_where_a_key_takes_none():
    words = ["--config.data.test_split=None", "--config.run.keep_best=None"]
    loaded = recipe.load("simclr_digits", words)
    assert loaded.config["data"]["test_split"] is None
    assert loaded.overrides["data.test_split"] is None
    assert loaded.config["run"]["keep_best"] == "None"  # which is the name of a metric there


def test_a_section_within_a_section_goes_off_by_none():
    words = ["--config.method.name=simclr", "--config.heads.predictor=None"]
    loaded = recipe.load("byol:digits", [*words, "--config.evals.knn=None"])
    assert loaded.config["heads"]["predictor"] is None
    assert loaded.config["heads"]["projector"]["num_layers"] == 2
    assert loaded.config["evals"]["knn"] is None
    with pytest.raises(UserError, match=r"config\.heads"):
        recipe.load("byol:digits", ["--config.heads=None"])


def test_another_name_brings_the_settings_of_its_own(own):
    config = recipe.load(
        str(own), ["--config.optim.name=sgd", "--config.optim.momentum=0.5"]
    ).config
    assert config["optim"]["name"] == "sgd"
    assert config["optim"]["momentum"] == 0.5
    assert "trust_coefficient" not in config["optim"]


def test_recipes_that_come_with_the_program_are_found_by_name():
    for path in ("simclr_digits", "simclr_digits:smoke", "configs/simclr_digits.py"):
        assert recipe.load(path, []).config["data"]["name"] == "digits"


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("simclr_digit", [], r"no recipe of that name. Did you mean 'simclr_digits'\?"),
        ("OWN:c", [], r"Unknown variant 'c'; this recipe knows 'a' and 'b'"),
        ("OWN", ["--config.run.epoch=2"], r"config.run.epoch .*Did you mean 'epochs'\?"),
        ("OWN", ["--config.method.chunks=2"], r"it is config.method.grad_cache_chunks now"),
        ("OWN", ["--config.run.epochs=many"], "run.epochs.*many"),
        (
            "OWN",
            ["--config.data.batch_size=64", "--config.data=5"],
            "config.data=5 is all of a section, and --config.data.batch_size=64 a key of it",
        ),
    ],
)
def test_what_is_wrong_is_told(own, path, overrides, message):
    with pytest.raises(UserError, match=message):
        recipe.load(path.replace("OWN", str(own)), overrides)


def test_overrides_are_told_from_other_flags():
    words = ["train", "--workdir=D", "--config.a.b", "3", "--config.c", "--json", "--config.d=4"]
    assert recipe.split(words) == (
        ["train", "--workdir=D", "--json"],
        ["--config.a.b=3", "--config.c", "--config.d=4"],
    )


def dtypes(config):
    return config["encoder"]["dtype"], config["augment"]["dtype"]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("f32", "float32")])
def test_one_setting_is_the_precision_of_encoder_and_augmentation(precision, dtype):
    for path in ("simclr_digits", "simclr_imagenet"):
        loaded = recipe.load(path, [f"--config.precision={precision}", "--config.run.epochs=2"])
        assert dtypes(loaded.config) == (dtype, dtype)
        assert loaded.overrides["encoder.dtype"] == dtype
        assert dtypes(recipes.load(path, {"precision": precision})) == (dtype, dtype)


def test_what_is_said_of_one_of_them_counts_more_than_the_precision():
    words = ["--config.augment.dtype=float32", "--config.precision=bf16"]
    assert dtypes(recipe.load("simclr_digits", words).config) == ("bfloat16", "float32")
    sections = {"augment": {"dtype": "float32"}, "precision": "bf16"}
    assert dtypes(recipes.load("simclr_digits", sections)) == ("bfloat16", "float32")


def test_the_precision_goes_to_the_encoder_that_is_chosen_and_spares_what_has_none(own):
    words = ["--config.encoder.name=vit", "--config.augment.name=finetune"]
    config = recipe.load(str(own), [*words, "--config.precision=bf16"]).config
    assert (config["encoder"]["name"], config["encoder"]["dtype"]) == ("vit", "bfloat16")
    assert "dtype" not in config["augment"]


def test_an_unknown_precision_names_those_there_are():
    with pytest.raises(UserError, match=r"config\.precision='fp16' must be one of bf16, f32"):
        recipe.load("simclr_digits", ["--config.precision=fp16"])
    with pytest.raises(UserError, match=r"config\.precision='fp16' must be one of bf16, f32"):
        recipes.load("simclr_digits", {"precision": "fp16"})
