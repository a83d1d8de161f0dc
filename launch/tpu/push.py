"""The code as one archive, and the commands that bring it to every worker."""

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from launch.tpu.gcloud import ARCHIVE, WORKER, Gcloud, Slice
from simclr_jax.core.errors import UserError

ROOT = Path(__file__).parents[2]
ARCHIVES = ROOT / "runs" / "launch"


def files(root: Path = ROOT) -> list[str]:
    """Returns the files to push, by their paths in `root`: what git tracks or does not ignore."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others"]
    done = subprocess.run([*listing, "--exclude-standard"], capture_output=True, check=False)
    if done.returncode:
        raise UserError(
            f"git does not list the files to push: {done.stderr.decode().strip()}. In a copy "
            f"without history, run `git init` in {root} first."
        )
    names = sorted(set(os.fsdecode(done.stdout).split("\0")) - {""})
    return [name for name in names if (root / name).is_file()]  # not one that was deleted


def pack(root: Path = ROOT) -> bytes:
    """Returns the files as they are now, in a tar that is the same as long as they are."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in files(root):
            tar.add(root / name, arcname=name, filter=_without_time_and_owner)
    return packed.getvalue()


def identity(code: bytes, arguments: Sequence[str]) -> str:
    """Returns what tells a run from others: `start` in the worker's script finds the same."""
    words = (hashlib.sha256(code).hexdigest(), *arguments)
    return hashlib.sha256(b"".join(os.fsencode(word) + b"\0" for word in words)).hexdigest()


def send(
    cloud: Gcloud, place: Slice, code: bytes, bucket: str = "", *, stop_first: bool = False
) -> None:
    """Copies the archive to every worker, unpacks it and makes the environment there.

    Args:
        cloud: Calls gcloud.
        place: Where to; every worker must be up.
        code: What `pack` returned.
        bucket: To be mounted at /mnt/BUCKET there, for reading; or "".
        stop_first: Whether to stop a run that is under way, which else refuses new code.
    """
    archive = ARCHIVES / place.zone / place.name / ARCHIVE
    if not cloud.dry_run:
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.write_bytes(code)
    cloud.do(place.copy(str(archive), str(Path(__file__).with_name(WORKER))))
    if stop_first:
        cloud.do(place.on_workers("all", "stop"))
    cloud.do(place.on_workers("all", "install", *([bucket] if bucket else [])))


def _without_time_and_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member
