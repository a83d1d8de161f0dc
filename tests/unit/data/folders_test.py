"""Several folders as one data set."""

import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data.files import absolute_paths
from simclr_jax.data.folder import Folder
from simclr_jax.data.sources import open_source


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def open_all(path, **options):
    source = open_source(**({"name": "folder", "split": "all", "path": path} | options))
    assert isinstance(source, Folder)
    return source


def names(source):
    return [source[i].name for i in range(len(source))]


@pytest.mark.parametrize("as_text", [True, False])
def test_several_folders_are_one_list_sorted(tmp_path, as_text):
    write(tmp_path, "b/x.jpg", "a/1.jpg", "a/y/2.jpg", "c/3.jpg", "b/no.txt")
    paths = (str(tmp_path / "b"), str(tmp_path / "a"))
    source = open_all(",".join(paths) if as_text else paths)
    assert names(source) == ["a/1.jpg", "a/y/2.jpg", "b/x.jpg"]
    assert source[2].image == b"b/x.jpg"
    assert source.left_out == {".txt": 1}
    assert source.name == f"folder {paths[0]},{paths[1]}"


def test_class_folders_of_the_same_name_are_one_class(tmp_path):
    write(tmp_path, "new/train/cat/1.jpg", "old/train/cat/1.jpg", "old/train/ant/1.jpg")
    paths = (str(tmp_path / "new"), str(tmp_path / "old"))
    source = open_all(paths, split="train", labels_from_folders=True)
    assert source.class_names == ("ant", "cat")
    assert [source[i].label for i in range(3)] == [1, 0, 1]
    with pytest.raises(UserError, match=r"new has no folder for split='val'"):
        open_all(paths, split="val")


def test_a_file_that_two_folders_share_is_named(tmp_path):
    write(tmp_path, "a/in/1.jpg", "a/2.jpg", "b/3.jpg")
    (tmp_path / "b/again.jpg").symlink_to(tmp_path / "a/2.jpg")
    with pytest.raises(UserError, match=r"1 images of .* twice, a/2\.jpg = b/again\.jpg: copies"):
        open_all((str(tmp_path / "a"), str(tmp_path / "b")))
    with pytest.raises(UserError, match=r"1 images .* twice, in/1\.jpg = in/1\.jpg"):
        open_all((str(tmp_path / "a"), str(tmp_path / "a/in")))


def test_a_folder_that_has_a_comma_in_its_name_is_one(tmp_path):
    write(tmp_path, "a,b/1.jpg", "a/2.jpg")
    assert names(open_all(str(tmp_path / "a,b"))) == ["1.jpg"]
    with pytest.raises(UserError, match="does not exist"):
        open_all(f"{tmp_path}/a,none")


def test_every_path_of_a_list_means_the_same_from_another_directory(tmp_path, monkeypatch):
    write(tmp_path, "a/1.jpg", "b/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert absolute_paths("a,b") == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert absolute_paths(["a"]) == f"{tmp_path}/a"
    assert absolute_paths("x-{0..3}.tar,y-{a,b}.tar") == (
        f"{tmp_path}/x-{{0..3}}.tar",
        f"{tmp_path}/y-{{a,b}}.tar",
    )
    assert len(open_all("a,b")) == 2
