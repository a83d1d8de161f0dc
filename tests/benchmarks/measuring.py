"""What the benchmarks of losses share: the time of a call, and the memory that it takes."""

import resource
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any


def resident_bytes() -> int:
    """Returns what the process has in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, dict[str, float]]:
    """Returns the last result, the best seconds, and the bytes above those before at the peak."""
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result, seconds = None, []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    done.set()
    watcher.join()
    growth = max(peak, resident_bytes()) - before
    return result, {"seconds": min(seconds), "growth": growth}


def has_modules(python: str, modules: str) -> bool:
    """Whether that interpreter can import them."""
    command = [python, "-c", f"import {modules}"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
