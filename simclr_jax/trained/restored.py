"""A trained network, read back from its workdir."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from simclr_jax.augment.log_mel import LogMel
from simclr_jax.build.experiment import needs_labels
from simclr_jax.build.network import Network, network
from simclr_jax.core.compile import jit_once
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import build_section
from simclr_jax.core.tree import select
from simclr_jax.core.types import Batch, Clips
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.place import place_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.records import Source, count_shared, examples_of, require_readable
from simclr_jax.data.text import Captions, read_tokenizer
from simclr_jax.evals.random_features import random_features
from simclr_jax.interop.audio_tower import TrainedAudio
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import replicated
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.loop import RunConfig
from simclr_jax.train.workdir import load_config

CAPTIONS_AT_ONCE = 256
_STATISTICS_BATCHES = 5  # of BatchNorm, for random features
log = logging.getLogger(__name__)
SECTIONS = ("data", "augment", "encoder", "heads")  # of a run and of an import


@dataclasses.dataclass(frozen=True)
class Restored:
    """A network with its weights, of a run or of an import.

    Attributes:
      config: config of the run, resolved.
      dataset: settings of its images, which need not be there until they are opened.
      network: encoder and heads, and how to apply them.
      variables: params and batch_stats of the network.
      step: optimizer steps that they have seen.
      workdir: where they were read from.
    """

    config: dict[str, Any]
    mesh: Mesh
    dataset: Dataset
    network: Network
    variables: Mapping[str, Any]
    step: int
    workdir: str

    @property
    def model(self) -> SSLModel:
        """The encoder and its heads, without their variables."""
        return self.network.model

    @property
    def takes_sounds(self) -> bool:
        """Whether the encoder sees sounds, and not images."""
        return isinstance(self.network.evaluation.cuts, Clips)

    @property
    def examples(self) -> str:
        """What the network reads, in words: "images", "sounds" or "texts"."""
        return examples_of(self.network.evaluation.cuts)

    def training_images(self) -> Source | None:
        """Opens the images that the network was trained on, with the labels that it saw.

        Returns None for an import, whose images are not known.

        Raises:
          UserError: if they are not there any more.
        """
        return self.dataset.open_train() if "method" in self.config else None

    def learned_from_labels(self, trained_on: Source) -> bool:
        """Returns whether training saw labels, or those that a teacher gives.

        Args:
          trained_on: images that the network was trained on.
        """
        has_classifier = self.model.classifier is not None
        return has_classifier or needs_labels(self.config, self.network, self.dataset, trained_on)

    def open_labelled(self, dataset: Dataset) -> tuple[Source, Source, int]:
        """Opens labelled images to fit on, with all their labels, and others to judge on.

        Args:
          dataset: the run's own images, perhaps with other splits, or others.

        Returns:
          Both, and how many of the latter the encoder was trained on, without their labels.

        Raises:
          UserError: if there are none, or the network was trained on some with their labels.
        """
        what, lacking = dataset.name, "test_split"
        train = test = None
        if dataset.test_split is not None:
            train = dataset.open(dataset.split)
            test = dataset.open_test(train)
            what, lacking = train.name, "labels"
            require_readable(train, self.network.evaluation.cuts)
        if train is None or test is None or not train.class_names:
            raise UserError(
                f"kNN and linear probe need labelled {self.examples} to fit on and others to judge"
                f", and {what} has no {lacking}: say which, --split=train --test_split=test, with "
                "--data and --path if they are of another data set; in a folder, the folders of "
                "each split are the classes. Without labels, `report` shows nearest neighbours and "
                "`embed` writes features."
            )
        own = (dataset.name, dataset.path) == (self.dataset.name, self.dataset.path)
        trained_on = self.training_images() if own else None
        seen = 0 if trained_on is None else count_shared(trained_on, test)
        labelled = 0
        if trained_on is not None and seen and self.learned_from_labels(trained_on):
            with_labels = dataclasses.replace(self.dataset, keep_unlabelled=False).open_train()
            labelled = count_shared(with_labels, test)
        if labelled:
            raise UserError(
                f"{labelled} of the {len(test)} test {self.examples} ({test.name}) are among those "
                "that the network was trained on with labels; judge it on others, such as "
                "--test_split=test."
            )
        if seen:
            log.warning(
                "The encoder was trained on %d of the %d test %s (%s), without their labels.",
                seen, len(test), self.examples, test.name,
            )  # fmt: skip
        return train, test, seen

    def encode(self, batch: Batch) -> jax.Array:
        """Returns the representations [b, d] of a placed batch."""
        return self.network.encode(self.variables, batch)

    def project(self, batch: Batch) -> jax.Array:
        """Returns the projections [b, d] of a placed batch."""
        return self.network.project(self.variables, batch)

    def require_encoder(self) -> None:
        """Checks that there is an encoder of images or sounds.

        Raises:
          UserError: if there is none.
        """
        if self.model.encoder is None:
            raise UserError(
                f"{self.workdir} was trained on texts alone and has no encoder to see images or "
                "sounds with. `embed --texts=FILE` writes the rows of texts, and embed_text of "
                "simclr_jax.load gives them to Python."
            )

    def require_text(self) -> Captions:
        """Returns how captions became the tokens of the text tower.

        Raises:
          UserError: if there is none.
        """
        if self.model.text is None or self.dataset.captions is None:
            raise UserError(
                f"{self.workdir} has no text tower: config.heads.text of that run is off. "
                "--config=configs/clip.py:digits trains one."
            )
        return self.dataset.captions

    def embed_captions(self, captions: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Returns the rows of captions, to be compared with projections of images.

        How many were longer than the context, and are cut, is logged.

        Raises:
          UserError: if the run has no text tower, its tokenizer is not there, there is no caption,
            or one of them is empty.
        """
        tokenizer = read_tokenizer(self.workdir, self.require_text())
        if not captions:
            raise UserError("There is no text to embed.")
        for number, caption in enumerate(captions, start=1):
            if not caption.strip():
                raise UserError(f"Text {number} of {len(captions)} is empty; leave it out.")
        rows = []
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            part = captions[start : start + CAPTIONS_AT_ONCE]
            tokens = [tokenizer(caption) for caption in part]
            # One shape, so that it is compiled once.
            tokens += [tokens[0]] * (CAPTIONS_AT_ONCE - len(part))
            texts = {
                "text": np.stack([one.ids for one in tokens]),
                "length": np.array([one.length for one in tokens], np.int32),
            }
            placed = jax.device_put(texts, replicated(self.mesh))
            out = jax.device_get(self.network.embed_text(self.variables, placed))
            rows.append(np.asarray(out, np.float32)[: len(part)])
        if tokenizer.num_cut:
            log.warning("%d of %d texts are cut.", tokenizer.num_cut, len(captions))
        return np.concatenate(rows)

    def classify(self, batch: Batch) -> jax.Array:
        """Returns the logits [b, k] of a placed batch."""
        return self.network.classify(self.variables, batch)

    def encode_with_random_features(
        self, dataset: Dataset, train: Source
    ) -> Callable[[Batch], jax.Array]:
        """Returns `encode` with the weights that a run from scratch begins with, of this seed.

        Args:
          dataset: settings by which `train` is read.
          train: images that give the statistics; see `random_features`.
        """
        run = (
            build_section("config.run", RunConfig, self.config["run"])
            if "run" in self.config
            else None
        )
        init = jit_once(self.network.random_variables, out_shardings=replicated(self.mesh))
        seed = run.seed if run else 0
        batches = dataset.train_batches(
            train,
            self.network.evaluation.cuts,
            seed=seed,
            first_step=0,
            num_steps=_STATISTICS_BATCHES,
            quarantine=Quarantine(),
        )
        variables = random_features(
            init(seed), self.network.update_statistics, place_batches(batches, self.mesh)
        )
        return lambda batch: self.network.encode(variables, batch)

    def encoder_to_export(self) -> TrainedEncoder | TrainedAudio:
        """Returns the encoder as export formats take it, with a classifier directly on top of it.

        An encoder of sounds goes without a classifier.

        Raises:
          UserError: if there is none.
        """
        self.require_encoder()
        network: Any = self.model.encoder  # a linen module, which its protocol does not say
        params, batch_stats = (
            jax.device_get(self.variables[key]) for key in ("params", "batch_stats")
        )
        statistics = {"encoder": {}, **batch_stats}["encoder"]
        if isinstance(clips := self.network.evaluation.cuts, Clips):
            log_mel = self.config["augment"]["log_mel"]
            log_mel = (
                build_section("config.augment.log_mel", LogMel, log_mel) if log_mel else LogMel()
            )
            return TrainedAudio(network, params["encoder"], statistics, log_mel, clips.num_samples)
        on_representation = self.model.classifier is not None and self.model.select == 0
        return TrainedEncoder(
            network=network,
            params=params["encoder"],
            batch_stats=statistics,
            image_size=self.network.evaluation.size,
            channels=self.network.channels,
            classifier=params["classifier"] if on_representation else None,
        )


def load(workdir: str, step: int | None = None, *, for_texts: bool = False) -> Restored:
    """Reads the newest whole checkpoint of a workdir, or that of a step.

    Args:
      workdir: directory of a run or an import.
      step: number of the checkpoint; the newest whole one if None.
      for_texts: whether a network without an encoder will do, too.

    Raises:
      UserError: if the directory holds no run and no import, no such checkpoint, or no encoder
        where one is needed.
      StorageError: if the checkpoint cannot be read.
    """
    config, mesh = load_config(workdir, SECTIONS), make_mesh()
    dataset = build_section("config.data", Dataset, config["data"])
    net = network(config, dataset.channels)
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh))
    checkpoints = Checkpoints(workdir)
    step = checkpoints.find(step)
    variables = _evaluated_variables(checkpoints, step, jax.tree.map(place, net.shapes))
    run = Restored(config, mesh, dataset, net, variables, step, workdir)
    if not for_texts:
        run.require_encoder()
    return run


def _evaluated_variables(
    checkpoints: Checkpoints, step: int, wanted: dict[str, Any]
) -> Mapping[str, Any]:
    """Restores the copy of the network that the method names; heads that it lacks are left out."""
    path = checkpoints.evaluated(step)
    if not path:
        return checkpoints.restore_variables(step, wanted)
    there = select(checkpoints.shapes(step), path)
    part = {
        name: {module: tree for module, tree in modules.items() if module in there[name]}
        for name, modules in wanted.items()
    }
    for name in reversed(path.split("/")):
        part = {name: part}
    return select(checkpoints.restore_variables(step, part), path)
