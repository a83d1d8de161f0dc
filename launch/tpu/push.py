"""The code as one archive, and the commands that bring it to every worker."""

import subprocess
import tarfile
from pathlib import Path

from launch.tpu.gcloud import ARCHIVE, WORKER, Gcloud, Slice
from simclr_jax.core.errors import UserError

ROOT = Path(__file__).parents[2]
PACKED = ROOT / "runs" / "launch" / ARCHIVE


def pack(root: Path = ROOT, archive: Path = PACKED) -> None:
    """Writes the files that git tracks or does not ignore, as they are now, to `archive`."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others"]
    done = subprocess.run([*listing, "--exclude-standard"], capture_output=True, check=False)
    if done.returncode:
        raise UserError(
            f"git does not list the files to push: {done.stderr.decode().strip()}. In a copy "
            f"without history, run `git init` in {root} first."
        )
    archive.parent.mkdir(parents=True, exist_ok=True)
    beside = archive.with_name(f"{archive.name}.tmp")
    with tarfile.open(beside, "w:gz") as tar:
        for name in sorted(set(done.stdout.decode().split("\0")) - {""}):
            if (root / name).is_file():  # not one that was deleted but is still tracked
                tar.add(root / name, arcname=name)
    beside.replace(archive)


def send(cloud: Gcloud, place: Slice, bucket: str = "", *, stop_first: bool = False) -> None:
    """Copies the archive to every worker, unpacks it and makes the environment there.

    Args:
        cloud: Calls gcloud.
        place: Where to; every worker must be up.
        bucket: To be mounted at /mnt/BUCKET there, for reading; or "".
        stop_first: Whether to stop a run that is under way, which else refuses new code.
    """
    cloud.do(place.copy(str(PACKED), str(Path(__file__).with_name(WORKER))))
    if stop_first:
        cloud.do(place.on_workers("all", "stop"))
    cloud.do(place.on_workers("all", "install", *([bucket] if bucket else [])))
