"""Config -> Experiment: everything that a run is made of, before it touches a device."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from simclr_jax.augment.policies import POLICIES, Policy
from simclr_jax.build.checks import check_batch, check_num_classes, check_views
from simclr_jax.build.network import Network, network
from simclr_jax.build.resolve import frozen_networks, resolve
from simclr_jax.build.schema import complete
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section, config_errors_at, lookup
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import CutsBySize
from simclr_jax.data.batch import empty_batch
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Source
from simclr_jax.methods import METHODS
from simclr_jax.methods.base import Frozen, FrozenNetwork, Method
from simclr_jax.optim.build import OPTIMIZERS, with_frozen
from simclr_jax.optim.schedules import RunSchedule, num_train_steps, recipe_schedule
from simclr_jax.parallel.sharding import Layout, batch_sharding, replicated
from simclr_jax.train.loop import RunConfig
from simclr_jax.train.step import init_state, make_train_step
from simclr_jax.train.warm_start import WarmStart, module_trees


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config describes.

    Nothing of it has touched a device, so the mesh may be one of devices that are not there.

    Attributes:
      config: the resolved config, as it stands in D/config.json.
      source: images to train on.
      test_source: images to judge on, None if the config names none.
      policy: how views are made of an image in training.
      num_steps: optimizer steps of the whole run.
      init: () -> the state of step 0, unjitted, before the warm starts.
      warm_starts: checkpoints that replace parts of that state, in order.
      abstract_state: shapes, types and shardings of that state.
      abstract_batch: shapes, types and shardings of a placed global batch.
    """

    config: dict[str, Any]
    mesh: Mesh
    run: RunConfig
    dataset: Dataset
    source: Source
    test_source: Source | None
    network: Network
    policy: Policy
    method: Method
    tx: optax.GradientTransformation
    schedule: RunSchedule
    num_steps: int
    init: Callable[[], TrainState]
    warm_starts: tuple[WarmStart, ...]
    abstract_state: TrainState
    abstract_batch: dict[str, Any]


def build_experiment(
    config: Mapping[str, Any],
    devices: Sequence[Any] | None = None,
    *,
    train_source: Source | None = None,
) -> Experiment:
    """Builds what a config describes and checks that it fits together.

    Args:
      config: sections, see `build.schema`.
      devices: devices to train on; None for all of the run. They need not exist.
      train_source: takes the place of the training images, which are then not opened, and no
        images are judged; None opens those of the config.

    Raises:
      UserError: naming the section, the key and the value that does not fit.
    """
    config, dataset, source = resolve(config, train_source)
    layout = build_section("config.parallel", Layout, config["parallel"])
    with config_errors_at("config.parallel"):
        mesh = layout.mesh(devices)
    test_source = dataset.open_test(source) if train_source is None else None
    check_num_classes(source, test_source, config["heads"])
    run = build_section("config.run", RunConfig, config["run"])
    net = network(config, dataset.channels)
    facts, policy = _facts(dataset, source, run), _policy(config)
    check_views(policy.cuts, net)
    method, warm_starts = _method(config, net, policy, facts)
    check_batch(dataset.batch_size, source, mesh, method)
    schedule = build_section("config.schedule", recipe_schedule, config["schedule"], facts)
    optimizer, settings = lookup("config.optim", OPTIMIZERS, config["optim"])
    # The encoder's first: a method may freeze all of it, and each pattern must match something.
    frozen = [Frozen(pattern) for pattern in net.model.frozen_params]
    tx = with_frozen(
        functools.partial(build_section, "config.optim", optimizer, settings),
        schedule,
        (*frozen, *method.frozen_params),
    )

    batch = functools.partial(_empty_batch, dataset, policy.cuts, source)

    def init() -> TrainState:  # only the shapes of the batch matter
        return init_state(method, tx, jax.random.key(run.seed), batch())

    with config_errors_at("config"):
        shapes = jax.eval_shape(init)
    with config_errors_at("config.parallel"):
        shardings = layout.state_shardings(shapes, mesh, method.state_rules)
    placed = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    by_rows = batch_sharding(mesh)
    return Experiment(
        config=config,
        mesh=mesh,
        run=run,
        dataset=dataset,
        source=source,
        test_source=test_source,
        network=net,
        policy=policy,
        method=method,
        tx=tx,
        schedule=schedule,
        num_steps=facts.num_steps,
        init=init,
        warm_starts=warm_starts,
        abstract_state=jax.tree.map(placed, shapes, shardings),
        abstract_batch=jax.tree.map(lambda x: placed(x, by_rows), jax.eval_shape(batch)),
    )


def needs_labels(config: Mapping[str, Any], net: Network, dataset: Dataset, source: Source) -> bool:
    """Returns whether the method of a resolved config learns from labels; builds nothing else.

    Args:
      config: sections, see `build.schema`.
      net: the network of the config.
      dataset: its section `data`.
      source: images to train on.
    """
    config = complete(config)
    run = build_section("config.run", RunConfig, config["run"])
    method, _ = _method(config, net, _policy(config), _facts(dataset, source, run))
    return method.needs_labels


def train_step(experiment: Experiment) -> jax.stages.Wrapped:
    """Returns the jitted step of a run, which overwrites its state.

    `train_step(p).lower(p.abstract_state, p.abstract_batch)` needs no data and no device.
    """
    shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state)
    return jax.jit(
        make_train_step(experiment.method, experiment.tx, jax.random.key(experiment.run.seed)),
        in_shardings=(shardings, batch_sharding(experiment.mesh)),
        out_shardings=(shardings, replicated(experiment.mesh)),
        donate_argnums=0,
    )


def _facts(dataset: Dataset, source: Source, run: RunConfig) -> RunFacts:
    return RunFacts(
        num_steps=num_train_steps(len(source), dataset.batch_size, run.epochs),
        num_images=len(source),
        num_classes=len(source.class_names),
        batch_size=dataset.batch_size,
    )


def _policy(config: Mapping[str, Any]) -> Policy:
    build_policy, settings = lookup("config.augment", POLICIES, config["augment"])
    return build_section("config.augment", build_policy, settings)


def _method(
    config: Mapping[str, Any], net: Network, policy: Policy, facts: RunFacts
) -> tuple[Method, tuple[WarmStart, ...]]:
    """Returns the method, and the checkpoints that it starts from."""
    start = build_section("config.warm_start", WarmStart, config["warm_start"])
    starts = [start] if start.checkpoint else []
    method, settings = lookup("config.method", METHODS, config["method"])
    for key in frozen_networks(config["method"]["name"]):
        settings[key], start = _frozen_network(key, settings[key], config, net.channels)
        starts.append(start)
    built = build_section("config.method", method, settings, net.model, policy.augment, facts)
    return built, tuple(starts)


def _empty_batch(dataset: Dataset, cuts: CutsBySize, source: Source) -> dict[str, Any]:
    """Returns a batch of unlabelled black images, in the shapes and types of a placed one."""
    # JAX has no int64 unless asked: ids are int32 on the device.
    placed = lambda rows: jnp.asarray(rows.astype("int32") if rows.dtype == "int64" else rows)
    rows = empty_batch(dataset.batch_size, cuts, source, channels=dataset.channels)
    return jax.tree.map(placed, rows)


def _frozen_network(
    key: str, section: Mapping[str, Any], config: Mapping[str, Any], channels: int
) -> tuple[FrozenNetwork, WarmStart]:
    """Returns the network of config.method.KEY, and where its variables come from."""
    net = network({**section, "augment": config["augment"]}, channels)
    trees = module_trees(net.shapes)
    start = WarmStart(
        checkpoint=section["checkpoint"],
        trees={f"method_state/{key}/{path}": path for path in trees},
    )
    return FrozenNetwork(net.model, net.shapes), start
