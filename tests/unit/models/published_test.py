"""The table of published networks, and how a recipe's variant names one of them."""

import pytest

from simclr_jax.models.published import NETWORKS, split_variant
from simclr_jax.models.resnet import STAGE_SIZES

KNOWN = {"v1": (), "v2": ("memory", "fraction=0.01", "fraction=1"), "smoke": ()}


def test_there_are_3_networks_of_v1_and_13_of_v2_and_names_say_what_they_are():
    for name, network in NETWORKS.items():
        described = f"r{network.depth}_{network.width:g}x{'_sk' if network.sk_ratio else ''}"
        assert name in (f"v1_{described}", f"v2_{described}")
        assert network.depth in STAGE_SIZES
    versions = [name[:2] for name in NETWORKS]
    assert (versions.count("v1"), versions.count("v2")) == (3, 13)


def test_accuracies_are_in_percent_and_grow_with_the_labels():
    for network in NETWORKS.values():
        one, ten, all_labels = network.finetuned
        assert 40 < one < ten < all_labels < 90
        assert one < network.linear < all_labels
        for distilled, finetuned in zip(network.distilled, network.finetuned, strict=False):
            assert distilled > finetuned


@pytest.mark.parametrize(
    ("variant", "name", "options"),
    [
        ("v1", "v1", {}),
        ("v2,memory", "v2", {"memory": ""}),
        ("v2,fraction=0.01,memory", "v2", {"fraction": "0.01", "memory": ""}),
    ],
)
def test_a_variant_is_a_name_and_options(variant, name, options):
    assert split_variant(variant, KNOWN) == (name, options)


@pytest.mark.parametrize(
    "variant",
    ["", "v3", "v1,memory", "v2,", "v2,memory=1", "v2,fraction=0.5", "v2,fraction=0.01,fraction=1"],
)
def test_an_unknown_variant_is_told_names_and_options(variant):
    knows = r"v1, smoke; v2 \(also with ',memory' or ',fraction=0.01' or ',fraction=1'\)$"
    with pytest.raises(
        ValueError, match=rf"^Unknown variant '{variant}'; this recipe knows {knows}"
    ):
        split_variant(variant, KNOWN)
