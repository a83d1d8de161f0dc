"""ConfigDict -> Run. The only reader of a config; each section is the arguments of one callable.

run       train.loop.RunLength               optim     optim.build.OPTIMIZERS[name]
data      data.dataset.Dataset               schedule  optim.schedules.recipe_schedule
augment   augment.policies.POLICIES[name]    method    methods.METHODS[name]
encoder   models.ssl.ENCODERS[name]          heads     projector: models.heads.Projector
evals     knn: evals.online.OnlineKNN, judged while training
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh

from simclr_jax.augment.policies import POLICIES
from simclr_jax.core import rng
from simclr_jax.core.errors import UserError, nearest
from simclr_jax.core.sections import blame, call, choose
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.place import place_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.records import Source
from simclr_jax.data.sources import suggest_sizes
from simclr_jax.evals.online import Encode, OnlineKNN
from simclr_jax.methods import METHODS
from simclr_jax.methods.base import Method
from simclr_jax.models.heads import Projector
from simclr_jax.models.ssl import ENCODERS, SSLModel
from simclr_jax.optim.build import OPTIMIZERS
from simclr_jax.optim.schedules import num_train_steps, recipe_schedule
from simclr_jax.parallel.mesh import check_batch_size, make_mesh
from simclr_jax.parallel.sharding import batch_sharding, replicated
from simclr_jax.train import workdir as workdirs
from simclr_jax.train.checkpoint import Checkpoints, SaveCheckpoint
from simclr_jax.train.health import StopOnNonFinite
from simclr_jax.train.hooks import LogMetrics, StopOnSigterm
from simclr_jax.train.loop import Hook, RunLength
from simclr_jax.train.metrics import MetricsWriter, view_sheet
from simclr_jax.train.step import TrainStep, init_state, make_train_step

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


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to go: what `train.loop.fit` takes."""

    state: TrainState
    step: TrainStep
    batches: Iterator[Batch]
    num_steps: int
    hooks: list[Hook]


@contextlib.contextmanager
def run(config: Mapping[str, Any], workdir: str) -> Iterator[Run]:
    """Starts a run, or picks up the one that `workdir` holds; closes its files at the end.

    Raises:
      UserError: if the config is wrong, or `workdir` is another run's or cannot be written.
    """
    p = parts(config, make_mesh())
    writer = MetricsWriter(workdir)
    online_evaluation = call("config.evals", _online_evaluation, p.config["evals"], p, writer)
    workdirs.claim(workdir, p.config)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir, keep=p.run.keep_checkpoints))
        first_step = checkpoints.latest_step() or 0
        if first_step:
            state = checkpoints.restore(p.abstract_state, listing=p.source.fingerprint)
            log.info("Resuming at step %d of %d.", first_step, p.num_steps)
        else:
            state = jax.jit(p.init, out_shardings=replicated(p.mesh))()
            params = p.abstract_state.params
            log.info(parameter_overview.get_parameter_overview(params, include_stats=False))
        host_batches = p.dataset.train_batches(
            p.source,
            seed=p.run.seed,
            first_step=first_step,
            num_steps=p.num_steps,
            quarantine=Quarantine(
                epath.Path(workdir) / "quarantine.jsonl", process_index=jax.process_index()
            ),
        )
        stack.enter_context(contextlib.closing(host_batches))
        writer.open(first_step=first_step)
        stack.enter_context(contextlib.closing(writer))
        writer.write_image("views", view_sheet(augmented_pairs(p, 16)), first_step)
        log_metrics = LogMetrics(
            writer,
            p.schedule,
            every=p.run.log_every,
            first_step=first_step,
            num_steps=p.num_steps,
            batch_size=p.dataset.batch_size,
            num_examples=len(p.source),
        )
        stack.enter_context(contextlib.closing(log_metrics))
        save_checkpoint = SaveCheckpoint(
            checkpoints,
            every=p.run.checkpoint_every,
            num_steps=p.num_steps,
            batch_size=p.dataset.batch_size,
            listing=p.source.fingerprint,
        )
        yield Run(
            state=state,
            step=jax.jit(
                make_train_step(p.method, p.tx, jax.random.key(p.run.seed)),
                in_shardings=(replicated(p.mesh), batch_sharding(p.mesh)),
                out_shardings=replicated(p.mesh),
                donate_argnums=0,
            ),
            batches=place_batches(host_batches, p.mesh),
            num_steps=p.num_steps,
            hooks=[
                StopOnNonFinite(),
                *online_evaluation,
                log_metrics,
                save_checkpoint,
                StopOnSigterm(save_checkpoint),
            ],
        )


def _online_evaluation(
    p: Parts, writer: MetricsWriter, *, knn: dict[str, Any] | None = None
) -> list[Hook]:
    """Is what the section `evals` calls: nothing to judge if it is empty."""
    if knn is None:
        return []
    if p.test_source is None or not p.source.class_names:
        lacking = "config.data.test_split" if p.source.class_names else "labels"
        raise UserError(
            f"config.evals.knn needs {lacking}: kNN judges labelled test images. Remove it from "
            "the config, or for a folder of class folders, set data.labels_from_folders=True "
            "and data.test_split."
        )
    judged = (writer, p.encode, p.dataset, p.source, p.test_source, p.mesh, p.num_steps)
    return [call("config.evals.knn", OnlineKNN, knn, *judged)]


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
