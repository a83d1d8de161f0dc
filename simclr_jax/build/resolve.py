"""Fills in what a recipe leaves to the images and to checkpoints: the values that are None."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax.build.schema import complete
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import absolute
from simclr_jax.core.sections import build_section, settings_of
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.files import absolute_paths
from simclr_jax.data.records import Source, examples_of, has_sounds, has_texts
from simclr_jax.data.sources import suggest_sizes
from simclr_jax.data.text import FILE as TOKENIZER
from simclr_jax.data.text import Captioned, has_captions, tokenizer_of
from simclr_jax.data.text_table import TextsAlone
from simclr_jax.methods import METHODS
from simclr_jax.methods.base import FrozenNetwork
from simclr_jax.train.workdir import load_config

log = logging.getLogger(__name__)
LARGEST_DEFAULT_BATCH = 256
# Settings of encoders that no array tells: with others, the same weights compute something else.
UNTOLD = ("geometry", "input_mean", "input_std", "num_heads")


def resolve(
    config: Mapping[str, Any], train_source: Source | None = None
) -> tuple[dict[str, Any], Dataset, Source]:
    """Returns the config with every value settled, and the images that settled it.

    Args:
      config: sections, see `build.schema`.
      train_source: takes the place of the training images; None opens those of the config.

    Raises:
      UserError: if a section or a key is unknown or missing, or the images, a teacher or its
        classifier are not there.
    """
    resolved = complete(take_over_network(complete(config)))
    data, method = resolved["data"], resolved["method"]
    for key in frozen_networks(method["name"]):
        given = method[key]
        if not given:
            raise UserError(
                f"config.method.{key} is missing: the workdir of a fine-tuned run, as in "
                f"--config.method.{key}=runs/finetuned."
            )
        method[key] = dict(given) if isinstance(given, Mapping) else network_of_run(key, given)
        data["class_names"] = data["class_names"] or method[key]["class_names"]
    dataset, source = _open(data, resolved["augment"], train_source)
    _settle_classes(resolved["heads"], method, source)
    source = _with_tokens(data, resolved["heads"], dataset, source)
    return resolved, dataset, source


def frozen_networks(method: str) -> list[str]:
    """Returns the settings of a method that are networks of other runs, such as a teacher."""
    settings = settings_of(METHODS[method])
    return [key for key, setting in settings.items() if setting.hint is FrozenNetwork]


def take_over_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a complete config; what it leaves open comes from the run or import it starts from.

    An encoder without a name is taken from `config.warm_start.checkpoint`, and so are then a
    projector that the classifier sits on, and canvas and view size where they are None. A student
    takes canvas and view size from its teacher.

    Raises:
      UserError: if there is no such checkpoint.
    """
    config = {section: dict(values) for section, values in config.items()}
    data, augment, heads, method = (config[k] for k in ("data", "augment", "heads", "method"))
    teachers = [method[key] for key in frozen_networks(method["name"])]
    if config["encoder"]["name"] is None:
        start = config["warm_start"]["checkpoint"]
        if not start:
            raise UserError(
                "config.encoder.name is not set, so the encoder is that of a checkpoint, and "
                "config.warm_start.checkpoint is missing: the workdir of a trained run, as in "
                "--config.warm_start.checkpoint=runs/pretrained."
            )
        there = load_config(start, ("data", "augment", "encoder", "heads"))
        config["encoder"] = there["encoder"]
        log.info("Encoder of %s: %s.", start, there["encoder"])
        if heads["select"] and heads["projector"] is None:
            heads["projector"] = there["heads"]["projector"]
    elif teachers and isinstance(teachers[0], str):
        there = load_config(teachers[0], ("data", "augment"))
    else:
        return config
    if "size" in augment and augment["size"] is None:
        augment["size"] = {"size": None, **there["augment"]}["size"]
    if data["canvas"] is None:
        data["canvas"] = there["data"]["canvas"]
    return config


def require_same_encoder(config: Mapping[str, Any]) -> None:
    """Checks that a warm start has the same encoder in settings that the arrays don't show.

    Raises:
      UserError: if a setting of `UNTOLD` is another one there; if there is no such checkpoint.
    """
    start, trees = config["warm_start"]["checkpoint"], config["warm_start"]["trees"]
    if not start or (trees is not None and "params/encoder" not in trees):
        return
    sections = (config["encoder"], load_config(start)["encoder"])
    here, there = (complete({**config, "encoder": section})["encoder"] for section in sections)
    as_read = lambda value: list(value) if isinstance(value, tuple) else value  # from JSON
    flags = [
        f"--config.encoder.{key}={str(there[key]).replace(' ', '')!r}"
        for key in UNTOLD
        if key in here and key in there and as_read(here[key]) != as_read(there[key])
    ]
    if flags:
        raise UserError(
            f"The encoder of {start} has other settings than config.encoder, which its weights do "
            f"not tell but need: add {' '.join(flags)}"
        )


def require_same_tokens(config: Mapping[str, Any]) -> None:
    """Checks that a text tower from a warm start gets the tokens that it was trained on.

    Args:
      config: resolved.

    Raises:
      UserError: if its tokenizer was another one; if there is no such checkpoint.
    """
    start, trees = config["warm_start"]["checkpoint"], config["warm_start"]["trees"]
    if not any(tree.split("/")[:2] == ["params", "text"] for tree in trees or ()):
        return
    hashes = [
        of["data"]["captions"] and of["data"]["captions"]["tokenizer_sha256"]
        for of in (config, complete(load_config(start)))
    ]
    if hashes[0] != hashes[1]:
        raise UserError(
            f"The text tower of {start} knows the tokens of another tokenizer than that of "
            f"config.data.captions: add --config.data.captions.tokenizer={start}/{TOKENIZER}"
        )


def _open(
    data: dict[str, Any], augment: dict[str, Any], train_source: Source | None
) -> tuple[Dataset, Source]:
    if data["path"] is not None:
        data["path"] = absolute_paths(data["path"])
    unsettled = {name: 2 for name in ("canvas", "batch_size") if data[name] is None}
    dataset = build_section("config.data", Dataset, data | unsettled)
    source = _taken(dataset.open_train(), augment) if train_source is None else train_source
    if "size" in augment and (data["canvas"] is None or augment["size"] is None):
        canvas, size = suggest_sizes(source)
        data["canvas"] = data["canvas"] or canvas
        augment["size"] = augment["size"] or size
        log.info("From the images: canvas %d px, views %d px.", data["canvas"], augment["size"])
    if data["batch_size"] is None:
        largest = 2 ** int(np.log2(max(len(source) // 2, 2)))
        data["batch_size"] = min(LARGEST_DEFAULT_BATCH, largest)
        log.info("From %d %s: batch size %d.", len(source), examples_of(source), data["batch_size"])
    data["class_names"] = source.class_names or dataset.class_names
    settled = {name: data[name] for name in ("canvas", "batch_size", "class_names")}
    return dataclasses.replace(dataset, **settled), source


def _taken(source: Source, augment: Mapping[str, Any]) -> Source:
    """Returns what the augmentation takes of a source: all of it, or its texts alone.

    Raises:
      UserError: if the source has nothing of that kind.
    """
    name, takes_images = augment["name"], "size" in augment
    if name == "texts":
        return source if has_texts(source) else TextsAlone(source)
    if has_texts(source):
        raise UserError(
            f"{source.name} has texts alone, which config.augment.name={name!r} does not take: "
            "train on them with the recipe simcse."
        )
    if has_sounds(source) == takes_images:
        raise UserError(
            f"{source.name} has sounds, and config.augment.name={name!r} takes images: "
            "--config.augment.name=audio takes sounds, as in the recipe clap."
            if takes_images
            else f"{source.name} has images, and config.augment.name={name!r} takes "
            "sounds: name some, such as --config.data.name=midi_instruments."
        )
    return source


def _with_tokens(
    data: dict[str, Any], heads: dict[str, Any], dataset: Dataset, source: Source
) -> Source:
    """Gives out captions as tokens, and sets how many tokens the text tower knows."""
    captions = dataset.captions
    if captions is None:
        if heads["text"] is not None:
            raise UserError(
                "config.heads.text reads captions, and config.data.captions is off. "
                f"--config.data.captions.context=20 turns it on; {source.name} "
                + ("has captions." if has_captions(source) else "has none: digits do.")
            )
        return source
    tokenizer = tokenizer_of(source)  # of captions that are not there, one is assumed
    if tokenizer is None:
        tokenizer = captions.tokenizer_for(source)
        source = Captioned(source, tokenizer)
    file = data["captions"]["tokenizer"]
    settled = {"tokenizer": file and absolute(file), "tokenizer_sha256": tokenizer.sha256}
    data["captions"] = {**data["captions"], **settled}
    if heads["text"] is not None:
        sizes = {"num_tokens": tokenizer.vocab_size, "context": tokenizer.context}
        heads["text"] = {**heads["text"], **sizes}
    return source


def network_of_run(key: str, workdir: str) -> dict[str, Any]:
    """Returns a run's checkpoint and network, so that only a fresh start needs its workdir.

    Args:
      key: setting of the method that it is for, such as "teacher".
      workdir: directory of the run.

    Raises:
      UserError: if there is none, or it has no classifier.
    """
    config = load_config(workdir, ("data", "encoder", "heads"))
    if not num_classes_of(config["heads"]):
        raise UserError(
            f"config.method.{key}={workdir!r} has no classifier to learn from. Fine-tune it "
            "first: python -m simclr_jax train --config=configs/finetune.py:... "
            f"--config.warm_start.checkpoint={workdir} --workdir=..."
        )
    data = {"class_names": None, **config["data"]}
    return {
        "checkpoint": workdir,
        "encoder": config["encoder"],
        "heads": config["heads"],
        "class_names": data["class_names"],  # of an import nobody knows them
    }


def network_to_assume(config: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Returns a network as large as the one that is trained, for a setting that names none.

    Raises:
      UserError: if that one has no classifier.
    """
    heads = dict(config["heads"])
    if not heads["classifier"]:
        raise UserError("config.heads has no classifier, which this method needs.")
    heads["classifier"] = {**heads["classifier"], "num_classes": num_classes}
    encoder = dict(config["encoder"])
    return {"checkpoint": "(none)", "encoder": encoder, "heads": heads, "class_names": None}


def _settle_classes(heads: dict[str, Any], method: Mapping[str, Any], source: Source) -> None:
    """Gives the classifier as many classes as the labels, or else the teacher, have."""
    if heads["classifier"] is None:
        return
    teachers = [method[key] for key in frozen_networks(method["name"])]
    taught = num_classes_of(teachers[0]["heads"]) if teachers else None
    classifier = dict(heads["classifier"])
    if "num_classes" not in classifier or classifier["num_classes"] is None:
        classifier["num_classes"] = len(source.class_names) or taught
    if not classifier["num_classes"]:
        raise UserError(
            f"{source.name} has no labels to train a classifier with. For a folder of class "
            "folders, set config.data.labels_from_folders=True; for a table, "
            "config.data.label_column."
        )
    if taught not in (None, classifier["num_classes"]):
        raise UserError(
            f"The teacher {teachers[0]['checkpoint']} tells {taught} classes apart and the "
            f"student {classifier['num_classes']} ({source.name}); they must be the same classes."
        )
    heads["classifier"] = classifier


def num_classes_of(heads: Mapping[str, Any]) -> int | None:
    """Returns how many classes the classifier of a section `heads` tells apart, if it has one."""
    classifier = {"classifier": None, **heads}["classifier"]
    return {"num_classes": None, **classifier}["num_classes"] if classifier else None
