"""The section on two towers: figures of both ways, and whose caption is whose."""

import base64
import dataclasses
import re

import numpy as np

from simclr_jax.report.towers import Pairs, towers_section

METRICS = [
    {"step": 1, "loss_image_to_text": 2.0, "loss_text_to_image": 2.5, "scale": 14.3},
    {"step": 2, "loss_image_to_text": 1.25, "loss_text_to_image": 1.75, "scale": 15.9},
]


def row(protocol, **figures):
    what = {"features": "towers", "train_data": "a", "test_data": "b <i>", "step": 2}
    return {"protocol": protocol, **what, **figures}


def pairs():
    """Returns three images, of which the first two share a caption."""
    belongs = np.array([[True, False], [True, False], [False, True]])
    rows = np.eye(3, 4, dtype=np.float32)
    captions = np.stack([rows[0] + 0.5 * rows[1], rows[2]])
    return Pairs(rows, np.zeros((3, 2, 2, 3), np.uint8), ["two <b>", "one"], captions, belongs)


def test_there_is_no_section_without_a_text_tower():
    assert towers_section([], METRICS, None) == ""


def test_figures_are_those_of_the_results_and_of_the_last_step():
    rows = [row("zero_shot", top1=0.5, top1_chance=0.1), row("knn", top1=0.987, num_train=1)]
    page = towers_section(rows, METRICS, pairs())
    assert "<td>b &lt;i&gt;</td>" in page
    numbers = re.findall(r'<td class="number">([^<]*)</td>', page)
    assert numbers == ["50.0", "&ndash;", "&ndash;", "10.0"]
    assert "They end at 1.25 and 1.75" in page
    assert "<dd>15.9</dd>" in page


def test_examples_show_the_nearest_first_and_mark_every_image_of_a_caption():
    page = towers_section([], METRICS, pairs())
    assert "Not judged yet" in page
    asked = page.split("<span>two &lt;b&gt;</span>")[1].split("</li>")[0]
    assert re.findall(r'class="(same|neighbor)"', asked) == ["same", "same", "neighbor"]
    first_image = page.split("<ol>")[1].split("</ol>")[0]
    assert re.findall(r"<li>([^<]*)</li>", first_image) == ["two &lt;b&gt;, 0.89", "one, 0.00"]


def test_sounds_are_played_beside_their_pictures():
    page = towers_section([], METRICS, dataclasses.replace(pairs(), play=lambda i: b"RIFF%d" % i))
    played = re.findall(r'<audio controls [^>]*src="data:audio/wav;base64,([^"]*)">', page)
    numbers = [base64.b64decode(data).decode() for data in played]
    asked_in_words = ["0", "1", "2", "2", "0", "1"]  # the nearest of each caption first
    assert [number.removeprefix("RIFF") for number in numbers] == ["0", "1", "2", *asked_in_words]
    assert "<audio" not in towers_section([], METRICS, pairs())


def test_sounds_are_not_called_images():
    page = towers_section([], METRICS, dataclasses.replace(pairs(), examples="sounds"))
    assert "Sounds and words" in page
    assert "the nearest of 3 sounds" in page
    assert "mages" not in page
