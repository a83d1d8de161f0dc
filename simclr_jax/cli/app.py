"""What every verb shares: flags, logging, the compilation cache and exit codes."""

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags
from absl import logging as absl_logging

from simclr_jax.cli import own_encoder, recipe
from simclr_jax.core.errors import (
    PartlyFailedError,
    StorageError,
    TryAgainError,
    UserError,
    is_out_of_memory,
)
from simclr_jax.core.files import expand, expand_workdir
from simclr_jax.train.health import NonFiniteError
from simclr_jax.train.hooks import Terminated

flags.disclaim_key_flags()  # those that are defined here are the flags of the verb that asks
# Beside these, 128 and the number of the signal that ended a run: 129 SIGHUP, 130 Ctrl-C,
# 143 SIGTERM.
DONE, FAILED, USER_MISTAKE, TRY_AGAIN = 0, 1, 2, 75  # EX_TEMPFAIL of sysexits.h


def run(
    main: Callable[[], None],
    argv: Sequence[str],
    *,
    required: Sequence[str],
    positional: str | None = None,
) -> int:
    """Parses the flags, calls `main` and turns its outcome into an exit code.

    Args:
      main: the verb; it reads its flags.
      argv: the verb's name and its arguments.
      required: names of flags that must be given.
      positional: flag that takes the arguments without a name, if there may be any.

    Returns:
      0 done; 1 failed; 2 the user's mistake; 128 and the number of a signal that stopped a run
      after a checkpoint; 75 it may go well the next time: another run holds the workdir, the
      images cannot be reached, or, then the process ends at once, not all processes started in
      time.
    """
    _set_up_logging()
    _set_up_compilation_cache()
    try:
        if _parse(argv, required, positional):
            main()
    except UserError as error:
        return _complain(error, USER_MISTAKE)
    except (NonFiniteError, PartlyFailedError, StorageError) as error:
        return _complain(error, FAILED)
    except TryAgainError as error:
        return _complain(error, TRY_AGAIN)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _complain(_out_of_memory(error, trains="config" in required), FAILED)
    except Terminated as stopped:
        logging.getLogger(__name__).info("%s", stopped)
        return 128 + stopped.signum
    return DONE


def define_path(
    name: str, explained: str, expand: Callable[[str], str] = expand
) -> flags.FlagHolder[str]:
    """Defines a flag that names a file or a directory; ~ in it is the home directory.

    Args:
      name: name of the flag.
      explained: help text of the flag.
      expand: from what a user gives to a path; raises a ValueError if that cannot be one.
    """
    return flags.DEFINE(_PathParser(expand), name, "", explained)


def define_workdir(explained: str = "Directory of the run.") -> flags.FlagHolder[str]:
    """Defines --workdir."""
    return define_path("workdir", explained, expand_workdir)


def define_paths(
    name: str, explained: str, expand: Callable[[str], str] = expand
) -> flags.FlagHolder[list[str]]:
    """Defines a flag as `define_path` does, which may come several times."""
    serializer = flags.ArgumentSerializer()
    return flags.DEFINE_multi(_PathParser(expand), serializer, name, [], explained)


class _PathParser(flags.ArgumentParser):
    def __init__(self, expand: Callable[[str], str]) -> None:
        self._expand = expand

    def parse(self, argument: str) -> str:
        return self._expand(argument)

    def flag_type(self) -> str:
        return "path"


def _parse(argv: Sequence[str], required: Sequence[str], positional: str | None) -> bool:
    """Parses the flags; returns whether there is anything left to do."""
    takes_recipe = "config" in required
    argv, overrides = recipe.split(argv) if takes_recipe else (argv, [])
    flags.FLAGS.set_gnu_getopt(positional is not None)  # flags may follow such an argument
    try:
        rest = flags.FLAGS(argv)
        if positional is not None and rest[1:]:
            flags.FLAGS[positional].parse(rest[1:])
            rest = rest[:1]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if rest[1:]:
        raise UserError(f"Unexpected arguments {rest[1:]}; every option starts with --.")
    asks = takes_recipe and flags.FLAGS["help_config"].value
    for name in ("config",) if asks else required:
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name} is missing: {flags.FLAGS[name].help}")
    own_encoder.import_typed()
    if takes_recipe:
        recipe.remember(recipe.load(str(flags.FLAGS["config"].value), overrides))
    if asks:
        recipe.print_keys(recipe.loaded())
    return not asks


def _out_of_memory(error: Exception, *, trains: bool) -> str:
    where = "The host" if isinstance(error, MemoryError) else "A device"
    said = str(error).partition("\n")[0]
    if not trains:
        return f"{where} ran out of memory: {said}"
    return (
        f"{where} ran out of memory: {said}\n"
        "`plan` with the same --config and --topology=here --fit, or the slice's name in the place "
        "of here, says what a step takes and which settings bring it in. A smaller "
        "--config.data.batch_size takes less. A run that has begun keeps its batch: give a new "
        "--workdir."
    )


def _complain(error: Exception | str, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _set_up_logging() -> None:
    # orbax tells each step of each save, and each layer that a failure passes.
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    log = logging.getLogger("simclr_jax")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    # Names of files may hold what no terminal shows, or not this one: it must not end a verb.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _set_up_compilation_cache() -> None:
    """Keeps compiled programs between runs, in a directory that only this user can write."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache = Path(os.path.expanduser(base)).absolute() / "simclr_jax" / "compiled"
        try:
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            logging.getLogger(__name__).warning(
                "Compiled programs are not kept (%s). To start faster the next time, set "
                "JAX_COMPILATION_CACHE_DIR to a directory that you may write.", error
            )  # fmt: skip
            return
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
