"""No number of any section may be negative or NaN: told before anything is built."""

import inspect

import pytest

from simclr_jax.augment.policies import POLICIES
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import build_section
from simclr_jax.data.dataset import Dataset
from simclr_jax.evals.online import OnlineClassifier, OnlineKNN
from simclr_jax.methods import METHODS
from simclr_jax.methods.distill import Teacher
from simclr_jax.methods.memory import Memory
from simclr_jax.models import heads
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import SSLModel
from simclr_jax.optim.build import OPTIMIZERS
from simclr_jax.optim.schedules import recipe_schedule
from simclr_jax.parallel.sharding import Layout
from simclr_jax.train.loop import RunConfig

# section -> (callable, settings that it cannot do without, what it is handed besides)
MODEL = SSLModel(ResNet(18), classifier=heads.classifier(num_classes=2))
TEACHER = {"teacher": Teacher(MODEL, {})}
SECTIONS = {
    "run": (RunConfig, {"epochs": 1}, ()),
    "data": (Dataset, {"name": "digits", "batch_size": 4, "canvas": 8, "split": "train"}, ()),
    "parallel": (Layout, {}, ()),
    "schedule": (recipe_schedule, {"base_lr": 1.0}, (100, 10, 20)),
    "encoder": (ResNet, {"depth": 18}, ()),
    "heads.projector": (heads.Projector, {"hidden_dim": 8}, ()),
    "heads.classifier": (heads.classifier, {"num_classes": 2}, ()),
    "method.memory": (Memory, {}, ()),
    "evals.knn": (OnlineKNN, {"every_epochs": 1.0}, (None,) * 7),
    "evals.classifier": (OnlineClassifier, {"every_epochs": 1.0}, (None,) * 7),
    **{f"optim, {name}": (fn, {}, (lambda step: 1.0,)) for name, fn in OPTIMIZERS.items()},
    **{f"augment, {name}": (fn, {"size": 32}, ()) for name, fn in POLICIES.items()},
    **{
        f"method, {name}": (fn, TEACHER if name == "distill" else {}, (MODEL, lambda key, batch: 0))
        for name, fn in METHODS.items()
    },
}


def numbers():
    """Yields section, key and whether it takes fractions, for each number that can be set."""
    for section, (fn, settings, given) in SECTIONS.items():
        for key, parameter in list(inspect.signature(fn).parameters.items())[len(given) :]:
            value = settings.get(key, parameter.default)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield section, key, isinstance(value, float)


@pytest.mark.parametrize(("section", "key", "takes_fractions"), [*numbers()])
def test_a_number_without_sense_is_refused(section, key, takes_fractions):
    fn, settings, given = SECTIONS[section]
    for value in (-1, *([float("nan"), -1e-9] if takes_fractions else [])):
        with pytest.raises(UserError, match=key):
            build_section(f"config.{section}", fn, settings | {key: value}, *given)
