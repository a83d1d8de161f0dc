"""The images or sounds of a run: where they come from, how many at a time, in which size."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import jax
import numpy as np

from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import Count, Fraction, NonNegative, Positive, Range, Seed, Share
from simclr_jax.core.types import CutsBySize
from simclr_jax.data.columns import Columns
from simclr_jax.data.decode import Rendering
from simclr_jax.data.load import Batches, eval_batches, train_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.reading import Patience
from simclr_jax.data.records import Source, count_shared, require_readable
from simclr_jax.data.sources import open_source
from simclr_jax.data.subsets import LabelSubset
from simclr_jax.data.text import Captions


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The images of a run, read by every process in its share.

    Attributes:
      name: one of `sources.SOURCES`, such as "digits", "folder" or "tfds/NAME".
      batch_size: images in the global batch, over all devices.
      canvas: side in px of the square that every image is fitted into, by scaling it down
        only, before views are cut out of it. What fits keeps the official pixels. None for sounds
        and texts.
      split: images to train on; see `sources.open_source`.
      test_split: images to judge on; None if there are none.
      path: the folder or file, or several with commas between, see `sources.open_source`; or the
        directory that holds prepared TFDS data sets.
      labels_from_folders: whether class subfolders of a folder are its labels; None: if every
        image is in one.
      class_names: the classes in the order of their labels; the training images' if None.
      kind: "images" or "sounds", the one to read from a folder or tars that hold both; None:
        whichever there are more of.
      image_column: column of a table that holds the images or their paths; the first of the usual
        names if None, such as "image", "path", "file_name".
      label_column: column of the classes; "label" or "class" if None.
      caption_column: column of the texts; a usual name if None, such as "caption" or "text". For
        name="texts", several with commas between: sentence, its positive, its hard negative.
      fraction: share of the training labels to use, in (0, 1]: a class-balanced draw that is
        the same on every machine.
      fraction_seed: number of the draw.
      keep_unlabelled: train on the other images too, without their labels; or not at all.
      ground: grey level behind transparent pixels, from 0 to 255.
      value_range: which values are black and white in files with more than 8 bits a channel:
        "type", 0 and 65535; "file", each file's own extremes; or LOW:HIGH, such as 0:4095.
      channels: 3: images are read as RGB; 1: as grey; another number: with the channels that they
        store, such as 4 for RGBA, with alpha as one of them, or for a TIFF of four pages.
      hash_images: on resume, compare what the files hold, and not only their names and sizes; that
        reads all of them at each start.
      accept_images: go on though files have changed; the value that the refusal names.
      max_unreadable: share of the training images that may turn out unreadable before the run
        stops; until then others stand in for them, see `stand_ins`.
      outage_seconds: a read that fails or hangs is tried again for so long; then the run stops.
      read_timeout: seconds that a read may take before it is reported, and tried again in parallel.
      num_threads: threads that read and decode, per process; one per core that it may use if None.
      captions: how captions become tokens; None to train on images alone.
    """

    name: str
    batch_size: Count
    canvas: Count | None
    split: str
    test_split: str | None = None
    path: str | tuple[str, ...] | None = None
    labels_from_folders: bool | None = False
    class_names: tuple[str, ...] | None = None
    kind: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    fraction: Fraction = 1.0
    fraction_seed: Seed = 0
    keep_unlabelled: bool = False
    ground: Annotated[int, Range(least=0, most=255)] = 255
    value_range: str = "type"
    channels: Count = 3
    hash_images: bool = False
    accept_images: str = ""
    max_unreadable: Share = 0.05
    outage_seconds: NonNegative = 600.0
    read_timeout: Positive = 60.0
    num_threads: Count | None = None
    captions: Captions | None = None

    def __post_init__(self) -> None:
        _ = self.rendering  # raises a ValueError if the range is none

    @property
    def rendering(self) -> Rendering:
        """How what files store becomes grey levels."""
        return Rendering(self.ground, self.value_range, self.channels)

    @property
    def patience(self) -> Patience:
        """How long storage is waited for."""
        return Patience(self.outage_seconds, self.read_timeout)

    def open_train(self) -> Source:
        """Opens the images to train on, with the share of labels that is used.

        Raises:
          UserError: if they are not there, or cannot be drawn from.
        """
        source = self.open(self.split)
        if self.fraction == 1:
            return source
        return LabelSubset(
            source, self.fraction, seed=self.fraction_seed, keep_unlabelled=self.keep_unlabelled
        )

    def open_test(self, train: Source | None) -> Source | None:
        """Opens the images to judge on, None if there are none.

        Args:
          train: images that the judged network was, or will be, fitted on; None if unknown.

        Raises:
          UserError: if they are not there, have other classes, or some are training images.
        """
        if self.test_split is None:
            return None
        names = self.class_names or (train and train.class_names) or None
        test = dataclasses.replace(self, class_names=names).open(self.test_split)
        if train is not None and (shared := count_shared(train, test)):
            raise UserError(
                f"{shared} of the {len(test)} test images ({test.name}) are training images "
                f"({train.name}), too, and would be judged on what was fitted to them. Give splits "
                "that share none, such as --config.data.split=train --config.data.test_split=test "
                "(--split and --test_split of `evaluate`)."
            )
        return test

    def open(self, split: str) -> Source:
        """Opens all of one split.

        Raises:
          UserError: if it is not there, or has other classes.
        """
        return open_source(
            self.name,
            split=split,
            path=self.path,
            labels_from_folders=self.labels_from_folders,
            class_names=self.class_names,
            kind=self.kind,
            columns=Columns(self.image_column, self.label_column, self.caption_column),
        )

    def train_batches(
        self,
        source: Source,
        cuts: CutsBySize,
        *,
        seed: int,
        first_step: int,
        num_steps: int,
        quarantine: Quarantine,
    ) -> Batches:
        """Yields this process's rows of the shuffled global batches; see `load.train_batches`.

        Raises:
          UserError: if the source holds another kind of example than the cuts are for.
        """
        require_readable(source, cuts)
        return train_batches(
            source,
            cuts,
            batch_size=self.batch_size,
            canvas=self.canvas,
            seed=seed,
            first_step=first_step,
            num_steps=num_steps,
            max_unreadable=self.max_unreadable,
            quarantine=quarantine,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=self.num_threads,
            patience=self.patience,
            rendering=self.rendering,
        )

    def eval_batches(
        self,
        source: Source,
        cuts: CutsBySize,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        quarantine: Quarantine | None = None,
    ) -> Batches:
        """Yields this process's rows of all, or some, images once; see `load.eval_batches`.

        Raises:
          UserError: if the source holds another kind of example than the cuts are for.
        """
        require_readable(source, cuts)
        return eval_batches(
            source,
            cuts,
            batch_size=self.batch_size,
            canvas=self.canvas,
            indices=indices,
            quarantine=quarantine,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=self.num_threads,
            patience=self.patience,
            rendering=self.rendering,
        )
