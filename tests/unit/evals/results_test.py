"""results.json: what is replaced, what stays, and what does not say what it is about."""

import json

from simclr_jax.evals.results import add_results, by_images, own_first, read_results


def row(top1, **changes):
    what = {"train_data": "a/train", "test_data": "a/test", "protocol": "knn", "step": 5}
    return {**what, "features": "encoder", "label_fraction": 0.1, "top1": top1, **changes}


def accuracies(rows):
    return [row["top1"] for row in rows]


def test_rows_of_other_images_protocols_features_and_fractions_stay(tmp_path):
    rows = [
        row(0.1),
        row(0.2, test_data="b/test"),
        row(0.3, train_data="a/train[:9]"),
        row(0.4, protocol="linear"),
        row(0.5, features="pixels"),
        row(0.6, label_fraction=1.0),
    ]
    add_results(tmp_path, rows)
    written = add_results(tmp_path, [row(0.7)])
    assert accuracies(written) == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert read_results(tmp_path) == json.loads((tmp_path / "results.json").read_text()) == written
    assert [accuracies(group) for group in by_images(written)] == [
        [0.2],
        [0.3],
        [0.4, 0.5, 0.6, 0.7],
    ]


def test_on_the_same_images_an_earlier_network_makes_room(tmp_path):
    add_results(tmp_path, [row(0.1, protocol="linear"), row(0.2, test_data="b/test")])
    written = add_results(tmp_path, [row(0.3, step=6)])
    assert accuracies(written) == [0.2, 0.3]


def test_rows_that_do_not_name_their_images_are_left_out(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps([{"protocol": "knn", "top1": 0.9}, row(0.1)]))
    assert accuracies(read_results(tmp_path)) == [0.1]
    assert read_results(tmp_path / "nowhere") == []


def test_rows_on_the_runs_own_images_come_first_and_the_others_stay_in_order():
    rows = [row(0.1, test_data="b/test"), row(0.2), row(0.3, test_data="c/test"), row(0.4)]
    assert accuracies(own_first(rows, "a/test")) == [0.2, 0.4, 0.1, 0.3]
    assert accuracies(own_first(rows, None)) == [0.1, 0.2, 0.3, 0.4]
