"""write_report: complete, self-contained, escaped, and never half a file."""

import dataclasses
import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from simclr_jax.core.errors import StorageError
from simclr_jax.report import page
from simclr_jax.report.page import Embedding, ReportContents, render, write_report

ATTACK = "<script>alert(1)</script>\"'> onerror=$x_$.jpg"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Outline(HTMLParser):
    """Start tags with attributes, visible text, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def result(protocol, features, num_train, top1):
    return {
        "protocol": protocol,
        "features": features,
        "label_fraction": num_train / 4000,
        "top1": top1,
        "top1_std": 0.02,
        "draws": 5,
        "num_train": num_train,
        "num_test": 1000,
        "train_data": "digits/train",
        "test_data": "digits/test",
        "num_classes": 2,
        "step": 9,
    }


def make_contents(num_images=24, **changes):
    rng = np.random.default_rng(0)
    contents = ReportContents(
        title="SimCLR on digits",
        dataset="digits",
        num_images=4000,
        encoder="ResNet-18",
        num_params=2_797_120,
        epochs=150,
        batch_size=256,
        devices="1 x cpu",
        wall_seconds=492.0,
        config={"run": {"seed": 0}, "data": {"name": "digits", "classes": ["a", ATTACK]}},
        metrics=[
            {"step": s, "epoch": s / 16, "loss": 6.0 - s / 99, "loss_chance": 6.24, "lr": 0.1}
            for s in range(1, 90)
        ],
        results=[
            result("linear", "pixels", 40, 0.632),
            result("linear", "encoder", 40, 0.812),
            result("linear", "encoder", 4000, 0.97),
            result("knn", "encoder", 40, 0.7),
        ],
        class_names=["cat", ATTACK],
        embedding=Embedding(
            rng.normal(size=(num_images, 8)).astype(np.float32),
            (np.arange(num_images) % 2).astype(np.int32),
            [f"{i}_{ATTACK}" for i in range(num_images)],
            rng.integers(0, 256, (num_images, 8, 8, 3), dtype=np.uint8),
        ),
        views=rng.integers(0, 256, (3, 2, 8, 8, 3), dtype=np.uint8),
    )
    return dataclasses.replace(contents, **changes)


@pytest.fixture(scope="module")
def full():
    return render(make_contents())


def test_is_well_formed_and_asks_for_nothing_outside_itself(full):
    outline = Outline(full)
    assert not outline.open
    for tag, attributes in outline.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/", "#")), value
    style = re.findall(r"<style>(.*?)</style>", full, re.DOTALL)
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]
    policy = [a["content"] for t, a in outline.tags if t == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_says_how_many_training_images_could_not_be_read(full):
    shown = lambda page: "".join(Outline(page).text)
    assert "could not be read" not in shown(full)
    spoilt = shown(render(make_contents(num_unreadable=1200)))
    assert "digits, 4,000 images, of which 1,200 could not be read" in spoilt


def test_shows_hostile_names_as_text(full):
    assert "<script" not in full
    text = "".join(Outline(full).text)
    assert ATTACK in text  # the class, under a picture
    contents = make_contents(title=ATTACK, dataset=ATTACK, encoder=ATTACK, devices=ATTACK)
    assert contents.embedding is not None
    unlabelled = dataclasses.replace(contents.embedding, labels=np.full(24, -1, np.int32))
    attacked = render(dataclasses.replace(contents, embedding=unlabelled))
    assert "<script" not in attacked
    outline = Outline(attacked)
    assert not outline.open
    assert f"0_{ATTACK}" in "".join(outline.text)
    assert f"0_{ATTACK}" in [attributes.get("alt") for _, attributes in outline.tags]


def test_escapes_protocols_and_features_it_does_not_know():
    text = render(make_contents(results=[result(ATTACK, ATTACK, 40, 0.5)], embedding=None))
    assert "<script" not in text
    assert not Outline(text).open


def test_every_svg_is_xml_that_scales_and_ids_are_unique(full):
    charts = re.findall(r"<svg.*?</svg>", full, re.DOTALL)
    assert len(charts) == 5  # two protocols, loss, learning rate, map
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.get("viewBox")
        assert root.get("aria-label")
    ids = re.findall(r'\bid="([^"]*)"', full)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="|url\()#([^")]*)', full):
        assert target in ids


def test_leads_with_the_finding_at_the_fewest_labels(full):
    text = " ".join("".join(Outline(full).text).replace("\xa0", " ").split())
    assert (
        "With 40 labels of digits/train, a linear probe on the trained encoder's features"
        " classifies 81.2 % of digits/test correctly (raw pixels: 63.2 %)." in text
    )
    assert "2,797,120 parameters" in text
    assert "8 min 12 s" in text


def test_explains_each_missing_part():
    text = render(make_contents(config={}, metrics=[], results=[], embedding=None, views=None))
    outline = Outline(text)
    assert len([1 for _, attributes in outline.tags if attributes.get("class") == "missing"]) == 6
    assert "No finding yet" in text
    assert "python -m simclr_jax evaluate" in text
    assert not {"svg", "img", "table"} & {tag for tag, _ in outline.tags}


def test_shows_the_config_nested(full):
    assert "run:\n  seed: 0\ndata:\n  name: &quot;digits&quot;" in full


def test_replaces_an_older_report_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    contents = make_contents(embedding=None)
    write_report(contents, path)
    assert path.read_text("utf-8") == render(contents)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_an_error_while_writing_keeps_the_older_report(tmp_path, monkeypatch):
    def no_space(source, target):
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(StorageError, match=r"report\.html.*No space left on device"):
        write_report(make_contents(embedding=None), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_an_error_while_drawing_leaves_no_file(tmp_path):
    with pytest.raises(KeyError):
        write_report(make_contents(results=[{"protocol": "knn"}]), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_names_a_directory_that_does_not_exist(tmp_path):
    with pytest.raises(StorageError, match=r"absent.*No such file or directory"):
        write_report(make_contents(embedding=None), tmp_path / "absent" / "report.html")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (492, "8 min 12 s"),
        (11130, "3 h 5 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert page.duration(seconds) == text


def test_a_page_on_sounds_speaks_of_sounds():
    metrics = [{"step": 1, "epoch": 1.0, "loss": 2.0, "loss_chance": 3.0, "pairs_per_second": 8.0}]
    contents = make_contents(examples="sounds", metrics=metrics)
    assert contents.embedding is not None
    embedding = dataclasses.replace(contents.embedding, examples="sounds")
    text = " ".join(Outline(render(dataclasses.replace(contents, embedding=embedding))).text)
    for words in ("4,000 sounds", "sounds per second", "sounds/s", "test sounds"):
        assert words in text
    assert "images" not in text.lower()
