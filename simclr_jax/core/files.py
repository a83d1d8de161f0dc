"""Files of a run, which may lie in a bucket (gs://), where nothing can be added to a file."""

import os

from etils import epath


def in_a_bucket(path: epath.PathLike) -> bool:
    """Whether a path names an object store, such as gs://BUCKET/runs, and not a file system."""
    return "://" in str(path)


def absolute(path: str) -> str:
    """Returns a path that means the same from any directory; "~" is the user's own."""
    return path if in_a_bucket(path) else os.path.abspath(os.path.expanduser(path))


def append_line(path: epath.Path, line: str) -> None:
    """Adds a line to a file, and makes it if it is not there.

    In a bucket that writes the whole file again: seconds apart, as lines of metrics are, and some
    megabytes long it does no harm.
    """
    if in_a_bucket(path):
        before = path.read_text() if path.exists() else ""
        path.write_text(before + line + "\n")
        return
    with path.open("a") as file:
        file.write(line + "\n")
