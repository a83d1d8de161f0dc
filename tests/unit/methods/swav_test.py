"""SwAV: what it refuses, its chance line, and its queue on many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.methods.swav import swav
from simclr_jax.models.heads import MLP, Prototypes
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.mesh import AXES, make_mesh

B, K = 8, 12
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=0, batch_size=B)


@pytest.fixture
def build(tiny_encoder):
    def build(prototypes=K, **settings):
        head = MLP(num_layers=1, output_dim=4)
        model = SSLModel(tiny_encoder, head, prototypes=Prototypes(num_prototypes=prototypes))
        settings = {"queue_size": 2 * B, "queue_start_epoch": 0.0, **settings}
        args = (settings, model, lambda key, batch: batch["views"], FACTS)
        return build_section("config.method", swav, *args)

    return build


def random_views(*counts):
    rng = np.random.default_rng(0)
    draw = lambda v, side: jnp.asarray(rng.uniform(size=(B, v, side, side, 3)), jnp.float32)
    return tuple(draw(count, side) for count, side in zip(counts, (6, 4), strict=True))


def start(method, views):
    variables = jax.jit(method.init)(jax.random.key(0), views)
    state = TrainState(jnp.int32(0), variables.params, variables.batch_stats, (), ())
    return state.replace(method_state=variables.method_state)


def test_chance_is_the_loss_of_equal_scores(build):
    method, views = build(), random_views(2, 3)
    state = start(method, views)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    _, out = jax.jit(method.loss)(zeros, state, views, {}, jax.random.key(0))
    np.testing.assert_allclose(out.metrics["loss_chance"], np.log(K), rtol=1e-6)
    np.testing.assert_allclose(out.metrics["loss"], np.log(K), rtol=1e-5)


def test_the_queue_counts_from_when_it_is_full_and_is_the_same_on_eight_devices(build):
    method, views = build(), random_views(2, 3)
    state = start(method, views)
    queue = jax.random.normal(jax.random.key(1), (2, B, 2, 4))
    state = state.replace(method_state={"queue": queue})
    loss = jax.jit(lambda *args: method.loss(state.params, *args, {}, jax.random.key(0))[0])
    early, full = (state.replace(step=jnp.int32(step)) for step in (1, 2))
    mesh = make_mesh(jax.devices())
    place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    spread_views = tuple(place(x, AXES) for x in views)
    values = {}
    for name, at in (("early", early), ("full", full)):
        values[name] = loss(at, views)
        spread = jax.tree.map(place, at)
        spread = spread.replace(method_state={"queue": place(queue, None, AXES)})
        np.testing.assert_allclose(loss(spread, spread_views), values[name], rtol=1e-5)
    assert abs(values["early"] - values["full"]) > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prototypes": 9, "queue_start_epoch": 1e6},
            "full after .* steps of a run .*Start it earlier, --config.method.queue_start_epoch=0",
        ),
        ({"prototypes": 25}, "num_prototypes=25 is more than .* 8 .* 16 .*Use at most 24, .*=32"),
        ({"queue_size": 20}, "config.method: queue_size=20 .* 8 rows .* use 16 or 24"),
        ({"freeze_epochs": 1e30}, r"freeze_epochs=1e\+30 is 8e\+30 steps, .* use 13\."),
        ({"queue_start_epoch": 1e30}, r"queue_start_epoch=1e\+30 is 8e\+30 steps"),
        ({"temperature": 0.0}, "config.method.temperature=0.0 must be above 0"),
        ({"epsilon": -1.0}, "config.method.epsilon=-1.0 must be above 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(build, settings, message):
    with pytest.raises(UserError, match=message):
        build(**settings)


def test_other_views_than_two_of_the_largest_size_are_refused(build):
    with pytest.raises(ValueError, match=r"two views of the largest size, .* there are 3"):
        build().init(jax.random.key(0), random_views(3, 2))
