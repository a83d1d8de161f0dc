"""Name tables against the variables that the official code creates, in number and order."""

import gzip
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from simclr_jax.core.tree import path_name
from simclr_jax.interop.names import leftover_kind, official_names, tf1_name, tf1_name_of_ema
from simclr_jax.models.heads import MLP
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import SSLModel

NAMES = Path(__file__).parents[2] / "golden" / "official_names.txt.gz"
MODELS = {
    "r18_cifar": ResNet(18, stem="cifar"),
    "r50": ResNet(50),
    "r50_sk": ResNet(50, sk_ratio=0.0625),
}


def official(network: str) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes that the official code creates, without the classifier."""
    lines = [line.split() for line in gzip.decompress(NAMES.read_bytes()).decode().splitlines()]
    variables = [line[1:] for line in lines if line[0] == network]
    return [
        (name, tuple(map(int, shape.split(","))))
        for name, shape in variables
        if "head_supervised" not in name
    ]


@pytest.mark.parametrize("network", MODELS)
def test_names_are_those_of_the_official_graph_in_its_order(network):
    names = official_names(MODELS[network], MLP())
    assert list(names.values()) == [name for name, _ in official(f"{network}_tf1")]


@pytest.mark.parametrize("network", MODELS)
def test_covers_every_variable_of_the_model_with_its_shape(network):
    encoder, projector = MODELS[network], MLP()
    model = SSLModel(encoder, projector)
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )
    shapes = dict(official(f"{network}_tf1"))
    wanted = {path: shapes[name] for path, name in official_names(encoder, projector).items()}
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    assert {path_name(path): x.shape for path, x in leaves} == wanted


@pytest.mark.parametrize("network", ["r50", "r50_sk"])
def test_tf2_names_lead_to_tf1_names_of_equal_shape(network):
    tf2 = official(f"{network}_tf2")
    found = {tf1_name(name): shape for name, shape in tf2}
    assert len(found) == len(tf2)
    assert found == dict(official(f"{network}_tf1"))


def test_tf1_names_lead_to_themselves():
    for name, _ in official("r50_sk_tf1"):
        assert tf1_name(name) == name


@pytest.mark.parametrize("network", MODELS)
def test_no_two_variables_share_a_name(network):
    names = official_names(MODELS[network], MLP())
    assert len(set(names.values())) == len(names)


def test_projection_shortcut_comes_before_its_branch():
    names = official_names(ResNet(50))
    block = "params/encoder/stage1/block0"
    assert names[f"{block}/shortcut_conv/kernel"] == "base_model/conv2d_1/kernel"
    assert names[f"{block}/conv1/kernel"] == "base_model/conv2d_2/kernel"


def test_projector_is_optional_and_may_have_two_layers():
    assert not [p for p in official_names(ResNet(18)) if "projector" in p]
    heads = [p for p in official_names(ResNet(18), MLP(num_layers=2)) if "projector" in p]
    assert heads == [
        "params/projector/dense1/kernel",
        "params/projector/norm1/scale",
        "params/projector/norm1/bias",
        "batch_stats/projector/norm1/mean",
        "batch_stats/projector/norm1/var",
        "params/projector/dense2/kernel",
        "params/projector/norm2/scale",
        "batch_stats/projector/norm2/mean",
        "batch_stats/projector/norm2/var",
    ]


@pytest.mark.parametrize(
    "leftover",
    [
        "global_step",
        "base_model/conv2d_3/kernel/Momentum",
        "head_contrastive/nl_0/dense/kernel/Momentum",
        "ema_model/base_model/conv2d_3/kernel",
        "ema_model/head_contrastive/nl_0/batch_normalization/gamma",
        "memory/queue",
        "base_model/conv2d_3/bias",
        "head_supervised/linear_layer/dense_1/gamma",
    ],
)
def test_what_is_no_variable_of_the_network_has_no_name(leftover):
    assert tf1_name(leftover) is None


@pytest.mark.parametrize(
    ("leftover", "kind"),
    [
        ("base_model/conv2d_3/kernel/Momentum", "optimizer"),
        ("base_model/conv2d_3/kernel/Adam_1", "optimizer"),
        ("beta1_power", "optimizer"),
        ("model/resnet_model/a/kernel/.OPTIMIZER_SLOT/optimizer/Momentum", "optimizer"),
        ("optimizer/learning_rate", "optimizer"),
        ("ema_model/conv2d/kernel", "ema_model"),
        ("memory/buffer", "memory"),
        ("global_step", "counter"),
        ("save_counter", "counter"),
        ("base_model/conv2d_3/bias", None),
        ("dense/kernel", None),
    ],
)
def test_leftovers_of_a_checkpoint_are_of_a_known_kind(leftover, kind):
    assert leftover_kind(leftover) == kind


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("ema_model/conv2d_3/kernel", "base_model/conv2d_3/kernel"),
        ("ema_model/base_model/conv2d_3/kernel", "base_model/conv2d_3/kernel"),
        ("ema_model/head_contrastive/nl_0/dense/kernel", "head_contrastive/nl_0/dense/kernel"),
        ("ema_model/step", None),
        ("base_model/conv2d_3/kernel", None),
    ],
)
def test_ema_copies_lead_to_the_variable_that_they_average(copy, original):
    assert tf1_name_of_ema(copy) == original


def test_the_classifier_has_one_name_in_tf1_and_tf2():
    names = official_names(ResNet(18), classifier=True)
    ours = {path: name for path, name in names.items() if "encoder" not in path}
    assert ours == {
        f"params/classifier/{leaf}": f"head_supervised/linear_layer/dense/{leaf}"
        for leaf in ("kernel", "bias")
    }
    for path, name in ours.items():
        assert tf1_name(name) == name
        assert tf1_name(name.replace("dense", "dense_3")) == name
        assert tf1_name(name.replace("head_supervised", "supervised_head")) == name, path


def test_takes_names_with_the_output_index_of_tf():
    assert tf1_name("base_model/conv2d/kernel:0") == "base_model/conv2d/kernel"
