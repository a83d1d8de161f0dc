"""The same images from a folder, a table, tars and parquet: the same batches from any of them."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Cuts
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.folder import Folder
from simclr_jax.data.parquet import Parquet
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.records import Record
from simclr_jax.data.sources import LISTED
from simclr_jax.data.table import Table
from simclr_jax.data.webdataset import WebDataset

COUNT, BROKEN = 24, 17
WHOLE = Cuts(8, 1, lambda bits, shape: np.array([[0, 0, *shape]], np.int32))


def image(i):
    if i == BROKEN:
        return b"<html>"
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def roots(tmp_path):
    """Returns where the images are, by the name of the data set; odd ones are of class "b"."""
    for i in range(COUNT):
        path = tmp_path / f"folder/{'ab'[i % 2]}/{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(i))
    # In the order of the folder: first those of class "a".
    order = [*range(0, COUNT, 2), *range(1, COUNT, 2)]
    rows = [(f"folder/{'ab'[i % 2]}/{i:02}.png", "ab"[i % 2]) for i in order]
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/t.csv").write_text(
        "\n".join(["path,label", *(f"../{a},{b}" for a, b in rows)])
    )
    (tmp_path / "jsonl").mkdir()
    lines = [json.dumps({"image": f"../{a}", "label": b}) for a, b in rows]
    (tmp_path / "jsonl/t.jsonl").write_text("\n".join(lines))
    (tmp_path / "webdataset").mkdir()
    for t, part in enumerate(np.split(np.array(order), 3)):
        with tarfile.open(tmp_path / f"webdataset/{t}.tar", "w") as tar:
            for i in part.tolist():
                for ending, data in (("png", image(i)), ("cls", b"ab"[i % 2 : i % 2 + 1])):
                    info = tarfile.TarInfo(f"{i}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (tmp_path / "parquet").mkdir()
    columns = {"image": [image(i) for i in order], "label": ["ab"[i % 2] for i in order]}
    pq.write_table(pa.table(columns), tmp_path / "parquet/t.parquet", row_group_size=5)
    return tmp_path


def dataset(roots, name, **settings):
    labels = {"labels_from_folders": True} if name == "folder" else {}
    return Dataset(name, 6, 8, "all", path=str(roots / name), **labels, **settings)


def open_listed(roots, name, **settings):
    source = dataset(roots, name, **settings).open_train()
    assert isinstance(source, Folder | Table | WebDataset | Parquet)
    return source


def batches(data, **options):
    defaults = {"seed": 3, "first_step": 0, "num_steps": 8, "quarantine": Quarantine()}
    return list(data.train_batches(data.open_train(), WHOLE, **(defaults | options)))


@pytest.mark.parametrize("name", LISTED[1:])
def test_every_source_gives_the_batches_of_the_folder(roots, name):
    want = batches(dataset(roots, "folder"))
    quarantine = Quarantine()
    got = batches(dataset(roots, name), quarantine=quarantine)
    for a, b in zip(got, want, strict=True):
        for key in b:
            np.testing.assert_array_equal(a[key], b[key])
    (broken,) = quarantine.entries
    source = open_listed(roots, name)
    assert broken in {source.name_of(i) for i in range(COUNT)}
    later = batches(dataset(roots, name), first_step=5)
    for a, b in zip(later, want[5:], strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


@pytest.mark.parametrize("name", LISTED)
def test_every_source_tells_names_keys_labels_and_classes_without_reading(roots, name):
    source = open_listed(roots, name)
    assert source.class_names == ("a", "b")
    assert list(source.labels) == [0] * 12 + [1] * 12
    assert len(set(source.image_keys().tolist())) == COUNT
    assert len({source.name_of(i) for i in range(COUNT)}) == COUNT
    record = source[13]
    assert record == Record(image(3), 1, source.name_of(13))
    # Classes of a training set hold for what is judged, too, and others are refused.
    longer = dataset(roots, name, class_names=("z", "b", "a")).open_train()
    assert [longer[i].label for i in (0, 13)] == [2, 1]
    with pytest.raises(UserError, match=r"'b', that are none of the 1 expected ones, 'a'"):
        dataset(roots, name, class_names=("a",)).open_train()
