"""metrics.jsonl holds each step once, whatever happened to the process that wrote it."""

import json

import numpy as np
import pytest

from simclr_jax.train.metrics import MetricsWriter, read_metrics, view_sheet


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


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"line 2, is not JSON: 'nonsense'"):
        read_metrics(str(tmp_path))


def test_view_sheet_puts_the_two_views_of_a_pair_below_each_other():
    pairs = np.arange(3 * 2, dtype=np.uint8).reshape(3, 2, 1, 1, 1) * np.ones(
        (1, 1, 2, 2, 3), np.uint8
    )
    sheet = view_sheet(pairs)
    assert sheet.shape == (4, 6, 3)
    assert sheet[::2, ::2, 0].tolist() == [[0, 2, 4], [1, 3, 5]]
