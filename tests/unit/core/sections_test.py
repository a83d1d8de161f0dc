"""A config section becomes a call, or an error that says which key is wrong."""

import dataclasses

import flax.linen as nn
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import Count, Decay, NonNegative
from simclr_jax.core.sections import build_section, lookup


def optimizer(schedule: str, *, weight_decay: float = 0.1, name_of: str | None = None) -> tuple:
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay} must be >= 0.")
    return schedule, weight_decay, name_of


@dataclasses.dataclass
class Length:
    epochs: int
    seed: int = 0


class Module(nn.Module):
    depth: int = 50


def test_section_is_the_keyword_arguments():
    assert build_section("config.optim", optimizer, {"name_of": "x"}, "cosine") == (
        "cosine",
        0.1,
        "x",
    )


def test_int_becomes_float_where_a_float_is_wanted():
    value = build_section("config.optim", optimizer, {"weight_decay": 1}, "cosine")[1]
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("fn", "section", "message"),
    [
        (optimizer, {"weight_decy": 1.0}, r"config.x.weight_decy .*Did you mean 'weight_decay'\?"),
        (optimizer, {"weight_decay": "1"}, r"config.x.weight_decay='1' is of type str.* float"),
        (optimizer, {"weight_decay": True}, r"config.x.weight_decay=True is of type bool"),
        (optimizer, {"weight_decay": -1.0}, r"config.x: weight_decay=-1.0 must be >= 0"),
        (optimizer, {"schedule": "again"}, r"config.x.schedule does not exist"),
        (Module, {"name": "x"}, r"config.x.name does not exist"),
    ],
)
def test_names_what_is_wrong(fn, section, message):
    args = () if fn is Module else ("cosine",)
    with pytest.raises(UserError, match=message):
        build_section("config.x", fn, section, *args)


def test_names_the_missing_key():
    with pytest.raises(UserError, match=r"config.run: missing a required argument: 'epochs'"):
        build_section("config.run", Length, {"seed": 1})


def test_choose_splits_the_name_off():
    assert lookup("config.optim", {"lars": optimizer}, {"name": "lars", "a": 1}) == (
        optimizer,
        {"a": 1},
    )


def test_choose_names_the_nearest():
    with pytest.raises(UserError, match=r"config.optim.name='larz'.*Did you mean 'lars'\?"):
        lookup("config.optim", {"lars": optimizer}, {"name": "larz"})


def ranged(*, rate: Decay, weight: NonNegative = 0.0, threads: Count | None = None) -> tuple:
    return rate, weight, threads


def test_a_number_in_its_range_is_taken():
    section = {"rate": 0, "weight": 2, "threads": 1}
    assert build_section("config.x", ranged, section) == (0.0, 2.0, 1)
    assert build_section("config.x", ranged, {"rate": 0.5, "threads": None}) == (0.5, 0.0, None)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rate", 1, r"config\.x\.rate=1\.0 must be at least 0 and below 1\."),
        ("rate", -0.1, r"config\.x\.rate=-0\.1 must be at least 0 and below 1\."),
        ("weight", float("nan"), r"config\.x\.weight=nan must be a finite number\."),
        ("weight", float("inf"), r"config\.x\.weight=inf must be a finite number\."),
        ("threads", 0, r"config\.x\.threads=0 must be at least 1\."),
        ("threads", "2", r"config\.x\.threads='2' is of type str; it must be int or None\."),
    ],
)
def test_a_number_out_of_its_range_is_told_the_range(key, value, message):
    with pytest.raises(UserError, match=message):
        build_section("config.x", ranged, {"rate": 0.5, key: value})
