"""The same images from a folder, a table, tars and shards: the same batches; a run from a table."""

import io
import json
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax.core.types import Cuts
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.quarantine import Quarantine, read_quarantine
from simclr_jax.data.reading import OutageError
from simclr_jax.trained.evaluate import evaluate
from tests.program import run
from tests.tiny import KilledError, train

pytestmark = pytest.mark.integration
CLASSES, NUM, SIDE = ("dark", "light"), 24, 12
WHOLE = Cuts(SIDE, 1, lambda words, size: np.array([[0, 0, *size]], np.int32))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same images in four places: config.data of each."""
    top = tmp_path_factory.mktemp("images")
    lines = ["path,label"]
    with (
        tarfile.open(top / "0.tar", "w") as first,
        tarfile.open(top / "1.tar", "w") as second,
    ):
        for i in range(NUM):
            kind = CLASSES[i * len(CLASSES) // NUM]  # in the order of the folder's names
            pixels = np.random.default_rng(i).integers(0, 128, (SIDE, SIDE, 3), np.uint8)
            place = top / "folder" / kind / f"{i:02}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels + np.uint8(128 * (kind == "light"))).save(place)
            lines.append(f"folder/{kind}/{i:02}.png,{kind}")
            for ending, data in (("png", place.read_bytes()), ("cls", kind.encode())):
                member = tarfile.TarInfo(f"{i:02}.{ending}")
                member.size = len(data)
                (first if i < 10 else second).addfile(member, io.BytesIO(data))
    (top / "table.csv").write_text("\n".join(lines))
    shards = [f"--output={top / 'shards'}", "--images_per_shard=9"]
    done = run("data", "convert", top / "folder", *shards)
    assert done.returncode == 0, done.stderr
    paths = {
        "folder": top / "folder",
        "csv": top / "table.csv",
        "webdataset": f"{top}/{{0..1}}.tar",
        "array_record": top / "shards",
    }
    return {name: {"name": name, "path": str(path)} for name, path in paths.items()}


def batches(place):
    """Returns three epochs of batches, in the order in which a run of seed 1 sees them."""
    labels: dict[str, Any] = {"labels_from_folders": True} if place["name"] == "folder" else {}
    dataset = Dataset(**place, **labels, batch_size=8, canvas=SIDE, split="all")
    settings = {"seed": 1, "first_step": 0, "num_steps": 9, "quarantine": Quarantine()}
    return list(dataset.train_batches(dataset.open_train(), WHOLE, **settings))


def test_a_table_tars_and_converted_shards_give_the_ids_labels_and_pixels_of_the_folder(places):
    want = batches(places["folder"])
    assert sorted(np.concatenate([batch["id"] for batch in want[:3]])) == [*range(NUM)]
    for name in ("csv", "webdataset", "array_record"):
        for batch, of_folder in zip(batches(places[name]), want, strict=True):
            assert batch.keys() == of_folder.keys()
            for key in batch:
                np.testing.assert_array_equal(batch[key], of_folder[key], f"{key} of {name}")


def train_with_ledger(config, workdir, **kill):
    """Returns the last state, and the ids, keys and losses of each step."""
    state = train(config, workdir, **kill)
    ledger = [json.loads(line) for line in (workdir / "ledger.jsonl").read_text().splitlines()]
    return state, ledger


def test_a_run_from_a_table_resumes_names_a_bad_row_by_its_line_and_is_judged_patiently(
    places, tiny_config, tmp_path
):
    shutil.copytree(places["folder"]["path"], tmp_path / "folder")
    lines = Path(places["csv"]["path"]).read_text().splitlines()
    table = tmp_path / "with_bad.csv"
    table.write_text("\n".join([*lines[:5], "folder/dark/gone.png,dark", *lines[5:]]))
    data = {"name": "csv", "path": str(table), "split": "all", "batch_size": 8, "canvas": SIDE}
    schedule = {"epochs": 2, "seed": 0, "log_every": 1, "checkpoint_every": 2, "ledger": True}
    config = tiny_config | {"data": data, "run": schedule, "evals": {}}
    want, straight = train_with_ledger(config, tmp_path / "straight")
    assert [row["step"] for row in straight] == [*range(1, len(straight) + 1)]
    bad = 4  # the fifth row, in line 6
    assert bad not in {i for row in straight for i in row["ids"]}

    with pytest.raises(KilledError):
        train_with_ledger(config, tmp_path / "run", kill_at=3)
    got, ledger = train_with_ledger(config, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert ledger == straight
    (entry,) = read_quarantine(tmp_path / "run")
    assert entry.name == "with_bad.csv:6: folder/dark/gone.png"
    assert "does not exist" in entry.reason
    assert_verbs_take_what_they_advise(tmp_path)


def assert_verbs_take_what_they_advise(tmp_path):
    """Storage refuses a file, and each verb waits for as long as it is told to."""
    bad = tmp_path / "folder/dark/03.png"
    bad.unlink()
    bad.symlink_to("/proc/self/mem")  # reading it is an input/output error
    rows = ("light/12.png,light,train", "dark/00.png,dark,train")
    rows += ("light/13.png,light,test", "dark/03.png,dark,test")
    table = tmp_path / "others.csv"
    table.write_text("\n".join(["photo,label,split", *(f"folder/{row}" for row in rows)]))
    others = ["--data=csv", f"--path={table}", "--config.data.image_column=photo"]
    verbs = {"embed": [*others, f"--output={tmp_path / 'features.npz'}"], "report": []}
    started = time.monotonic()
    for verb, arguments in verbs.items():
        settings = [f"--workdir={tmp_path / 'run'}", "--config.data.outage_seconds=0.1"]
        done = run(verb, *settings, *arguments)
        assert done.returncode == 75, done.stderr
        assert "--config.data.outage_seconds waits for it" in done.stderr
    with pytest.raises(OutageError):
        evaluate(
            str(tmp_path / "run"),
            protocol=["knn"],
            features=["encoder"],
            data="csv",
            path=str(table),
            split="train",
            test_split="test",
            reading={"outage_seconds": 0.1, "image_column": "photo"},
        )
    assert time.monotonic() - started < 300, "one of them waited for 600 s"
