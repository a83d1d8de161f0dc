"""Stand-ins: brackets on a ring, matched by hand; none twice; the same whoever looks."""

import numpy as np
import pytest

from simclr_jax.data.stand_ins import StandIns


def ring(n, seed):
    words = np.random.Philox(key=np.array([seed, 2**64 - 2], np.uint64)).random_raw(n)
    return np.argsort(words, kind="stable").tolist()


def matched(n, seed, ids, broken):
    """Matches the brackets of all rows at once, by a stack that goes round the ring twice."""
    stack, partner = [], {}
    for i in ring(n, seed) * 2:
        rows = [row for row, j in enumerate(ids) if j == i and i in broken]
        opened = {row for row in rows if row in stack or row in partner}
        stack += [row for row in reversed(rows) if row not in opened]
        if i not in broken and i not in ids and stack and i not in partner.values():
            partner[stack.pop()] = i
    return partner


def found(n, seed, ids, broken, row):
    seen = []

    def look(i):
        seen.append(i)
        return None if i in broken else i

    return StandIns(n, seed, lambda: np.asarray(ids)).find(row, look), seen


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("n", "b", "num_broken"), [(40, 8, 20), (100, 32, 40), (30, 20, 5)])
def test_each_unreadable_row_gets_what_closes_its_bracket(n, b, num_broken, seed):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(n)[:b].tolist()
    broken = set(rng.permutation(n)[:num_broken].tolist())
    want = matched(n, seed, ids, broken)
    rows = [row for row in range(b) if ids[row] in broken]
    got = {row: found(n, seed, ids, broken, row)[0] for row in rows}
    assert got == want
    filled = [got.get(row, ids[row]) for row in range(b)]
    assert len(set(filled)) == b
    assert not set(filled) & broken


def test_an_image_that_is_in_a_batch_twice_gets_two_stand_ins():
    ids, broken = [3, 5, 3], {3}
    first, second = (found(9, 0, ids, broken, row)[0] for row in (0, 2))
    order = ring(9, 0)
    after = [i for i in order[order.index(3) :] + order[: order.index(3)] if i not in ids]
    assert [first, second] == after[:2]


def test_one_stand_in_is_the_next_on_the_ring_in_every_batch_that_does_not_hold_it():
    order = ring(50, 7)
    after = order[(order.index(4) + 1) % 50]
    for step in range(20):
        others = np.random.default_rng(step).permutation(50)[:6]
        ids = [4, *(i for i in others if i not in (4, after))]
        assert found(50, 7, ids, {4}, 0) == (after, [after])


def test_no_other_image_is_left_only_if_all_are_in_the_batch():
    ids, broken = list(range(6)), {1, 4}
    for row in (1, 4):
        assert found(6, 0, ids, broken, row)[0] in {0, 2, 3, 5}


def test_nothing_stands_in_where_nothing_can_be_read():
    assert found(5, 0, [0, 1], set(range(5)), 0)[0] is None


def test_stand_ins_do_not_crowd_where_broken_images_lie_together():
    """40 of 100 in a row: whoever stands in is one of 60, not the image after the gap."""
    broken = set(range(30, 70))
    stand_ins = [found(100, 0, [i], broken, 0)[0] for i in broken]
    assert len(set(stand_ins)) > 20
