"""Reads checkpoints of the official SimCLR code: TF1, TF2 object graphs and SavedModels.

TensorFlow reads the files, variable by variable; nothing in them is executed.
"""

import contextlib
import glob
import logging
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.optional import import_optional
from simclr_jax.core.sections import config_errors_at
from simclr_jax.interop.names import tf1_name
from simclr_jax.interop.recognition import Imported, recognise

log = logging.getLogger(__name__)

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_KEY_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_SECONDS_BETWEEN_LOGS = 5.0
# Or TensorFlow talks of instruction sets and GPUs, none of which it needs to read a file.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}


def checkpoint_prefix(path: str) -> str:
    """Returns the prefix that the files of a checkpoint begin with.

    Args:
      path: that prefix, such as DIR/model.ckpt-250228; or a directory with one checkpoint, with
        a file `checkpoint` that names the newest, or with a SavedModel.

    Raises:
      UserError: if there is no checkpoint.
    """
    directory = epath.Path(path)
    if not directory.is_dir():
        if epath.Path(f"{path}.index").is_file():
            return path
        reason = "is a file, but a" if directory.exists() else "does not exist. A"
        raise UserError(
            f"--checkpoint={path} {reason} TensorFlow checkpoint is named by what its files begin "
            "with: model.ckpt-250228 for model.ckpt-250228.index and "
            "model.ckpt-250228.data-00000-of-00001. A directory that holds one does, too."
        )
    saved_model = directory / "variables" / "variables"
    if saved_model.with_suffix(".index").is_file():
        return str(saved_model)
    indexes = sorted(directory.glob("*.index"))
    if len(indexes) == 1:
        return str(indexes[0].with_suffix(""))
    newest = _newest(directory)
    if f"{newest}.index" in [index.name for index in indexes]:
        return str(directory / newest)
    if not indexes:
        raise UserError(
            f"--checkpoint={path} is a directory without a checkpoint: it holds neither *.index "
            "nor variables/variables.index."
        )
    raise UserError(
        f"--checkpoint={path} holds {len(indexes)} checkpoints and no file `checkpoint` that names "
        f"the newest; choose one, such as --checkpoint={indexes[-1].with_suffix('')}."
    )


def read_checkpoint(path: str, *, ema: bool = False, select: int = 0) -> Imported:
    """Reads a checkpoint into memory, one variable at a time.

    Args:
      path: see `checkpoint_prefix`.
      ema: see `recognition.recognise`.
      select: likewise.

    Raises:
      UserError: if TensorFlow is not installed; if there is no checkpoint, it is damaged, or
        holds something else than a network of SimCLR.
    """
    prefix = checkpoint_prefix(path)
    for option, value in _QUIET.items():
        os.environ.setdefault(option, value)
    log.info("Starting TensorFlow, which reads %s ...", prefix)
    tf = import_optional("tensorflow")
    with _blame_file(tf, f"{prefix}.index"):
        reader = tf.train.load_checkpoint(prefix)
        keys = _keys(reader)
        shapes = reader.get_variable_to_shape_map()
    with config_errors_at(f"{prefix}.index"):
        shapes = {name: tuple(shapes[key]) for name, key in keys.items()}
        network = recognise(shapes, ema=ema, select=select)
    _require_complete(reader, prefix)
    log.info("Recognised: %s.", network)

    def read(name: str, dtype: type[np.generic]) -> np.ndarray:
        with _blame_file(tf, f"{prefix}.data-*: {name}"):
            return np.asarray(reader.get_tensor(keys[name]), dtype)

    variables: dict[str, Any] = {}
    for our_path, name in _with_progress(network.names):
        *parents, leaf = our_path.split("/")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        # A JAX array at once: orbax saves it as it is, and would copy a NumPy array first.
        node[leaf] = jnp.asarray(read(name, np.float32))
    step = int(read("global_step", np.int64)) if "global_step" in keys else 0
    return Imported(network, jax.block_until_ready(variables), step)


def _newest(directory: epath.Path) -> str:
    """Returns the name that the file `checkpoint` gives, wherever the directory stood then."""
    file = directory / "checkpoint"
    text = file.read_bytes().decode(errors="replace") if file.is_file() else ""
    match = re.search(r'^model_checkpoint_path: "(?:.*/)?([^/"]+)"', text, re.MULTILINE)
    return match[1] if match else ""


def _keys(reader: Any) -> dict[str, str]:
    """Returns {name of a variable: key that the reader takes}.

    In TF1 they are the same. The keys of TF2 are paths through Python objects, and the object
    graph beside them has the names. Variables that are none of the network's keep their key,
    which tells optimizer slots and counters apart.
    """
    keys = reader.get_variable_to_shape_map()
    if _OBJECT_GRAPH not in keys:
        return {key: key for key in keys}
    proto = import_optional("tensorflow.core.protobuf.trackable_object_graph_pb2")
    graph = proto.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))
    names = {
        attribute.checkpoint_key: attribute.full_name
        for node in graph.nodes
        for attribute in node.attributes
        if tf1_name(attribute.full_name)
    }
    return {
        names.get(key, key.removesuffix(_KEY_SUFFIX)): key for key in keys if key != _OBJECT_GRAPH
    }


def _require_complete(reader: Any, prefix: str) -> None:
    """Refuses files that are too short, even where only what we ignore is cut off."""
    path = epath.Path(prefix)
    files = path.parent.glob(f"{glob.escape(path.name)}.data-*-of-*")
    there = sum(file.stat().length for file in files)
    dtypes = {key: d.as_numpy_dtype for key, d in reader.get_variable_to_dtype_map().items()}
    needed = sum(
        math.prod(shape) * np.dtype(dtypes[key]).itemsize
        for key, shape in reader.get_variable_to_shape_map().items()
        if dtypes[key] is not object  # text, of any length
    )
    if there < needed:
        raise UserError(
            f"{prefix}.data-*: the file is truncated: {there} bytes of at least {needed} are there."
        )


@contextlib.contextmanager
def _blame_file(tf: Any, file: str) -> Iterator[None]:
    """Turns what goes wrong with a file into a UserError that names it."""
    try:
        yield
    except (tf.errors.OpError, LookupError, RuntimeError, ValueError) as error:
        # TensorFlow raises IndexError for a file that is too short, for one.
        raise UserError(f"{file}: {getattr(error, 'message', None) or error}") from error


def _with_progress(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    logged = time.monotonic()
    for i, item in enumerate(names.items()):
        if time.monotonic() - logged > _SECONDS_BETWEEN_LOGS:
            logged = time.monotonic()
            log.info("Read %d of %d variables.", i, len(names))
        yield item
