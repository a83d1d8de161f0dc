"""The finding and the table, from rows of results.json."""

import re

from simclr_jax.report.results import headline, results_section


def row(protocol, features, num_train, top1, **more):
    return {
        "protocol": protocol,
        "features": features,
        "num_train": num_train,
        "top1": top1,
        "train_data": "a/train",
        "test_data": "a/test",
        "step": 9,
        **more,
    }


def test_headline_compares_at_the_same_protocol_and_number_of_labels():
    rows = [
        row("knn", "encoder", 10, 0.9),
        row("linear", "encoder", 400, 0.95),
        row("linear", "pixels", 40, 0.25),
        row("linear", "random_features", 40, 0.125),
        row("linear", "encoder", 40, 0.5),
        row("linear", "pixels", 400, 0.75),
    ]
    assert headline(rows) == (
        "With 40 labels of a/train, a linear probe on the trained encoder's features classifies"
        " <strong>50.0&nbsp;%</strong> of a/test correctly"
        " (raw pixels: 25.0&nbsp;%, random features: 12.5&nbsp;%)."
    )


def test_headline_falls_back_to_knn_and_is_silent_without_an_encoder():
    assert headline([row("knn", "encoder", 10, 0.9)]).startswith(
        "With 10 labels of a/train, kNN on"
    )
    assert headline([row("knn", "pixels", 10, 0.9)]) == ""
    assert headline([]) == ""


def test_table_marks_the_best_of_each_column_and_gaps():
    html = results_section(
        [
            row("linear", "encoder", 40, 0.5, top1_std=0.0625, draws=5),
            row("linear", "pixels", 40, 0.75, top1_std=0.125, draws=5),
            row("linear", "encoder", 400, 0.875, top1_std=0.0, draws=1),
        ]
    )
    assert '50.0 <span class="spread">&plusmn;&nbsp;6.2</span>' in html
    assert '<strong>75.0</strong> <span class="spread">&plusmn;&nbsp;12.5</span>' in html
    assert '<td class="number"><strong>87.5</strong></td>' in html
    assert html.count("&ndash;") == 1  # pixels at 400 labels
    assert "over 5 draws" in html


def test_chart_draws_the_level_of_a_guess_only_if_it_is_known():
    rows = lambda **more: [row("knn", "encoder", n, 0.5, **more) for n in (40, 400)]
    assert "guessing" in results_section(rows(num_classes=10))
    assert "guessing" not in results_section(rows())


def test_figures_on_other_images_stand_under_their_name_and_do_not_lead():
    rows = [
        row("linear", "encoder", 40, 0.5),
        row("linear", "encoder", 4, 0.75, test_data="<b>/x", train_data="b/y", step=3),
        row("linear", "pixels", 40, 0.25),
    ]
    html = results_section(rows)
    headings = re.findall("<h3>(Fitted.*?)</h3>", html)
    assert headings == [
        "Fitted on a/train, judged on a/test, step 9",
        "Fitted on b/y, judged on &lt;b&gt;/x, step 3",
    ]
    own, other = html.split("<h3>Fitted")[1:]
    assert "50.0" in own
    assert "25.0" in own
    assert "75.0" not in own
    assert "75.0" in other
    assert "50.0&nbsp;%</strong> of a/test" in headline(rows)
    assert "raw pixels: 25.0" in headline(rows)


def test_images_that_the_encoder_has_seen_are_counted():
    rows = [row("knn", "encoder", 40, 0.5, num_test=8, pretrained_on_test=3)]
    assert "trained on 3 of them, without their labels" in results_section(rows)
    html = results_section(rows, from_labels=True)
    assert "The encoder, which learned from labels, was trained on 3 of them." in html
    assert "without their labels" not in html
