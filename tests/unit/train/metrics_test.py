"""metrics.jsonl holds each step once, whatever happened to the process that wrote it."""

import json

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.train.metrics import MetricsWriter, read_metrics, view_sheet
from simclr_jax.train.tensorboard import TensorBoard


def test_writes_one_line_a_step_with_what_hooks_added(tmp_path):
    writer = MetricsWriter(str(tmp_path))
    writer.open(first_step=0)
    writer.add(knn_top1=0.5)
    writer.write(1, {"loss": 2.0})
    writer.write(2, {"loss": 1.0})
    writer.close()
    assert read_metrics(str(tmp_path)) == [
        {"step": 1, "loss": 2.0, "knn_top1": 0.5},
        {"step": 2, "loss": 1.0},
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_resuming_drops_later_and_torn_lines(tmp_path):
    rows = "".join(json.dumps({"step": step, "loss": 0.1}) + "\n" for step in (1, 2, 3))
    (tmp_path / "metrics.jsonl").write_text(rows + '{"step": 4, "lo')
    writer = MetricsWriter(str(tmp_path))
    writer.open(first_step=2)
    assert writer.last_row["step"] == 2
    writer.write(3, {"loss": 0.2})
    writer.close()
    assert [row["step"] for row in read_metrics(str(tmp_path))] == [1, 2, 3]


def test_a_process_that_does_not_write_touches_nothing(tmp_path):
    writer = MetricsWriter(str(tmp_path), writes=False)
    writer.open(first_step=0)
    writer.add(knn_top1=0.5)
    assert writer.write(1, {"loss": 2.0}) == {"step": 1, "loss": 2.0, "knn_top1": 0.5}
    writer.write_image("views", np.zeros((2, 2, 3), np.uint8), 0)
    writer.close()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line", [b"nonsense", b"", b"\xff\x00", b"[1]", b"{}", b'{"step": "x"}', b"[" * 100_000]
)
def test_a_line_that_is_no_row_is_named_with_a_cure(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged: line 2 .*Remove that line"):
        read_metrics(str(tmp_path))


def test_lines_wait_while_the_disk_is_full_and_are_whole_afterwards(tmp_path, full_disk, caplog):
    writer = MetricsWriter(str(tmp_path))
    writer.open(first_step=0)
    writer.write(1, {"loss": 1.0})
    with full_disk(30):  # there is room for half a line
        for step in (2, 3):
            writer.write(step, {"loss": 1.0})
    assert caplog.text.count("metrics.jsonl waits: File too large") == 1
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    writer.write(4, {"loss": 1.0})
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_lines_that_never_found_room_are_counted(tmp_path, full_disk, caplog):
    writer = MetricsWriter(str(tmp_path))
    writer.open(first_step=0)
    with full_disk(0):
        for step in (1, 2):
            writer.write(step, {"loss": 1.0})
        writer.close()
    assert "2 lines of" in caplog.text


def test_tensorboard_without_room_is_said_once_and_stops_nothing(tmp_path, full_disk, caplog):
    with full_disk(0):
        board = TensorBoard(tmp_path / "board", first_step=0)
    board.scalars({"loss": 1.0}, 1)
    board.close()
    board = TensorBoard(tmp_path / "board", first_step=1)
    with full_disk(200):
        for step in range(2, 100):
            board.scalars({"loss": 1.0}, step)
        board.image("views", np.zeros((8, 8, 3), np.uint8), 2)
        board.close()
    assert caplog.text.count("No more events for TensorBoard (File too large)") == 2


def test_tensorboard_is_written_what_it_reads(tmp_path):
    board = TensorBoard(tmp_path, first_step=3)
    board.scalars({"loss": 1.5}, 4)
    board.close()
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    for value in (b"brain.Event:2", b"loss", np.float32(1.5).tobytes()):
        assert value in data


def test_view_sheet_puts_the_two_views_of_a_pair_below_each_other():
    pairs = np.arange(3 * 2, dtype=np.uint8).reshape(3, 2, 1, 1, 1) * np.ones(
        (1, 1, 2, 2, 3), np.uint8
    )
    sheet = view_sheet(pairs)
    assert sheet.shape == (4, 6, 3)
    assert sheet[::2, ::2, 0].tolist() == [[0, 2, 4], [1, 3, 5]]
