"""Optimizers against five steps of the official LARS and against written-out updates."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.optim.build import OPTIMIZERS, adamw, lars, sgd, with_frozen, with_rates
from simclr_jax.optim.schedules import RunSchedule, warmup_cosine
from tests.helpers import update

GOLDEN = np.load(Path(__file__).parents[2] / "golden/lars.npz")
GOLDEN_DINO = Path(__file__).parents[2] / "golden/family/dino.npz"
# The official variable -> where a parameter of that kind lives here.
OURS = {
    "resnet/conv2d_fixed_padding/conv2d/kernel": ("encoder", "stem_conv", "kernel"),
    "resnet/batch_norm_relu/sync_batch_normalization/gamma": ("encoder", "stem_norm", "scale"),
    "resnet/batch_norm_relu/sync_batch_normalization/beta": ("encoder", "stem_norm", "bias"),
    "projection_head/nl_0/dense/kernel": ("projector", "dense1", "kernel"),
    "projection_head/nl_0/batch_norm_relu_1/sync_batch_normalization_1/gamma": (
        "projector",
        "norm1",
        "scale",
    ),
    "head_supervised/linear_layer/dense_1/kernel": ("classifier", "kernel"),
    "head_supervised/linear_layer/dense_1/bias": ("classifier", "bias"),
    "all_zero/kernel": ("encoder", "zero", "kernel"),
}


def rate(schedule: float | optax.Schedule) -> RunSchedule:
    """Returns a schedule of the learning rate alone; a number is the rate of every step."""
    by_step = schedule if callable(schedule) else lambda step: schedule
    return RunSchedule(rate=by_step, held=lambda step: 1 / 0, done=lambda step: 1 / 0)


def tree(prefix: str) -> Any:
    """Reads the golden tensors under `prefix` into a tree of our names."""
    out: dict = {}
    for official, path in OURS.items():
        node = out
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = jnp.asarray(GOLDEN[f"{prefix}/{official}"])
    return out


def test_lars_takes_the_official_steps():
    rates, decay = jnp.asarray(GOLDEN["lrs"]), float(GOLDEN["weight_decay"])
    tx = lars(rate(lambda step: rates[step]), weight_decay=decay, momentum=0.9)
    params = tree("init")
    state = tx.init(params)
    for i in range(5):
        grads = tree(f"grad{i}")
        # The official gradient of the classifier holds its decay already: that is in the loss.
        grads["classifier"]["kernel"] -= decay * params["classifier"]["kernel"]
        params, state = take_step(tx, params, grads, state)
        want = tree(f"classic/step{i}")
        for path, got in jax.tree_util.tree_leaves_with_path(params):
            where = f"step {i} {jax.tree_util.keystr(path)}"
            leaf = functools.reduce(lambda node, key: node[key.key], path, want)
            np.testing.assert_allclose(got, leaf, rtol=2e-5, atol=1e-6, err_msg=where)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(k, simple=True, separator="/"): np.asarray(x, np.float64)
        for k, x in leaves
    }


@functools.partial(jax.jit, static_argnums=0)
def take_step(tx, params, grads, state) -> tuple[Any, optax.OptState]:
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def one_step(tx, params, grads):
    return take_step(tx, params, grads, tx.init(params))[0]


PARAMS = {
    "conv": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([2.0])},
    "norm1": {"scale": jnp.array([1.0]), "bias": jnp.array([0.5])},
}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


@pytest.mark.parametrize("adapted", [False, True])
def test_lars_adapts_the_classifier_only_if_asked(adapted):
    params = {"classifier": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([2.0])}}
    grads = jax.tree.map(jnp.ones_like, params)
    got = one_step(lars(rate(0.1), weight_decay=0.5, adapt_classifier=adapted), params, grads)
    decayed = np.array([2.5, 3.0])  # the gradient of 1 and half of the weights
    trust = 0.001 * 5 / np.hypot(2.5, 3.0) if adapted else 1
    want = [3, 4] - 0.1 * trust * decayed
    np.testing.assert_allclose(got["classifier"]["kernel"], want, rtol=1e-6)
    np.testing.assert_allclose(got["classifier"]["bias"], [1.9], rtol=1e-6)


def test_sgd_is_nesterov_and_decays_all_but_batch_norm():
    got = one_step(sgd(rate(0.1), weight_decay=0.5, momentum=0.9), PARAMS, GRADS)
    # First step: velocity = g, update = lr * (g + 0.9 g).
    np.testing.assert_allclose(got["conv"]["kernel"], [3 - 0.19 * 2.5, 4 - 0.19 * 3.0], rtol=1e-6)
    np.testing.assert_allclose(got["conv"]["bias"], [2 - 0.19 * 2.0], rtol=1e-6)
    np.testing.assert_allclose(got["norm1"]["scale"], [1 - 0.19], rtol=1e-6)
    np.testing.assert_allclose(got["norm1"]["bias"], [0.5 - 0.19], rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("decay_norms", "decay_biases", "kept"),
    [
        (False, True, {"norm1/scale", "norm1/bias"}),
        (True, True, set()),
        (False, False, {"norm1/scale", "norm1/bias", "conv/bias"}),
        (True, False, {"conv/bias"}),
    ],
)
def test_sgd_takes_the_steps_of_pytorch(nesterov, decay_norms, decay_biases, kept):
    """torch.optim.SGD: v = m v + g; p -= rate * (g + m v if nesterov else v)."""
    rates = [0.3, 0.2, 0.1]
    decayed = {"decay_norms": decay_norms, "decay_biases": decay_biases}
    settings = {"weight_decay": 0.5, "nesterov": nesterov, **decayed}
    tx = sgd(rate(lambda step: jnp.asarray(rates)[step]), **settings)
    state, params = tx.init(PARAMS), PARAMS
    want = {path: (p, np.zeros_like(p)) for path, p in flat(PARAMS).items()}
    for now in rates:
        params, state = take_step(tx, params, GRADS, state)
        for path, (p, v) in want.items():
            g = 1 + (0 if path in kept else 0.5 * p)
            v = 0.9 * v + g
            want[path] = (p - now * (g + 0.9 * v if nesterov else v), v)
    for path, (p, _) in want.items():
        np.testing.assert_allclose(flat(params)[path], p, rtol=1e-5, err_msg=path)


def test_lars_with_the_rate_outside_sums_before_it_scales():
    """As in MoCo v3: v = m v + q (g + decay w); w -= rate v, with q = 0.001 |w| / |g + decay w|."""
    rates = [0.3, 0.1, 0.2]
    tx = lars(rate(lambda step: jnp.asarray(rates)[step]), weight_decay=0.5, rate_in_momentum=False)
    state, params = tx.init(PARAMS), PARAMS
    want = {path: (p, np.zeros_like(p)) for path, p in flat(PARAMS).items()}
    for i, now in enumerate(rates):
        grads = jax.tree.map(lambda g, i=i: (i + 1) * g, GRADS)
        params, state = take_step(tx, params, grads, state)
        for path, (w, v) in want.items():
            g, trust = i + 1.0, 1.0
            if path.endswith("kernel"):
                g = g + 0.5 * w
                trust = 0.001 * np.linalg.norm(w) / np.linalg.norm(g)
            v = 0.9 * v + trust * g
            want[path] = (w - now * v, v)
    for path, (w, _) in want.items():
        np.testing.assert_allclose(flat(params)[path], w, rtol=1e-6, err_msg=path)


def test_adamw_decays_only_weights():
    got = one_step(adamw(rate(0.1), weight_decay=0.5), PARAMS, GRADS)
    # First step: the normalised gradient is 1.
    np.testing.assert_allclose(got["conv"]["kernel"], [3 - 0.1 * 2.5, 4 - 0.1 * 3.0], rtol=1e-5)
    np.testing.assert_allclose(got["conv"]["bias"], [1.9], rtol=1e-5)
    np.testing.assert_allclose(got["norm1"]["scale"], [0.9], rtol=1e-5)


def test_adamw_decays_everything_if_asked():
    got = one_step(adamw(rate(0.1), weight_decay=0.5, decay_all=True), PARAMS, GRADS)
    want = jax.tree.map(lambda p: p - 0.1 * (1 + 0.5 * np.asarray(p)), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def test_sgd_clips_each_gradient_before_it_decays():
    tx = sgd(rate(0.1), weight_decay=0.5, nesterov=False, clip_each=0.5)
    kernel = one_step(tx, PARAMS, GRADS)["conv"]["kernel"]
    gradient = np.full(2, 0.5 / np.sqrt(2)) + 0.5 * np.array([3, 4])
    np.testing.assert_allclose(kernel, [3, 4] - 0.1 * gradient, rtol=1e-5)


@pytest.mark.parametrize("optimizer", [adamw, lars])
def test_class_token_and_positions_neither_decay_nor_scale_with_their_norm(optimizer):
    """As LayerNorm and biases do: one step with decay is one without."""
    names = ("class_token", "positions", "norm1/scale", "norm/bias", "qkv/bias", "qkv/kernel")
    params = {f"encoder/block0/{name}": jnp.full((2, 4), 3.0) for name in names}
    grads = jax.tree.map(lambda x: 0.5 + jnp.arange(8.0).reshape(2, 4), params)
    plain, decayed = (
        one_step(optimizer(rate(0.1), weight_decay=decay), params, grads) for decay in (0.0, 0.5)
    )
    changed = {path for path in params if np.any(plain[path] != decayed[path])}
    assert changed == {"encoder/block0/qkv/kernel"}
    if optimizer is lars:  # plain momentum at the full rate
        token = "encoder/block0/class_token"
        np.testing.assert_allclose(plain[token], params[token] - 0.1 * grads[token], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keeps_the_structure_of_its_state(name):
    tx = OPTIMIZERS[name](rate(0.1))
    state = tx.init(PARAMS)
    _, after = jax.jit(tx.update)(GRADS, state, PARAMS)
    shapes = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
    assert shapes(state) == shapes(after)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_scale_the_updates_of_their_group(name):
    schedule = rate(0.1)
    plain = OPTIMIZERS[name](schedule)
    grouped = OPTIMIZERS[name](schedule, rates=(("encoder/.*", 0.5), ("projector/.*", 0)))
    params = tree("init")
    states, seen = [plain.init(params), grouped.init(params)], []
    for i in range(3):
        grads = tree(f"grad{i}")
        (want, states[0]), (got, states[1]) = (
            update(tx, grads, state, params)
            for tx, state in zip((plain, grouped), states, strict=True)
        )
        seen.append((want, got))
    want, got = seen[-1]
    same = functools.partial(jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-6))
    same(got["encoder"], jax.tree.map(lambda x: 0.5 * x, want["encoder"]))
    same(got["classifier"], want["classifier"])
    assert not any(np.any(x) for x in jax.tree.leaves(got["projector"]))


def test_what_is_frozen_has_no_momentum_and_does_not_decay():
    tx = with_rates(
        functools.partial(sgd, weight_decay=0.1), rate(0.1), (("(encoder|projector)/.*", 0.0),)
    )
    params = tree("init")
    state = tx.init(params)
    held = sum(x.size for x in jax.tree.leaves(state))
    assert held < 2 * sum(x.size for x in jax.tree.leaves(params["classifier"])) + 10
    updates, _ = update(tx, jax.tree.map(jnp.zeros_like, params), state, params)
    assert not any(np.any(x) for x in jax.tree.leaves(updates["encoder"]))
    assert np.any(updates["classifier"]["kernel"])


def test_the_first_pattern_that_matches_counts():
    rates = ((".*kernel", 2.0), ("encoder/.*", 0.0))
    tx = with_rates(optax.sgd, rate(1.0), rates)
    params = tree("init")
    updates, _ = update(tx, tree("grad0"), tx.init(params), params)
    np.testing.assert_allclose(
        updates["encoder"]["stem_conv"]["kernel"],
        -2 * tree("grad0")["encoder"]["stem_conv"]["kernel"],
    )
    assert not np.any(updates["encoder"]["stem_norm"]["scale"])


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((("stage9/.*", 0.1),), r"'stage9/\.\*' matches no parameter .* such as 'classifier/bias'"),
        ((("encoder/.*", 0.1), ("encoder/stem.*", 0.2)), "'encoder/stem.*' matches no parameter"),
        ((("encoder/.*", -1.0),), "factor of 'encoder/.*' is -1.0; it must be at least 0"),
        ((("encoder/(", 1.0),), "unterminated"),
        ((("encoder/.*", "fast"),), "could not convert"),
    ],
)
def test_rates_that_do_nothing_are_refused(rates, message):
    with pytest.raises(ValueError, match=message):
        with_rates(optax.sgd, rate(1.0), rates).init(tree("init"))


def test_lars_of_all_parameters_adapts_and_decays_biases_and_norms_too():
    params = {"norm": {"scale": jnp.array([3.0, 4.0])}, "dense": {"bias": jnp.zeros(2)}}
    grads = {"norm": {"scale": jnp.array([0.0, 2.0])}, "dense": {"bias": jnp.array([1.0, 2.0])}}
    tx = lars(rate(0.5), weight_decay=0.1, momentum=0.0, adapt_all=True)
    updates, _ = update(tx, grads, tx.init(params), params)
    decayed = np.array([0.3, 2.4])
    want = -0.5 * 1e-3 * 5 / np.linalg.norm(decayed) * decayed
    np.testing.assert_allclose(updates["norm"]["scale"], want, rtol=1e-6)
    # What is zero has no ratio yet, as in the released code.
    np.testing.assert_allclose(updates["dense"]["bias"], [-0.5, -1.0], rtol=1e-6)


def test_what_is_never_trained_stays_so_where_all_is_frozen_at_first():
    params = {"patches": jnp.ones(2), "dense": jnp.ones(2)}
    frozen = (("patches", None), (".*", 1))
    tx = with_frozen(optax.sgd, rate(0.5), frozen)
    state, moved = tx.init(params), []
    for _ in range(2):
        updates, state = update(tx, params, state, params)
        moved.append({name: bool(np.any(x)) for name, x in updates.items()})
    assert moved == [
        {"patches": False, "dense": False},
        {"patches": False, "dense": True},
    ]


def test_a_constant_rate_warms_up_and_does_not_fall():
    """Plain SGD on a gradient of 1 moves by the rate, which NumPy computes from the paper."""
    schedule = warmup_cosine(peak=0.5, total_steps=10, warmup_steps=2)
    tx = sgd(schedule, momentum=0.0, rates=(("predictor/.*", "constant"), ("encoder/.*", 0.5)))
    params = {name: {"kernel": jnp.zeros(())} for name in ("predictor", "projector", "encoder")}
    grads, state, moved = jax.tree.map(jnp.ones_like, params), tx.init(params), []
    for _ in range(10):
        updates, state = update(tx, grads, state, params)
        moved.append([-float(updates[name]["kernel"]) for name in params])
    held = 0.5 * np.minimum(np.arange(10) / 2, 1)
    falling = held * 0.5 * (1 + np.cos(np.pi * np.clip((np.arange(10) - 2) / 8, 0, 1)))
    want = np.stack([held, falling, 0.5 * falling], axis=1)
    np.testing.assert_allclose(moved, want, rtol=1e-5, atol=1e-7)


def test_weight_decay_rises_as_in_the_released_dino():
    """Without a gradient AdamW takes off rate * decay of a weight, and nothing of a bias."""
    want = np.load(GOLDEN_DINO)["weight_decay_schedule/values"]
    schedule = warmup_cosine(peak=1e-2, total_steps=len(want), warmup_steps=0)
    tx = adamw(schedule, weight_decay=0.04, weight_decay_end=0.4)
    params = {"dense": {"kernel": jnp.ones(()), "bias": jnp.ones(())}}
    grads, state, shares = jax.tree.map(jnp.zeros_like, params), tx.init(params), []
    for step in range(len(want)):
        updates, state = update(tx, grads, state, params)
        shares.append(-updates["dense"]["kernel"] / schedule(step))
        assert not updates["dense"]["bias"]
    np.testing.assert_allclose(shares, want, rtol=1e-5)


def test_what_is_frozen_at_first_starts_with_the_decay_of_that_step():
    schedule = warmup_cosine(peak=1e-2, total_steps=8, warmup_steps=0)
    build = functools.partial(adamw, weight_decay=0.1, weight_decay_end=0.5)
    tx = with_frozen(build, schedule, (("prototypes/.*", 3),))
    params = {name: {"kernel": jnp.ones(())} for name in ("prototypes", "encoder")}
    grads, state = jax.tree.map(jnp.zeros_like, params), tx.init(params)
    for step in range(6):
        updates, state = update(tx, grads, state, params)
        rate_now = 0.01 * 0.5 * (1 + np.cos(np.pi * step / 8))
        decay = 0.5 - 0.4 * 0.5 * (1 + np.cos(np.pi * step / 8))
        want = [-rate_now * decay * (step >= 3), -rate_now * decay]
        got = [updates[name]["kernel"] for name in params]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)


def test_rates_may_be_of_parameters_that_are_frozen_at_first_or_for_good():
    """The optimizer of each group sees its own parameters, and yet every pattern matches some."""
    rates = (("encoder/.*", 0.5), ("prototypes/.*", 0.25), ("projector/.*", 2.0))
    build = functools.partial(sgd, momentum=0.0, rates=rates)
    tx = with_frozen(build, rate(1.0), (("prototypes/.*", 1), ("projector/.*", None)))
    params = {name: {"kernel": jnp.ones(())} for name in ("encoder", "prototypes", "projector")}
    state, moved = tx.init(params), []
    for _ in range(2):
        updates, state = update(tx, params, state, params)
        moved.append([float(updates[name]["kernel"]) for name in params])
    np.testing.assert_array_equal(moved, [[-0.5, 0, 0], [-0.5, -0.25, 0]])
    wrong = functools.partial(sgd, rates=(("stage9/.*", 0.1),))
    tx = with_frozen(wrong, rate(1.0), (("prototypes/.*", 1),))
    with pytest.raises(ValueError, match=r"'stage9/\.\*' matches no parameter"):
        tx.init(params)
