"""The picture of two towers in docs comes from what a report shows."""

import numpy as np
import pytest

from launch.towers_picture import FRAME, ROW, SIDE, TEXT, WIDTH, picture
from simclr_jax.report.towers import Pairs, towers_section


def test_each_image_stands_beside_its_words_and_each_caption_beside_its_images():
    colors = np.zeros((3, 8, 8, 3), np.uint8)
    colors[np.arange(3), ..., np.arange(3)] = 255
    rows = np.eye(3, 4, dtype=np.float32)
    pairs = Pairs(rows, colors, ["red <b>", "green", "blue"], rows, np.eye(3, dtype=bool))
    sheet = picture(towers_section([], [], pairs))
    assert sheet.size == (WIDTH, 3 * ROW)
    for row in range(3):
        at = (6 + SIDE // 2, row * ROW + 6 + SIDE // 2)
        assert sheet.getpixel(at) == tuple(colors[row, 0, 0])
        found = (TEXT + SIDE // 2, row * ROW + 18 + SIDE // 2)
        assert sheet.getpixel(found) == tuple(colors[row, 0, 0]), "its own image comes first"
        assert sheet.getpixel((TEXT - 1, row * ROW + 18 + SIDE // 2)) == FRAME


def test_a_report_without_examples_is_refused():
    with pytest.raises(ValueError, match="no examples of two towers"):
        picture("<html></html>")
