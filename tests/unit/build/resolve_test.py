"""Warm starts: settings of the encoder that its weights need and do not tell."""

import pytest

from simclr_jax.build.resolve import require_same_encoder, require_same_tokens
from simclr_jax.build.schema import complete
from simclr_jax.core.errors import UserError
from simclr_jax.train.workdir import claim

IMAGENET = {"input_mean": [0.485, 0.456, 0.406], "input_std": [0.229, 0.224, 0.225]}


@pytest.fixture
def start_from(tmp_path, tiny_config):
    """Returns a function that starts from a workdir with an encoder, with another section."""

    def start(there, here, trees=None):
        workdir = str(tmp_path / "there")
        claim(workdir, {**tiny_config, "encoder": there})
        warm_start = {"checkpoint": workdir, "trees": trees}
        config = {**tiny_config, "encoder": here, "warm_start": warm_start}
        require_same_encoder(complete(config))

    return start


def test_another_normalisation_is_refused_with_what_to_add(start_from):
    resnet = {"name": "resnet", "depth": 50}
    message = r"add --config.encoder.input_mean='\[0.485,0.456,0.406\]' --config.encoder.input_std="
    with pytest.raises(UserError, match=message):
        start_from(resnet | IMAGENET, resnet)


def test_the_same_settings_and_those_that_weights_tell_are_let_through(start_from):
    resnet = {"name": "resnet", "depth": 50}
    tuples = {key: tuple(value) for key, value in IMAGENET.items()}
    start_from(resnet | IMAGENET, resnet | tuples | {"remat": "blocks", "width": 2})
    start_from(resnet | IMAGENET, resnet, trees={"params/projector": "params/projector"})
    start_from(resnet | IMAGENET, {"name": "vit"})


def test_the_number_of_heads_must_be_that_of_the_checkpoint(start_from):
    with pytest.raises(UserError, match=r"add --config.encoder.num_heads='12'"):
        start_from({"name": "vit", "num_heads": 12}, {"name": "vit"})


@pytest.mark.parametrize("tree", ["params/text", "params/text/block0"])
def test_a_text_tower_is_refused_where_it_would_see_other_tokens(tmp_path, tiny_config, tree):
    def captioned(sha256):
        captions = {"context": 10, "tokenizer_sha256": sha256}
        return {**tiny_config, "data": {**tiny_config["data"], "captions": captions}}

    workdir = str(tmp_path / "there")
    claim(workdir, captioned("a"))

    def start(sha256, tree):
        warm_start = {"checkpoint": workdir, "trees": {tree: tree}}
        require_same_tokens(complete(captioned(sha256) | {"warm_start": warm_start}))

    start("a", tree)
    start("b", "params/text_projector")
    with pytest.raises(UserError, match=r"captions\.tokenizer=.*there/tokenizer\.json"):
        start("b", tree)
