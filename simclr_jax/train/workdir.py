"""The directory of a run: its config, and the rule that one directory is one run."""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import absolute, read_json, write_text

log = logging.getLogger(__name__)

# Changing these does not change what is learned, so a resumed run may. The images that a path
# leads to are compared by their list, see `data.listing`.
FREE_TO_CHANGE = (
    "data.path",
    "data.num_threads",
    "data.hash_images",
    "data.accept_images",
    "data.max_unreadable",
    "data.outage_seconds",
    "data.read_timeout",
    "data.captions.tokenizer",
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.keep_best",
    "run.non_finite",
    "run.ledger",
    "parallel",
    "encoder.remat",
    "method.loss_tile",
)
VERSION = 2  # of config.json
CURE = (
    "Bring a copy of it back; or move it away and run the command that trained: it is written anew."
)
Complete: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


def load_config(workdir: str, sections: Sequence[str] = ()) -> dict[str, Any]:
    """Reads D/config.json.

    Args:
      workdir: directory of a run or of an import.
      sections: sections that the caller needs.

    Raises:
      UserError: if the directory holds no run, or the file is none that a run has written.
    """
    path = epath.Path(absolute(workdir)) / "config.json"
    if not path.exists():
        raise UserError(
            f"{workdir} holds no run: {path} does not exist. "
            f"Train first: python -m simclr_jax train --config=... --workdir={workdir}"
        )
    config = read_json(path, CURE)
    version = config.pop("version", 1) if isinstance(config, dict) else None
    if not isinstance(version, int) or not all(isinstance(v, dict) for v in config.values()):
        raise UserError(f"{path} is damaged: it holds no sections. {CURE}")
    if missing := [section for section in sections if section not in config]:
        raise UserError(f"{path} is damaged: it has no section {missing[0]!r}. {CURE}")
    return _migrate(config, version)


def _migrate(config: dict[str, Any], version: int) -> dict[str, Any]:
    """Returns the sections of a config that any version has written, with the keys of today."""
    if version > VERSION:
        raise UserError(
            f"config.json is of version {version}, and this program knows {VERSION}: a newer one "
            "wrote it. Update simclr_jax."
        )
    if version < 2 and "method" in config and "chunks" in config["method"]:
        config["method"]["grad_cache_chunks"] = config["method"].pop("chunks")
    return config


def claim(
    workdir: str,
    config: dict[str, Any],
    *,
    complete: Complete = lambda config: config,
    step: int = 0,
    is_primary: bool = True,
) -> None:
    """Makes the directory and writes D/config.json, or checks that it is this run's already.

    A run may come back with more epochs than it had, trained to its end or not. A directory without
    a checkpoint is nobody's: it takes any config, and what an earlier start has left there is
    removed.

    Args:
      workdir: directory of the run.
      config: resolved config.
      complete: fills in what a stored config leaves out, because it was written before a setting
        existed.
      step: number of its newest checkpoint, 0 if there is none.
      is_primary: whether this is the process that writes. It goes first; the others check.

    Raises:
      UserError: if the directory cannot be written, holds a run with another config, or is not
        that of the primary process.
    """
    path = epath.Path(workdir) / "config.json"
    if not is_primary and not path.exists():
        raise UserError(
            f"--workdir={workdir} is not the directory that process 0 writes to: {path} is not "
            "there. All processes must see one directory, such as gs://BUCKET/... or one on a "
            "shared file system."
        )
    if not is_primary:
        _require_same(workdir, _as_read(config), complete)
        return
    config = continued(workdir, config, complete=complete, step=step)
    if step and (longer := _added_epochs(load_config(workdir), config)):
        log.info(
            "The run is made %d epochs longer. From step %d on, the learning rate is that of a run "
            "that has had %d epochs from its start.", longer, step, config["run"]["epochs"]
        )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"version": VERSION, **config}, indent=2) + "\n")
        if not step:
            for left in path.parent.glob("quarantine*.jsonl"):
                left.unlink()
    except OSError as error:
        raise UserError(f"Cannot write to --workdir={workdir}: {error}.") from error


def continued(
    workdir: str, config: dict[str, Any], *, complete: Complete = lambda config: config, step: int
) -> dict[str, Any]:
    """Returns the config of a run as D/config.json should have it, if that run may go on with it.

    Args:
      workdir: directory of the run, which need not be there yet.
      config: resolved config.
      complete: as for `claim`.
      step: number of its newest checkpoint, 0 if there is none.

    Raises:
      UserError: if the directory holds a run with another config.
    """
    config = _as_read(config)
    if not step or not (epath.Path(workdir) / "config.json").exists():
        return config
    stored, longer = _require_same(workdir, config, complete)
    if "run" in stored:
        extended = {"extended": [], **stored["run"]}["extended"]
        if longer:
            extended = [*extended, [step, stored["run"]["epochs"]]]
        if extended:
            config["run"]["extended"] = extended
    return config


def _require_same(
    workdir: str, config: dict[str, Any], complete: Complete
) -> tuple[dict[str, Any], int]:
    """Returns the config that a directory holds, and how many epochs more it is to have."""
    stored = _as_read(complete(load_config(workdir)))
    free = [*FREE_TO_CHANGE, "run.extended"]
    if longer := _added_epochs(stored, config):
        free.append("run.epochs")
    differences = [
        f"  {key}: {old!r} there, {new!r} here"
        for key, old, new in _differences(stored, config)
        if not f"{key}.".startswith(tuple(f"{key}." for key in free))
        # Runs from before names were stored: the list of images says whether they are the same.
        and not (key == "data.class_names" and old is None)
    ]
    if differences:
        raise UserError(
            f"{workdir} holds a run with another config:\n"
            + "\n".join(differences)
            + "\nUse another --workdir, or the values of that run to resume it; run.epochs may be "
            "raised."
        )
    return stored, longer


def _as_read(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))  # tuples become lists


def _added_epochs(stored: dict[str, Any], config: dict[str, Any]) -> int:
    if "run" not in stored or "run" not in config:  # an import
        return 0
    return max(0, config["run"]["epochs"] - stored["run"]["epochs"])


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(prefix, old, new)]
    rows = []
    for key in sorted(old.keys() | new.keys()):
        path = f"{prefix}.{key}" if prefix else key
        rows += _differences(old.get(key, "(absent)"), new.get(key, "(absent)"), path)
    return rows
