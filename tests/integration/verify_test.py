"""verify: what is right agrees in every layout, and each kind of mistake is seen and named."""

import dataclasses
import functools
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from simclr_jax.augment.policies import POLICIES
from simclr_jax.core.errors import UserError
from simclr_jax.core.state import TrainState
from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.methods.base import apply_model
from simclr_jax.parallel.sharding import PRESETS
from simclr_jax.verify import proof as verifying
from simclr_jax.verify.proof import verify
from simclr_jax.verify.shrunk import perturb_constants, shrink
from simclr_jax.verify.variants import Comparison, Variant, fsdp_size, num_chunks, variants

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration
CLASSES = {"classifier": {"num_classes": None, "zero_init": True}}
LINEAR = {"num_layers": 1, "output_dim": 8, "last_norm": "none"}
TEXT = {"width": 16, "depth": 1, "num_heads": 2}
PAIRS = {
    "data": {
        "name": "digits",
        "split": "train",
        "batch_size": 16,
        "canvas": 28,
        "captions": {"context": 12, "vocab_size": 400},
    },
    "augment": {"name": "finetune", "size": 12},
    "heads": {"projector": LINEAR, "text": TEXT, "text_projector": LINEAR},
}
METHODS = {
    "simclr": {},
    "memory": {"method": {"name": "simclr", "memory": {"size": 65536, "ema": 0.9}}},
    "probe": {"method": {"name": "supervised", "train_from": "classifier"}, "heads": CLASSES},
    "finetune": {"method": {"name": "supervised"}, "heads": CLASSES},
    "distill": {"method": {"name": "distill", "teacher": None, "alpha": 0.5}, "heads": CLASSES},
    "clip": {"method": {"name": "clip"}, **PAIRS},
    "siglip": {"method": {"name": "siglip"}, **PAIRS},
}
# Two networks each: more than a minute; and one that "distill" is, too, beside its teacher.
SLOW = ("clip", "siglip", "finetune")


@pytest.fixture
def tiny_config(tiny_config):
    """With colours, which must not depend on the devices either."""
    return tiny_config | {"augment": {"name": "simclr_cifar", "size": 12}}


def compare(config):
    return verify(shrink(config, multiple=16, num_steps=2), num_devices=8, num_steps=2)


def failures(comparisons):
    return [line for one in comparisons for line in one.failures()]


@pytest.mark.parametrize(
    "name", [n if n not in SLOW else pytest.param(n, marks=pytest.mark.thorough) for n in METHODS]
)
def test_every_method_learns_the_same_in_every_layout(tiny_config, monkeypatch, name):
    few = lambda num_devices, *, tiles: [
        [Variant(1), Variant(8, "fsdp")],
        [Variant(1, cached=True), Variant(8, "zero1", tiled=tiles, cached=True)],
    ]
    monkeypatch.setattr(verifying, "variants", few)  # the test of the exit code runs all
    comparisons = compare({**tiny_config, **METHODS[name]})
    assert failures(comparisons) == []
    negatives = {"simclr": 30, "memory": 30 + 64, "clip": 15}.get(name)
    for one in comparisons:
        assert (None if one.negatives is None else round(one.negatives)) == negatives
        if one.variant.num_devices > 1:
            assert one.differences["gradients"] > 0, "sums in another order must round otherwise"


def mesh_size(x):
    return max(jax.typeof(x).sharding.mesh.size, 1)


def local_nt_xent(z, **settings):
    """Contrasts each row with those of its own device only."""
    parts = z.reshape(mesh_size(z), -1, *z.shape[1:])
    return jax.vmap(lambda part: nt_xent(part, **settings))(parts).mean()


def forgetful_nt_xent(z, *, keys, **settings):
    """Has the right value; no gradient comes back from rows that were gathered."""
    return nt_xent(z, keys=z if mesh_size(z) > 1 else keys, **settings)


def repeated(x):
    """Sums a gradient over devices that was summed before."""
    num = mesh_size(x)
    return x * num - jax.lax.stop_gradient(x) * (num - 1)


def statistics_of_the_last_part(
    model, params, batch_stats, views, *, grad_cache_chunks=1, **settings
):
    apply = functools.partial(apply_model, model, params, batch_stats, **settings)
    return apply(views, grad_cache_chunks=grad_cache_chunks)[0], apply(
        views[grad_cache_chunks - 1 :: grad_cache_chunks]
    )[1]


def test_statistics_of_parts_are_seen_to_be_wrong(tiny_config, monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("simclr_jax.methods.projected"),
        "apply_model",
        statistics_of_the_last_part,
    )
    groups = [[Variant(1, cached=True), Variant(8, cached=True)]]
    monkeypatch.setattr(verifying, "variants", lambda num_devices, *, tiles: groups)
    lines = failures(compare(tiny_config))
    assert [line.split(" off by ")[0] for line in lines] == [
        f"{devices}, replicated, cached: batch_stats" for devices in ("1 device", "8 devices")
    ]


@pytest.mark.parametrize(
    ("room", "name", "broken", "complaint"),
    [
        ("simclr", "nt_xent", local_nt_xent, "each row saw 2.00 negatives; it should see 30"),
        ("simclr", "nt_xent", forgetful_nt_xent, "gradients off by"),
        ("base", "replicate", repeated, "gradients off by 7 from 1 device"),
    ],
)
def test_a_mistake_is_seen_and_named(tiny_config, monkeypatch, room, name, broken, complaint):
    monkeypatch.setattr(importlib.import_module(f"simclr_jax.methods.{room}"), name, broken)
    groups = [[Variant(1), Variant(8, "fsdp")]]
    monkeypatch.setattr(verifying, "variants", lambda num_devices, *, tiles: groups)
    lines = failures(compare(tiny_config))
    assert any(line.startswith("8 devices, fsdp: ") and complaint in line for line in lines)
    assert not any(line.startswith("1 device") for line in lines)


def test_an_augmentation_that_knows_its_devices_is_seen(tiny_config, monkeypatch):
    def lighter(*, size: int):
        policy = POLICIES["simclr"](size=size, blur=False)

        def augment(key, batch):
            return policy.augment(key, batch) + 1e-3 * (mesh_size(batch["image"]) > 1)

        return dataclasses.replace(policy, augment=augment)

    monkeypatch.setitem(POLICIES, "simclr_cifar", lighter)
    groups = [[Variant(1), Variant(8)]]
    monkeypatch.setattr(verifying, "variants", lambda num_devices, *, tiles: groups)
    (line,) = failures(compare(tiny_config))
    assert line.startswith("8 devices, replicated: views off by 0.001")


@pytest.mark.parametrize("wrong", [{"loss": math.nan}, {"loss": math.inf}, {}])
def test_what_is_no_number_is_no_agreement(wrong):
    count = 30.0 if wrong else math.nan
    one = Variant(1)
    differences = {"loss": 0.0, **wrong}
    found = Comparison(one, one, differences, dict.fromkeys(differences, ""), count, 30, 0.0)
    assert len(found.failures()) == 1


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("method", {"name": "simcrl"}, "Did you mean 'simclr'"),
        ("method", {"grad_cache_chunks": -3}, "grad_cache_chunks=-3; it must be at least 1"),
        ("method", {"loss_tile": -3}, "loss_tile=-3"),
        ("parallel", {"preset": "zero2"}, "preset='zero2' must be one of"),
        ("schedule", {"scaling": "cubic"}, "config.schedule: .*cubic"),
    ],
)
def test_what_train_refuses_is_refused(tiny_config, section, changes, message):
    tiny_config[section] = {**tiny_config[section], **changes}
    with pytest.raises(UserError, match=message):
        compare(tiny_config)


def test_cached_variants_take_the_parts_of_the_config(tiny_config):
    assert num_chunks(tiny_config) == 2
    assert num_chunks({**tiny_config, "method": {"name": "simclr", "grad_cache_chunks": 8}}) == 8


RECIPE = """
import importlib, json
from ml_collections import ConfigDict
from simclr_jax.models.ssl import ENCODERS
from tests.tiny import TinyEncoder
from tests.integration import verify_test

ENCODERS["tiny"] = TinyEncoder

def get_config(variant=""):
    if variant == "broken":
        simclr = importlib.import_module("simclr_jax.methods.simclr")
        simclr.nt_xent = verify_test.local_nt_xent
    return ConfigDict(json.loads({config!r}))
"""


@pytest.mark.thorough
@pytest.mark.parametrize(("variant", "code"), [("", 0), (":broken", 1)])
def test_the_exit_code_says_whether_all_agree(tiny_config, tmp_path, variant, code):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(config=json.dumps(tiny_config)))
    result = subprocess.run(
        [
            *(sys.executable, "-m", "simclr_jax", "verify", f"--config={recipe}{variant}"),
            *("--devices=4", "--steps=1", "--json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stderr
    report = json.loads(result.stdout)
    assert report["agree"] == (code == 0)
    assert any("negatives" in line for line in report["failures"]) == (code == 1)
    assert {one["variant"] for one in report["variants"]} >= {
        "1 device, replicated",
        "4 devices, fsdp, tiled, cached",
    }


def test_every_preset_is_run_plain_cached_and_tiled():
    every = {variant for group in variants(8, tiles=True) for variant in group[1:]}
    for preset in PRESETS:
        assert Variant(8, preset) in every
        assert Variant(8, preset, tiled=True, cached=True) in every
    assert Variant(1, cached=True, frozen=True) in every
    assert not any(v.tiled for group in variants(8, tiles=False) for v in group)


@pytest.mark.parametrize(("num_devices", "size"), [(4, 2), (6, 2), (8, 4), (12, 4), (16, 8)])
def test_both_axes_of_the_mesh_are_longer_than_one(num_devices, size):
    assert fsdp_size(num_devices) == size


def test_nothing_starts_where_a_gradient_vanishes():
    params = {"scale": np.zeros(3, np.float32), "kernel": np.zeros((4, 3), np.float32)}
    stats = {"norm": {"var": np.ones(3, np.float32)}}
    start = TrainState(np.int32(0), params, stats, ())
    moved = perturb_constants(start)
    assert all(np.ptp(leaf) > 0 for leaf in jax.tree.leaves((moved.params, moved.batch_stats)))
    assert moved.batch_stats["norm"]["var"].min() > 0
    again = perturb_constants(start)
    assert jax.tree.all(jax.tree.map(np.array_equal, moved, again)), "not the same every time"
