"""simclr-jax VERB ..., or python -m simclr_jax VERB ...: finds the verb's module in cli/."""

import importlib
import os
import select
import signal
import sys
from keyword import iskeyword

import simclr_jax
from simclr_jax.core.errors import did_you_mean

VERBS = {
    "train": "pretrains or fine-tunes, by a recipe; resumes a run that was stopped",
    "data": "audits images before a run, or converts them to shards",
    "plan": "says what a recipe takes on a TPU slice: memory, time, cost",
    "evaluate": "judges the encoder of a run: kNN, linear probe, label efficiency",
    "embed": "writes the features of any images",
    "select": "says which images to label next, and what that is worth beside a random choice",
    "bias": "compares groups of images: accuracy, neighbours, similarity, with intervals",
    "report": "writes one page that shows a run: D/report.html",
    "compare": "puts runs side by side: training, accuracy, settings that differ",
    "sweep": "trains and judges a run for each value of a setting, and shows the curve",
    "import": "takes in weights of the official code, torchvision or timm, as a workdir",
    "doctor": "says in words whether a run learns, and what to try if it does not",
    "verify": "proves on a recipe that one device learns what many do; needs no data",
    "bench": "times this machine beside other programs; counts what steps take, and what grew",
    "checkpoints": "lists the checkpoints of a run, and checks every file of them",
    "export": "takes the encoder away: PyTorch, torchvision, timm, StableHLO, ONNX, TensorFlow",
}
USAGE = "usage: simclr-jax VERB [--help] [--flags]\n\n" + "\n".join(
    f"  {verb:<13}{does}" for verb, does in VERBS.items()
)


def main() -> int:
    """Runs the verb that the command line names; returns its exit code.

    It is 1 if the reader of the output, such as `head`, has ended first.
    """
    try:
        code = _main()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        return 1


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    errors = select.poll()
    errors.register(sys.stdout.fileno(), 0)
    return bool(errors.poll(0))


def _main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        return 0 if len(sys.argv) > 1 else 2
    verb = sys.argv[1]
    if verb == "--version":
        print(f"simclr_jax {simclr_jax.__version__}")
        return 0
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}.{did_you_mean(verb, VERBS)}\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return _run(verb)
    except KeyboardInterrupt:  # where nothing else answers it, as while modules are imported
        print("Stopped by Ctrl-C.", file=sys.stderr)
        return 128 + signal.SIGINT


def _run(verb: str) -> int:
    module = importlib.import_module(f"simclr_jax.cli.{verb}{'_' if iskeyword(verb) else ''}")
    from absl import flags  # late: launch.tpu_vm reads VERBS with nothing installed

    if {"-h", "--help"} & set(sys.argv[2:]):
        print(module.__doc__, flags.FLAGS.module_help(module), sep="")
        return 0
    return module.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
