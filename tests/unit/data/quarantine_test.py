"""The list of unreadable images: each once, also over a restart."""

import json

import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data.quarantine import Quarantine, Unreadable, read_quarantine

CAT = Unreadable(3, "cat <b>\u00fc\udcff.jpg", "empty (0 bytes)")
DOG = Unreadable(1, "dog.jpg", "truncated")


def test_writes_each_image_once_in_order_of_arrival(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    for entry in (CAT, DOG, CAT):
        quarantine.add(entry)
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [CAT._asdict(), DOG._asdict()]
    assert quarantine.count == 2


def test_resume_goes_on_after_what_is_in_the_file(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path).add(CAT)
    again = Quarantine(path)
    again.add(CAT)
    again.add(DOG)
    assert again.count == 2
    assert len(path.read_text().splitlines()) == 2


def test_an_image_waits_while_the_disk_is_full(tmp_path, full_disk, caplog):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    with full_disk(10):
        quarantine.add(CAT)
    assert "quarantine.jsonl waits: File too large" in caplog.text
    quarantine.add(DOG)
    assert [*Quarantine(tmp_path / "quarantine.jsonl").entries.values()] == [CAT, DOG]


@pytest.mark.parametrize("num_whole", [0, 1])
def test_a_line_torn_by_a_crash_is_dropped(tmp_path, num_whole):
    path = tmp_path / "quarantine.jsonl"
    line = json.dumps(DOG._asdict()) + "\n"
    path.write_text(line * num_whole + '{"id": 3, "na')
    again = Quarantine(path)
    assert again.count == num_whole
    assert path.read_text() == line * num_whole


@pytest.mark.parametrize("text", ["hello\n", "[1, 2]\n", '{"id": 1}\n'])
def test_another_kind_of_file_is_not_overwritten(tmp_path, text):
    path = tmp_path / "quarantine.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"quarantine\.jsonl is no list"):
        Quarantine(path)
    assert path.read_text() == text


def test_each_process_has_its_own_file(tmp_path):
    Quarantine(tmp_path / "quarantine.jsonl", process_index=2).add(DOG)
    assert [p.name for p in tmp_path.iterdir()] == ["quarantine.2.jsonl"]


def test_works_without_a_file():
    quarantine = Quarantine()
    quarantine.add(DOG)
    assert quarantine.count == 1


def test_lists_of_all_processes_are_read_as_one(tmp_path):
    assert read_quarantine(tmp_path) == []
    Quarantine(tmp_path / "quarantine.jsonl").add(CAT)
    other = Quarantine(tmp_path / "quarantine.jsonl", process_index=2)
    for entry in (DOG, CAT):
        other.add(entry)
    assert sorted(read_quarantine(tmp_path)) == [DOG, CAT]


def test_the_log_tells_of_the_first_and_of_each_power_of_ten(tmp_path, caplog):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    for i in range(120):
        quarantine.add(Unreadable(i, f"{i}.jpg", "empty"))
    assert [record.args[0] for record in caplog.records] == [1, 10, 100]
    assert "0.jpg: empty" in caplog.text
