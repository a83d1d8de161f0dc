"""Config -> the parts of a run. Each section is the keyword arguments of one callable.

run       train.loop.RunLength               optim     optim.build.OPTIMIZERS[name]
data      data.dataset.Dataset               schedule  optim.schedules.recipe_schedule
augment   augment.policies.POLICIES[name]    method    methods.METHODS[name]
encoder   models.ssl.ENCODERS[name]          heads     projector: models.heads.Projector
evals     knn: evals.online.OnlineKNN, judged while training
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from simclr_jax.augment.policies import POLICIES
from simclr_jax.core import rng
from simclr_jax.core.errors import UserError, nearest
from simclr_jax.core.sections import blame, call, choose
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.place import place_batches
from simclr_jax.data.records import Source
from simclr_jax.data.sources import suggest_sizes
from simclr_jax.evals.online import Encode
from simclr_jax.methods import METHODS
from simclr_jax.methods.base import Method
from simclr_jax.models.heads import Projector
from simclr_jax.models.ssl import ENCODERS, SSLModel
from simclr_jax.optim.build import OPTIMIZERS
from simclr_jax.optim.schedules import num_train_steps, recipe_schedule
from simclr_jax.parallel.mesh import check_batch_size
from simclr_jax.parallel.sharding import replicated
from simclr_jax.train.loop import RunLength
from simclr_jax.train.step import init_state

log = logging.getLogger(__name__)
SECTIONS = ("run", "data", "augment", "encoder", "heads", "method", "optim", "schedule", "evals")
LARGEST_DEFAULT_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a config describes.

    Nothing of it has touched a device, so the mesh may be one of devices that are not there.

    Attributes:
      config: the resolved config, as it stands in D/config.json.
      source: images to train on.
      test_source: images to judge on, None if the config names none.
      num_steps: optimizer steps of the whole run.
      encode: (variables, batch) -> representations [b, d], for evaluation.
      pixels: batch -> the same images as raw pixels [b, h * w * c], a baseline for `encode`.
      init: () -> the state of step 0, unjitted.
      abstract_state: its shapes, types and shardings.
    """

    config: dict[str, Any]
    mesh: Mesh
    run: RunLength
    dataset: Dataset
    source: Source
    test_source: Source | None
    method: Method
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    num_steps: int
    encode: Encode
    pixels: Callable[[Batch], jax.Array]
    init: Callable[[], TrainState]
    abstract_state: TrainState


def parts(config: Mapping[str, Any], mesh: Mesh) -> Parts:
    """Builds what a config describes and checks that it fits together.

    Raises:
      UserError: naming the section, the key and the value that does not fit.
    """
    config, dataset, source = _resolve(config)
    with blame("config.data"):
        check_batch_size(dataset.batch_size, mesh)
    if dataset.batch_size > len(source):
        raise UserError(
            f"config.data.batch_size={dataset.batch_size} is more than the {len(source)} images "
            f"of {source.name}: an image would be its own negative. Use {len(source)} or less."
        )
    test_source = dataset.open(dataset.test_split) if dataset.test_split is not None else None
    if test_source is not None and test_source.class_names != source.class_names:
        raise UserError(
            f"{test_source.name} has the classes {test_source.class_names[:10]} and {source.name} "
            f"{source.class_names[:10]}: the same label would mean different things."
        )
    run = call("config.run", RunLength, config["run"])
    policy, settings = choose("config.augment", POLICIES, config["augment"])
    augment = call("config.augment", policy, settings)
    encoder, settings = choose("config.encoder", ENCODERS, config["encoder"])
    model = SSLModel(
        encoder=call("config.encoder", encoder, settings),
        projector=call("config.heads", _projector, config["heads"]),
    )
    method, settings = choose("config.method", METHODS, config["method"])
    method = call("config.method", method, settings, model, augment)
    length = (len(source), dataset.batch_size, run.epochs)
    schedule = call("config.schedule", recipe_schedule, config["schedule"], *length)
    optimizer, settings = choose("config.optim", OPTIMIZERS, config["optim"])
    tx = call("config.optim", optimizer, settings, schedule)
    eval_views = POLICIES["eval"](size=config["augment"]["size"])

    def images(batch: Batch) -> jax.Array:
        return eval_views(jax.random.key(0), batch)[:, 0]

    def encode(variables: Mapping[str, Any], batch: Batch) -> jax.Array:
        representations = model.apply(variables, images(batch), method="encode")
        assert isinstance(representations, jax.Array)  # nothing is mutable here
        return representations

    def pixels(batch: Batch) -> jax.Array:
        return images(batch).reshape(batch["image"].shape[0], -1)

    def init() -> TrainState:
        batch = {  # only its shapes matter
            "image": jnp.zeros((1, dataset.canvas, dataset.canvas, 3), jnp.uint8),
            "size": jnp.full((1, 2), dataset.canvas, jnp.int32),
            "label": jnp.full((1,), -1, jnp.int32),
        }
        return init_state(method, tx, jax.random.key(run.seed), batch)

    with blame("config.augment.size and config.encoder"):
        shapes = jax.eval_shape(init)
    placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh))
    return Parts(
        config=config,
        mesh=mesh,
        run=run,
        dataset=dataset,
        source=source,
        test_source=test_source,
        method=method,
        tx=tx,
        schedule=schedule,
        num_steps=num_train_steps(*length),
        encode=jax.jit(encode),
        pixels=jax.jit(pixels),
        init=init,
        abstract_state=jax.tree.map(placed, shapes),
    )


def _projector(*, projector: dict[str, Any]) -> Projector:
    """Is what the section `heads` calls."""
    return call("config.heads.projector", Projector, projector)


def _resolve(config: Mapping[str, Any]) -> tuple[dict[str, Any], Dataset, Source]:
    """Fills in the sizes that a recipe leaves to the images themselves (those that are None)."""
    for section in config:
        if section not in SECTIONS:
            raise UserError(
                f"config.{section} does not exist.{nearest(section, SECTIONS)} "
                f"Known sections: {', '.join(SECTIONS)}."
            )
    missing = [section for section in SECTIONS if section not in config]
    if missing:
        raise UserError(f"config.{missing[0]} is missing.")
    resolved = {section: dict(config[section]) for section in SECTIONS}
    data, augment = resolved["data"], resolved["augment"]
    unsettled = {name: 2 for name in ("canvas", "batch_size") if data.get(name, 2) is None}
    dataset = call("config.data", Dataset, data | unsettled)
    source = dataset.open(dataset.split)
    if data["canvas"] is None or augment.get("size", 0) is None:
        canvas, size = suggest_sizes(source)
        data["canvas"] = data["canvas"] or canvas
        augment["size"] = augment["size"] or size
        log.info("From the images: canvas %d px, views %d px.", data["canvas"], augment["size"])
    if data["batch_size"] is None:
        largest = 2 ** int(np.log2(max(len(source) // 2, 2)))
        data["batch_size"] = min(LARGEST_DEFAULT_BATCH, largest)
        log.info("From %d images: batch size %d.", len(source), data["batch_size"])
    dataset = dataclasses.replace(dataset, canvas=data["canvas"], batch_size=data["batch_size"])
    return resolved, dataset, source


def encoder_variables(state: TrainState) -> dict[str, Any]:
    """Returns what `Parts.encode` needs of a state: the same two entries for every method."""
    return {
        "params": {"encoder": state.params["encoder"]},
        "batch_stats": {"encoder": state.batch_stats["encoder"]},
    }


def augmented_pairs(p: Parts, num_images: int) -> np.ndarray:
    """Returns both views of the first images as training sees them, uint8 [m, 2, h, w, 3].

    Images that cannot be read are left out.
    """
    rows = -(-num_images // p.mesh.size) * p.mesh.size  # a batch that the mesh can split
    dataset = dataclasses.replace(p.dataset, batch_size=rows)
    first = dataset.eval_batches(p.source, indices=range(min(num_images, len(p.source))))
    (batch,) = place_batches(first, p.mesh)
    key = rng.stream(jax.random.key(p.run.seed), "augment", 0)
    views = jax.jit(p.method.augment)(key, batch)
    pixels = np.asarray(jnp.round(views * 255), np.uint8)
    return pixels[np.asarray(batch["valid"])]
