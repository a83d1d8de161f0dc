"""DINO: the released head, centre, schedules and clipping, and what it refuses."""

from pathlib import Path

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
from simclr_jax.methods.dino import dino
from simclr_jax.methods.memory import cosine_ema
from simclr_jax.models.heads import MLP, Prototypes
from simclr_jax.models.ssl import SSLModel
from simclr_jax.optim.build import adamw
from simclr_jax.optim.schedules import warmup_cosine
from simclr_jax.parallel.mesh import AXES, make_mesh
from tests.helpers import apply

GOLDEN = np.load(Path(__file__).parents[2] / "golden/family/dino.npz")
B, K = 4, 12
FACTS = RunFacts(num_steps=100, num_images=8, num_classes=0, batch_size=B)  # 2 steps an epoch


@pytest.fixture
def build(tiny_encoder):
    def build(dtype="float32", **settings):
        head = MLP(num_layers=1, output_dim=6, dtype=dtype)
        prototypes = Prototypes(num_prototypes=K, normalize_kernel=True)
        model = SSLModel(tiny_encoder, head, prototypes=prototypes)
        args = (settings, model, lambda key, batch: batch["views"], FACTS)
        return build_section("config.method", dino, *args)

    return build


def started(method, step=0):
    rng = np.random.default_rng(0)
    views = tuple(
        jnp.asarray(rng.uniform(size=(B, count, side, side, 3)), jnp.float32)
        for count, side in ((2, 6), (3, 4))
    )
    variables = jax.jit(method.init)(jax.random.key(0), views)
    state = TrainState(jnp.int32(step), variables.params, variables.batch_stats, (), ())
    return state.replace(method_state=variables.method_state), views


@pytest.mark.parametrize("case", ["plain_norm_fixed", "bn_norm_fixed"])
def test_the_heads_are_the_released_ones_with_their_gradients(case):
    has_norm = case.startswith("bn")
    with jax.enable_x64(True):
        of = lambda name: jnp.asarray(GOLDEN[f"head/{case}/{name}"])
        tree = {}
        for ours, theirs in enumerate((0, 3, 6) if has_norm else (0, 2, 4), start=1):
            at = f"params/mlp/{theirs}"
            tree[f"dense{ours}"] = {"kernel": of(f"{at}/weight").T, "bias": of(f"{at}/bias")}
            if has_norm and ours < 3:
                at = f"params/mlp/{theirs + 1}"
                tree[f"norm{ours}"] = {"scale": of(f"{at}/weight"), "bias": of(f"{at}/bias")}
        head = MLP(
            num_layers=3,
            hidden_dim=8,
            output_dim=4,
            hidden_bias=True,
            hidden_norm=has_norm,
            last_bias=True,
            last_norm="none",
            activation="gelu",
            dtype="float64",
        )
        last = Prototypes(num_prototypes=10, normalize_kernel=True)
        stats = {
            name: {"mean": jnp.zeros(8), "var": jnp.ones(8)} for name in tree if "norm" in name
        }

        def scores(x, head_params, kernel):
            variables = {"params": head_params, "batch_stats": stats}
            rows, _ = head.apply(variables, x, train=True, mutable=["batch_stats"])
            return apply(last, {"params": {"kernel": kernel}}, rows[-1])

        kernel = of("params/last_layer/weight_v").T
        got, pull = jax.vjp(scores, of("x"), tree, kernel)
        np.testing.assert_allclose(got, of("y"), atol=1e-9)
        grad_x, grads, grad_kernel = pull(of("cotangent"))
        np.testing.assert_allclose(grad_x, of("grad_x"), atol=1e-9)
        np.testing.assert_allclose(grad_kernel.T, of("grads/last_layer/weight_v"), atol=1e-9)
        first = grads["dense1"]["kernel"].T
        np.testing.assert_allclose(first, of("grads/mlp/0/weight"), atol=1e-9)


def test_the_teachers_rate_is_the_released_one():
    want = GOLDEN["ema_schedule/values"]
    got = cosine_ema(float(GOLDEN["ema_schedule/base"]), len(want))(jnp.arange(len(want)))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_each_gradient_is_clipped_by_itself_as_in_the_released_code():
    grads = {name: jnp.asarray(GOLDEN[f"clip/grad_{name}_before"]) for name in ("weight", "bias")}
    schedule = warmup_cosine(peak=1.0, total_steps=100, warmup_steps=0)
    tx = adamw(schedule, weight_decay=0.0, clip_each=float(GOLDEN["clip/max_norm"]))
    _, state = tx.update(grads, tx.init(grads), grads)
    means = jax.tree.leaves(state)[1:3]  # of the first step: a tenth of the clipped gradient
    for mean, name in zip(means, ("bias", "weight"), strict=True):
        np.testing.assert_allclose(10 * mean, GOLDEN[f"clip/grad_{name}_after"], rtol=1e-4)


def test_teacher_gets_softer_epoch_by_epoch_and_the_centre_follows_its_scores(build):
    """Targets of one view more or less sharp: the entropy tells the temperature."""
    settings = {"first_teacher_temperature": 0.02, "teacher_temperature": 0.08}
    method = build(**settings, teacher_warmup_epochs=3, center_decay=0.75)
    state, views = started(method)
    loss = jax.jit(lambda s: method.loss(s.params, s, views, {}, jax.random.key(0))[1])
    outs = [loss(state.replace(step=jnp.int32(step))) for step in range(8)]
    entropies = [float(out.metrics["target_entropy"]) for out in outs]
    fixed = [build(teacher_temperature=t, first_teacher_temperature=t) for t in (0.02, 0.05, 0.08)]
    want = [
        float(
            m.loss(state.params, state, views, {}, jax.random.key(0))[1].metrics["target_entropy"]
        )
        for m in fixed
    ]
    np.testing.assert_allclose(entropies, np.repeat([*want, want[-1]], 2), rtol=1e-4)
    target = state.method_state["target"]
    model_scores = outs[0].carry[1] / 0.25  # the mean, as the centre was zero
    assert model_scores.shape == (K,)
    state = state.replace(method_state={"target": target, "center": jnp.ones(K)})
    np.testing.assert_allclose(loss(state).carry[1], 0.75 + 0.25 * model_scores, atol=1e-5)


def test_the_teacher_is_a_slow_copy_and_is_what_is_evaluated(build):
    method = build(ema=0.9)
    state, views = started(method)
    _, out = jax.jit(method.loss)(state.params, state, views, {}, jax.random.key(0))
    after = state.replace(step=jnp.int32(1), params=jax.tree.map(lambda x: x + 1.0, state.params))
    moved = method.after_update(after, out.carry)["target"]["params"]
    expected = jax.tree.map(lambda x: x + 0.1, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moved, expected)
    assert method.evaluated == "method_state/target"
    assert method.frozen_params == (("prototypes/.*", 2),)


def test_eight_devices_have_the_loss_and_the_gradients_of_one_in_float64(build):
    """In float32 the sharp targets multiply what is rounded."""
    with jax.enable_x64(True):
        method = build(dtype="float64")
        state, views = started(method)
        wide = lambda x: x.astype(np.float64) if x.dtype == np.float32 else x
        twice = lambda x: jnp.concatenate([x, x[:, :, ::-1]])  # eight images
        state, views = jax.tree.map(wide, state), jax.tree.map(lambda x: wide(twice(x)), views)
        loss = lambda params, state, views: method.loss(params, state, views, {}, jax.random.key(0))
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        results = [step(state.params, state, views)]
        mesh = make_mesh(jax.devices())
        state = jax.device_put(state, NamedSharding(mesh, P()))
        views = jax.device_put(views, NamedSharding(mesh, P(AXES)))
        results.append(step(state.params, state, views))
        for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(eight, one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_temperature": 0.2}, r"teacher_temperature=0.2 .* below temperature=0.1"),
        ({"ema": 1.5}, r"ema=1.5; it must be in \[0, 1\]"),
        ({"center_decay": 1.0}, "center_decay=1.0 must be at least 0 and below 1"),
        ({"freeze_epochs": 1e30}, r"freeze_epochs=1e\+30 is .* steps, of which at most"),
        ({"teacher_warmup_epochs": 10**30}, r"teacher_warmup_epochs=1e\+30 is .* steps, of which"),
        ({"temperature": 0.0}, "config.method.temperature=0.0 must be above 0"),
    ],
)
def test_settings_out_of_range_are_named(build, settings, message):
    with pytest.raises(UserError, match=message):
        build(**settings)
