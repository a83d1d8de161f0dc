"""The gradient cache: a network that is applied in parts is the same network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.methods.base import apply_model, check_grad_cache_chunks, init_model
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import batch_sharding, replicated
from tests.helpers import temporary_bytes

B, V, D = 32, 2, 5
VIEWS = np.random.default_rng(0).normal(size=(B, V, 4, 4, 3)).astype(np.float32)


class Network(nn.Module):
    """Two layers, with or without BatchNorm between them."""

    batch_norm: bool

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(8, name="first")(images.reshape(len(images), -1))
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)
        return {"projection": nn.Dense(D, name="second")(jnp.tanh(x))}


def value_and_grads(model, grad_cache_chunks, mesh=None):
    variables = init_model(model, jax.random.key(0), jnp.asarray(VIEWS))

    def loss(params, views):
        out, stats = apply_model(
            model,
            params,
            variables.batch_stats,
            views,
            key=None,
            grad_cache_chunks=grad_cache_chunks,
        )
        z = out["projection"].reshape(B, V, D)
        return nt_xent(z, temperature=0.2), (z, stats)

    fn = jax.jit(jax.value_and_grad(loss, has_aux=True))
    if mesh is None:
        return jax.device_get(fn(variables.params, VIEWS))
    params = jax.device_put(variables.params, replicated(mesh))
    return jax.device_get(fn(params, jax.device_put(VIEWS, batch_sharding(mesh))))


@pytest.mark.parametrize("grad_cache_chunks", [2, 8])
def test_without_batch_statistics_the_cache_is_exact(grad_cache_chunks):
    plain, cached = (value_and_grads(Network(batch_norm=False), n) for n in (1, grad_cache_chunks))
    for a, b in zip(*map(jax.tree.leaves, (plain, cached)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_batch_norm_sees_one_part_at_a_time():
    model = Network(batch_norm=True)
    (_, (z, stats)), _ = value_and_grads(model, 4)
    variables = model.init(jax.random.key(0), VIEWS[:1, 0], train=False)
    means = []
    for part in range(4):
        rows = VIEWS[part::4].reshape(-1, *VIEWS.shape[2:])
        out, updated = model.apply(variables, rows, train=True, mutable=["batch_stats"])
        np.testing.assert_allclose(
            z[part::4].reshape(-1, D), out["projection"], rtol=1e-4, atol=1e-5
        )
        means.append(updated["batch_stats"]["norm"]["mean"])
    np.testing.assert_allclose(stats["norm"]["mean"], np.mean(means, axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("grad_cache_chunks", [1, 8, 32])
def test_statistics_that_are_not_moved_stay_bit_equal(grad_cache_chunks):
    model = Network(batch_norm=True)
    params, stats, _ = init_model(model, jax.random.key(0), jnp.asarray(VIEWS))
    stats = jax.tree.map(lambda x: x + jnp.linspace(0.1, 1, x.size, dtype=x.dtype), stats)
    _, after = apply_model(
        model,
        params,
        stats,
        jnp.asarray(VIEWS),
        key=None,
        train=False,
        grad_cache_chunks=grad_cache_chunks,
    )
    jax.tree.map(np.testing.assert_array_equal, after, stats)


@pytest.mark.parametrize("grad_cache_chunks", [1, 4])
def test_eight_devices_cut_the_parts_that_one_does(grad_cache_chunks):
    one, eight = (
        value_and_grads(Network(batch_norm=True), grad_cache_chunks, make_mesh(jax.devices()[:n]))
        for n in (1, 8)
    )
    for a, b in zip(*map(jax.tree.leaves, (one, eight)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


class Deep(nn.Module):
    """Layers whose outputs are what takes the memory."""

    @nn.compact
    def __call__(self, images, *, train):
        x = images.reshape(len(images), -1)
        for _ in range(8):
            x = jnp.tanh(nn.Dense(256)(x))
        return {"projection": nn.Dense(D)(x)}


def test_nothing_of_a_part_is_kept_but_what_it_puts_out():
    views = jax.ShapeDtypeStruct((1024, V, 4, 4, 3), jnp.float32)
    variables = init_model(Deep(), jax.random.key(0), jnp.asarray(VIEWS))

    def needed(grad_cache_chunks):
        def total(params, views):
            out, _ = apply_model(
                Deep(),
                params,
                variables.batch_stats,
                views,
                key=None,
                grad_cache_chunks=grad_cache_chunks,
            )
            return (out["projection"] ** 2).sum()

        compiled = jax.jit(jax.grad(total)).lower(variables.params, views).compile()
        return temporary_bytes(compiled)

    assert needed(8) < needed(1) / 3


class Dropping(nn.Module):
    """Draws for each image whether it is left out."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(D)(images.reshape(len(images), -1))
        draws = train and self.has_rng("dropout")
        return {"projection": nn.Dropout(0.5, broadcast_dims=(1,))(x, deterministic=not draws)}


@pytest.mark.parametrize("grad_cache_chunks", [1, 4])
def test_a_network_draws_where_there_is_a_key_and_anew_in_each_part(grad_cache_chunks):
    views = jnp.broadcast_to(jnp.asarray(VIEWS[:1]), VIEWS.shape)
    params, stats, _ = init_model(Dropping(), jax.random.key(0), views)

    def kept(key, train=True):
        settings = {"train": train, "grad_cache_chunks": grad_cache_chunks}
        out, _ = apply_model(Dropping(), params, stats, views, key=key, **settings)
        return np.asarray(out["projection"] != 0).all(axis=1).reshape(B, V)

    drawn, again, other = (kept(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(drawn, again)
    assert np.any(drawn != other)
    assert 0.3 < drawn.mean() < 0.7
    parts = [drawn[part::grad_cache_chunks] for part in range(grad_cache_chunks)]
    assert all(np.any(part != parts[0]) for part in parts[1:])
    assert kept(None).all()
    assert kept(jax.random.key(1), train=False).all()


def test_refuses_no_parts():
    with pytest.raises(ValueError, match="grad_cache_chunks=0; it must be at least 1"):
        check_grad_cache_chunks(0)
