"""Seconds from the start of the process to the first training step of the demo.

Trains twice, so that the second start finds what the first one compiled, and stops both.

python tests/benchmarks/first_step.py
"""

import signal
import subprocess
import sys
import tempfile
import time


def seconds_to_first_step() -> float:
    """Starts the demo's training, waits for its first step, and stops it."""
    with tempfile.TemporaryDirectory() as workdir:
        start = time.perf_counter()
        arguments = ("train", "--config=configs/simclr_digits.py", f"--workdir={workdir}")
        command = [sys.executable, "-m", "simclr_jax", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if "step 1/" in line:
                break
        else:
            raise SystemExit("Training ended before its first step.")
        seconds = time.perf_counter() - start
        process.send_signal(signal.SIGTERM)
        process.communicate()
    return seconds


if __name__ == "__main__":
    print(f"first start:  {seconds_to_first_step():5.1f} s to the first step")
    print(f"second start: {seconds_to_first_step():5.1f} s to the first step")
