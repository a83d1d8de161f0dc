"""The order in which settings that save memory are tried."""

import jax
import pytest

from simclr_jax.build.experiment import build_experiment
from simclr_jax.cli.plan import Attempt, Knobs, _choices, _cures, _until_it_fits
from simclr_jax.core.errors import UserError
from simclr_jax.plan.aot import Program, TooLarge
from simclr_jax.plan.chips import GIB, find_slice
from simclr_jax.plan.here import Here

SLICE = find_slice("v5e:2x4")
MIB = GIB // 1024
FIRST = Knobs("replicated", "none", 1)


def _bytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.fixture
def tried_with(tiny_config):
    tiny_config["data"]["batch_size"] = 64  # 8 on each of 8 devices
    experiment = build_experiment(tiny_config, jax.devices())

    def tried(excess_bytes, refused=(), compiles=False, enough=None, beyond=0):
        """Returns the settings that are tried while the step is too large by so much."""
        needed = SLICE.usable_hbm_bytes + excess_bytes
        of_size = lambda nbytes: Program(0, 0, 0, nbytes, 0.0, 0, 0, [], 0.0, 0, {}, {}, 0, 0.0)
        too_large = of_size(needed) if compiles else TooLarge(needed, "no", 0.0)
        seen = []

        def attempt(changes):
            settings = {f"{section}.{key}": value for (section, key), value in changes.items()}
            seen.append(settings)
            if refused & settings.items():
                raise UserError("has no such setting")
            knobs = {key.split(".")[1]: value for key, value in settings.items()}
            beside = _bytes(experiment.abstract_state.params)
            beside += _bytes(experiment.abstract_batch) // 8  # the next one, on 8 devices
            fitting = SLICE.usable_hbm_bytes - beside
            outcome = of_size(fitting + beyond) if settings == enough else too_large
            return Attempt(experiment, SLICE, Knobs(**{**vars(FIRST), **knobs}), outcome)

        refused = set(refused)
        attempts = [*_until_it_fits(Attempt(experiment, SLICE, FIRST, too_large), attempt)]
        assert any(a.fits for a in attempts) == (enough is not None and not beyond)
        return seen

    return tried


def test_what_costs_the_least_time_comes_first_and_stays(tried_with):
    assert tried_with(1)[:4] == [
        {"parallel.preset": "zero1"},
        {"parallel.preset": "fsdp"},
        {"parallel.preset": "fsdp", "encoder.remat": "convs"},
        {"parallel.preset": "fsdp", "encoder.remat": "blocks"},
    ]


def test_the_cache_takes_the_place_of_rematerialisation(tried_with):
    fsdp = {"parallel.preset": "fsdp"}
    assert tried_with(1)[4:] == [
        *({**fsdp, "method.grad_cache_chunks": n} for n in (2, 4, 8)),
        {**fsdp, "method.grad_cache_chunks": 8, "encoder.remat": "blocks"},
    ]


def test_the_first_that_fits_is_the_last_that_is_tried(tried_with):
    enough = {"parallel.preset": "fsdp", "encoder.remat": "convs"}
    assert tried_with(1, enough=enough)[-1] == enough


def test_room_is_left_for_the_parameters_once_more_and_the_next_batch(tried_with):
    enough = {"parallel.preset": "fsdp", "encoder.remat": "convs"}
    assert tried_with(1, enough=enough, beyond=1)[-1] != enough


def test_a_preset_that_cannot_save_enough_is_not_tried(tried_with):
    seen = tried_with(GIB)
    assert seen[:3] == [
        {"encoder.remat": "convs"},
        {"encoder.remat": "blocks"},
        {"method.grad_cache_chunks": 2},
    ]
    assert not any("parallel.preset" in settings for settings in seen)


def test_a_setting_that_this_recipe_lacks_is_passed_over(tried_with):
    seen = tried_with(1, refused={("encoder.remat", "convs"), ("encoder.remat", "blocks")})
    assert [
        s["method.grad_cache_chunks"]
        for s in seen
        if "encoder.remat" not in s and "method.grad_cache_chunks" in s
    ]


def test_chunks_end_when_they_save_nothing(tried_with):
    seen = tried_with(GIB, compiles=True)
    assert {settings.get("method.grad_cache_chunks", 1) for settings in seen} == {1, 2, 4}


class Gpu:
    """Stands in for a device of a GPU."""

    platform = "gpu"


@pytest.mark.parametrize(("device", "remats"), [(None, ["convs", "blocks"]), (Gpu(), ["blocks"])])
def test_one_device_shares_with_nobody_and_keeps_what_a_gpu_does_not_save(
    tiny_config, device, remats
):
    tiny_config["data"]["batch_size"] = 8
    experiment = build_experiment(tiny_config, jax.devices()[:1])
    here = Here([device or jax.devices()[0]], 1)
    attempt = Attempt(experiment, here, FIRST, TooLarge(None, "no", 0.0))
    assert _choices(attempt) == {
        "preset": [],
        "remat": remats,
        "grad_cache_chunks": [2, 4, 8],
    }


def test_what_is_advised_is_what_the_program_takes(tiny_config):
    tiny_config["data"]["batch_size"] = 64
    experiment = build_experiment(tiny_config, jax.devices())
    attempt = Attempt(experiment, SLICE, FIRST, TooLarge(None, "no", 0.0))
    lacks = {("encoder", "remat"): "convs", ("method", "grad_cache_chunks"): 2}

    def build(changes):
        if changes.items() & lacks.items():
            raise UserError("has no such setting")
        return experiment

    assert _cures(attempt, attempt, build) == {
        "parallel.preset": ["zero1", "fsdp"],
        "encoder.remat": ["blocks"],
    }
