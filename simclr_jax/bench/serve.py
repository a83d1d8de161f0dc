"""One side of a comparison, in a process of its own: takes a sample whenever a line comes in.

python -m simclr_jax.bench.serve ours|peers KIND SETTINGS

Prints a line of JSON when it has warmed up, and one for each sample: the seconds of a call.
"""

import importlib
import json
import math
import os
import sys
import time

# A sample is as many calls as take this long: CPU time is counted in hundredths of a second.
SAMPLE_SECONDS = 0.5


def main(side: str, kind: str, settings: str) -> None:
    """Prepares, warms up, and answers until there is no one to ask."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    run = importlib.import_module(f"simclr_jax.bench.{side}").KINDS[kind](**json.loads(settings))
    run()
    calls = math.ceil(SAMPLE_SECONDS / min(_seconds(run, 1) for _ in range(3)))
    print(json.dumps({"calls": calls}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": _seconds(run, calls)}), file=answers, flush=True)


def _seconds(run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    main(*sys.argv[1:])
