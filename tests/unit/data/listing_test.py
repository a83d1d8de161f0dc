"""The list of a run's images: what differs is named, and what is borne is kept."""

import gzip
import json

import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data import listing
from simclr_jax.data.sources import open_source
from simclr_jax.data.subsets import LabelSubset


def images(root, **options):
    source = open_source("folder", split="all", path=root / "images")
    found = listing.list_images(source, **({"hashed": False} | options))
    assert found is not None
    return found


def put(root, **files):
    for name, data in files.items():
        path = root / "images" / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def again(root, *, accept="", **options):
    found = listing.continued(
        str(root), images(root, **options), step=7, accept=accept, examples="sounds"
    )
    assert found is not None
    return found


@pytest.fixture
def kept(tmp_path):
    """A workdir with the list of three files, and the files."""
    put(tmp_path, a=b"1", b=b"22", c=b"333")
    listing.write(str(tmp_path), images(tmp_path, hashed=True))
    return tmp_path


def test_the_same_images_are_the_same_at_any_path(kept):
    (kept / "images").rename(kept / "moved")
    (kept / "images").symlink_to(kept / "moved")
    assert again(kept).names == ("a.jpg", "b.jpg", "c.jpg")
    assert again(kept, hashed=True).accepted == []


@pytest.mark.parametrize(
    ("files", "hashed", "message"),
    [
        (
            {"b": b"4444"},
            False,
            r"1 file is of other contents: b\.jpg \(2 bytes then, 4 now\)",
        ),
        ({"b": b"44"}, True, r"b\.jpg \(of the same size\)"),
        ({"d": b"1", "e": b"1"}, False, r"2 files are new: d\.jpg, e\.jpg\. "),
    ],
)
def test_what_differs_is_named(kept, files, hashed, message):
    put(kept, **files)
    with pytest.raises(UserError, match=message):
        again(kept, hashed=hashed)


def test_files_that_are_gone_are_named_the_first_three(kept):
    put(kept, **{f"x{i}": b"x" for i in range(6)})
    listing.write(str(kept), images(kept))
    for i in range(5):
        (kept / "images" / f"x{i}.jpg").unlink()
    with pytest.raises(UserError, match=r"5 files are gone: x0\.jpg, x1\.jpg, x2\.jpg, and 2 more"):
        again(kept)


def test_sizes_alone_do_not_tell_contents_apart(kept):
    put(kept, b=b"44")
    assert again(kept) is not None


def test_a_list_that_is_accepted_by_its_digest_is_kept_with_a_note(kept):
    before = images(kept, hashed=True).digest()
    put(kept, b=b"4444")
    with pytest.raises(UserError, match=r"--config\.data\.accept_images=(\w{8})\. ") as error:
        again(kept)
    digest = str(error.value).rpartition("accept_images=")[2][:8]
    with pytest.raises(UserError, match="accept_images"):
        again(kept, accept="00000000")
    accepted = again(kept, accept=digest)
    assert accepted.accepted == [[7, before, digest]]
    listing.write(str(kept), accepted)
    assert again(kept).accepted == [[7, before, digest]]
    put(kept, b=b"55555")
    with pytest.raises(UserError, match="4 bytes then, 5 now"):
        again(kept, accept=digest)


def test_without_a_list_there_is_nothing_to_compare_with(tmp_path):
    put(tmp_path, a=b"1")
    assert (
        listing.continued(str(tmp_path), images(tmp_path), step=7, accept="", examples="sounds")
        is None
    )


@pytest.mark.parametrize(
    "data", [b"", b"no gzip", gzip.compress(b"[1]\n", mtime=0), "half", "flipped"]
)
def test_a_damaged_list_is_refused_with_its_cure(kept, data):
    path = kept / listing.NAME
    whole = path.read_bytes()
    broken = {"half": whole[:30], "flipped": whole[:-80] + b"\xff" * 20 + whole[-60:]}
    path.write_bytes(broken[data] if isinstance(data, str) else data)
    with pytest.raises(UserError, match=r"images\.jsonl\.gz is damaged: .* move it away"):
        again(kept)


def test_lines_are_names_sizes_and_hashes(kept):
    lines = gzip.decompress((kept / listing.NAME).read_bytes()).splitlines()
    first = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"  # of "1"
    assert json.loads(lines[1]) == ["a.jpg", 1, first]
    assert len(lines) == 4


def test_of_a_subset_only_its_files_are_listed(tmp_path):
    for name in ("x/1", "x/2", "y/3", "y/4"):
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1")
    source = open_source("folder", split="all", path=tmp_path, labels_from_folders=True)
    subset = LabelSubset(source, 0.5, seed=0, keep_unlabelled=False)
    found = listing.list_images(subset, hashed=False)
    assert found is not None
    assert found.names == tuple(subset[i].name for i in range(2))


def test_what_are_no_files_has_no_list():
    digits = open_source("digits", split="test")
    assert listing.list_images(digits, hashed=True) is None
    subset = LabelSubset(digits, 0.1, seed=0, keep_unlabelled=True)
    assert listing.list_images(subset, hashed=False) is None
