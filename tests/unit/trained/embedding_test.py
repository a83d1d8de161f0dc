"""Files of texts: which lines they have, and what is wrong with them."""

import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.trained.embedding import read_texts


def test_each_line_is_a_text(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffone dog\r\ntwo\u2028dogs\n".encode())
    assert read_texts(str(path)) == ["one dog", "two\u2028dogs"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n \nb\n", "line 2 is empty"),
        (b"", "line 1 is empty"),
        (b"caf\xe9\n", "is not UTF-8"),
    ],
)
def test_names_what_is_wrong_with_a_file(content, message, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"--texts=.*texts.txt:? {message}"):
        read_texts(str(path))


def test_names_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.txt cannot be read"):
        read_texts(str(tmp_path / "nowhere.txt"))
