"""The schema of a config: defaults from signatures, sections that go on, keys that moved."""

import pytest

from simclr_jax.build import schema
from simclr_jax.core.errors import UserError


def test_every_key_that_a_recipe_leaves_out_is_there_at_its_default(tiny_config):
    config = schema.complete(tiny_config)
    assert config["data"]["num_threads"] is None
    assert config["method"]["grad_cache_chunks"] == 1
    assert config["method"]["memory"] is None
    assert config["optim"]["b1"] == 0.9
    assert config["heads"]["projector"]["last_norm"] == "scale"
    assert config["parallel"]["preset"] == "replicated"
    start = {"checkpoint": None, "trees": None, "required": False, "step": None}
    assert config["warm_start"] == start
    assert schema.complete(config) == config


def test_a_section_goes_on_when_a_key_of_it_is_named(tiny_config):
    config = schema.switch_on(schema.complete(tiny_config), "method.memory.size")
    assert config["method"]["memory"] == {"size": 65536, "ema": 0.999}
    config = schema.switch_on(config, "evals.classifier.every_epochs")
    assert config["evals"]["classifier"] == {"every_epochs": None}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("dat.canvas", r"config.dat does not exist. Did you mean 'data'\?"),
        ("data.canvass", r"config.data.canvass .*Did you mean 'canvas'\? Known keys: name"),
        ("method.memory.sise", r"config.method.memory.sise .*Did you mean 'size'\?"),
        ("method.chunks", r"it is config.method.grad_cache_chunks now"),
        ("optim.accumulate_steps", r"config.method.grad_cache_chunks=8"),
    ],
)
def test_a_key_that_does_not_exist_is_told_what_does(tiny_config, path, message):
    with pytest.raises(UserError, match=message):
        schema.switch_on(schema.complete(tiny_config), path)


def test_accumulation_is_no_gradient_cache_where_there_is_none(tiny_config):
    config = schema.complete(tiny_config) | {"method": {"name": "mae"}}
    with pytest.raises(
        UserError, match=r"mae compares no images .* smaller config.data.batch_size"
    ):
        schema.switch_on(config, "run.accumulate_steps")


def test_a_value_of_another_type_does_not_go_over_to_another_callable(tiny_config):
    config = schema.complete(
        {**tiny_config, "augment": {"name": "simclr", "size": 28, "blur": False}}
    )
    several = schema.rename(config, "augment", "multi_crop")["augment"]
    assert several.keys() & {"size", "blur"} == {"size"}
    back = schema.rename(schema.complete({**config, "augment": several}), "augment", "byol")[
        "augment"
    ]
    assert "solarize" not in back


def test_another_callable_leaves_out_what_only_the_old_one_has(tiny_config, caplog):
    config = {**tiny_config, "optim": {"name": "adamw", "b1": 0.8, "weight_decay": 0.1}}
    renamed = schema.rename(config, "optim", "lars")
    assert renamed["optim"] == {"name": "lars", "weight_decay": 0.1}
    with pytest.raises(UserError, match=r"config.optim.name='larz'.*Did you mean 'lars'\?"):
        schema.rename(config, "optim", "larz")


def test_every_key_has_a_meaning(tiny_config):
    for name in schema.METHODS:
        config = tiny_config | {"method": {"name": name}, "encoder": {"name": "resnet"}}
        for key in schema.describe(schema.complete(config)):
            assert key.meaning, f"{key.path} is not explained in its docstring"
