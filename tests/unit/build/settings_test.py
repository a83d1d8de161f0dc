"""No number of any section may be negative or NaN: told before anything is built."""

import contextlib

import pytest

from simclr_jax.build.schema import SECTIONS
from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import REQUIRED, build_section, settings_of
from simclr_jax.methods.base import FrozenNetwork
from simclr_jax.models import heads
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import SSLModel
from simclr_jax.models.text import TextTransformer
from simclr_jax.models.vit import ViT

MODEL = SSLModel(ResNet(18), heads.MLP(), heads.classifier(num_classes=2))
PROJECTS = SSLModel(ResNet(18), heads.MLP())
PREDICTS = SSLModel(ResNet(18), heads.MLP(), predictor=heads.MLP())
HEADLESS = SSLModel(ResNet(18))
PATCHES = SSLModel(ViT("tiny"))
CLUSTERS = SSLModel(ResNet(18), heads.MLP(), prototypes=heads.Prototypes(num_prototypes=8))
TEXT = TextTransformer(num_tokens=8)
TOWERS = SSLModel(ResNet(18), heads.MLP(), text=TEXT, text_projector=heads.MLP())
TOWER = SSLModel(None, text=TEXT, text_projector=heads.MLP())
FACTS = RunFacts(num_steps=1000, num_images=6400, num_classes=2, batch_size=8)
# What a callable is handed besides its section, by the section.
GIVEN = {
    "schedule": (FACTS,),
    "heads": (ResNet(18),),
    "optim": (lambda step: 1.0,),
}
# What cannot be left out, by its key.
NEEDED = {
    "epochs": 1,
    "name": "digits",
    "batch_size": 4,
    "canvas": 64,
    "split": "train",
    "base_lr": 1.0,
    "depth": 18,
    "size": 128,
    "every_epochs": 1.0,
    "num_classes": 2,
    "num_prototypes": 8,
    "teacher": FrozenNetwork(MODEL, {}),
}


def fitting(fn, settings):
    """Returns the one of these models that a method takes."""
    for model in (MODEL, PROJECTS, PREDICTS, HEADLESS, PATCHES, CLUSTERS, TOWERS, TOWER):
        given = (model, lambda key, batch: 0, FACTS)
        with contextlib.suppress(UserError):
            build_section("config.method", fn, settings, *given)
            break
    return given


def callables():
    """Yields path, callable and what it is handed, for each section and each one within it."""
    for section, fn in SECTIONS.items():
        for name, choice in (fn if isinstance(fn, dict) else {"": fn}).items():
            yield f"{section} {name}".strip(), choice, GIVEN.get(section, ())
            for key, setting in settings_of(choice).items():
                if setting.build is not None:
                    yield f"{section}.{key}", setting.build, ()


CALLABLES = {path: (fn, given) for path, fn, given in callables()}


def numbers():
    """Yields path, key and whether it takes fractions, for each number that can be set."""
    for path, (fn, _) in CALLABLES.items():
        for key, setting in settings_of(fn).items():
            value = NEEDED.get(key, setting.default)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield path, key, isinstance(value, float)


@pytest.mark.parametrize(("path", "key", "takes_fractions"), [*numbers()])
def test_a_number_without_sense_is_refused(path, key, takes_fractions):
    fn, given = CALLABLES[path]
    settings = {
        name: NEEDED[name]
        for name, setting in settings_of(fn).items()
        if name in NEEDED and setting.default in (REQUIRED, None)
    }
    if path.startswith("method "):
        given = fitting(fn, settings)
    for value in (-1, *([float("nan"), -1e-9] if takes_fractions else [])):
        with pytest.raises(UserError, match=key):
            build_section(f"config.{path}", fn, settings | {key: value}, *given)
