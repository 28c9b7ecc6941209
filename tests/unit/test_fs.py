"""Paths and URIs: what opens, what is written whole or not at all, what is listed."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from davam.data import fs
from davam.errors import ArtifactError, ConfigError


@pytest.fixture(params=["plain", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place, by path, by file:// and on a filesystem without folders."""
    roots = {"plain": str(tmp_path), "file": f"file://{tmp_path}", "memory": "memory://davam-fs"}
    yield roots[request.param]
    fs.delete_folder("memory://davam-fs")


def test_what_is_written_is_read(root: str) -> None:
    uri = fs.join(root, "a", "b.bin")
    assert not fs.exists(uri)
    for data in (b"\x00\xff first", b"", b"second"):
        fs.write_bytes_atomic(uri, data)
        assert fs.read_bytes(uri) == data
    assert fs.exists(uri)
    assert fs.list_files(root) == [("a/b.bin", 6)]


def test_a_missing_file(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        fs.read_bytes(fs.join(root, "none"))


def test_files_are_listed_with_sizes_in_order(root: str) -> None:
    assert fs.list_files(fs.join(root, "nowhere")) == []
    for name in ("b", "a/c", "a/b/d", "a.txt"):
        fs.write_bytes_atomic(fs.join(root, name), name.encode())
    expected = [("a.txt", 5), ("a/b/d", 5), ("a/c", 3), ("b", 1)]
    assert fs.list_files(root) == expected
    assert fs.list_files(f"{root}/") == expected
    assert fs.list_files(fs.join(root, "a")) == [("b/d", 5), ("c", 3)]


def test_folders_are_copied_and_deleted(root: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(b"123")
    (folder / "c.json").write_bytes(b"{}")
    target = fs.join(root, "x", "y")
    fs.upload_folder(str(folder), target)
    assert fs.list_files(target) == [("c.json", 2), ("sub/w.bin", 3)]
    assert fs.read_bytes(fs.join(target, "sub/w.bin")) == b"123"

    fs.delete_folder(target)
    assert fs.list_files(root) == []
    fs.delete_folder(target)


def test_a_copy_overwrites_what_was_there(tmp_path: Path) -> None:
    for name, text in (("old", "a longer text"), ("new", "short")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(text)
        fs.upload_folder(str(tmp_path / name), str(tmp_path / "target"))
    assert (tmp_path / "target" / "f").read_text() == "short"


@pytest.mark.parametrize("name", ["a b.txt", "50%.txt", "é.txt", "a#b.txt", "a?b.txt", "[a].txt"])
def test_names_of_any_kind(tmp_path: Path, name: str) -> None:
    fs.write_bytes_atomic(str(tmp_path / name), b"x")
    assert (tmp_path / name).read_bytes() == b"x"
    assert fs.list_files(str(tmp_path)) == [(name, 1)]
    assert fs.read_bytes(str(tmp_path / name)) == b"x"


def test_file_uris_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "c?").write_text("x")
    assert fs.read_bytes(f"file://{tmp_path}/a%20b/c?") == b"x"


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    fs.write_bytes_atomic(str(path), b"old")
    seen: list[bytes] = []
    replace = os.replace

    def look_then_replace(source: str, target: str) -> None:
        seen.append(path.read_bytes())
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_then_replace)
    fs.write_bytes_atomic(str(path), b"new")
    assert (seen, path.read_bytes()) == ([b"old"], b"new")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    uri = str(tmp_path / "f")
    fs.write_bytes_atomic(uri, b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(ArtifactError) as caught:
        fs.write_bytes_atomic(uri, b"new")
    assert str(caught.value) == (
        f"cannot write {uri}: [Errno 28] No space left on device; check permissions, credentials and free space, "
        "or choose another --store"
    )
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"old")]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    """A store can be shared: files have the permissions of any new file."""
    (tmp_path / "plain").write_bytes(b"x")
    fs.write_bytes_atomic(str(tmp_path / "atomic"), b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


def test_a_scheme_that_nothing_opens() -> None:
    with pytest.raises(ConfigError) as caught:
        fs.resolve("nope://bucket/x")
    assert str(caught.value) == (
        "nope://bucket/x: no filesystem for nope:// (Protocol not known: nope); use a path, s3://, gs:// or a scheme "
        "whose fsspec package is installed"
    )


def test_a_scheme_whose_package_fails() -> None:
    with pytest.raises(ConfigError, match=r"^github://foo/bar: no filesystem for github:// \(.*; use a path, s3://"):
        fs.resolve("github://foo/bar")


def test_what_is_local_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fs.absolute("store") == f"{tmp_path}/store"
    assert fs.absolute("../x/") == f"{tmp_path.parent}/x"
    assert fs.absolute("s3://bucket/store/") == "s3://bucket/store"
    assert [fs.is_local(uri) for uri in ("a", "/a", "file:///a", "s3://a", "memory://a")] == [True] * 3 + [False] * 2
    assert fs.join("s3://bucket/", "a", "b") == "s3://bucket/a/b"


@pytest.mark.parametrize("delete", [fs.delete_file, fs.delete_folder])
def test_what_cannot_be_deleted_is_said(
    delete: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stays").mkdir()

    class Silent:
        """A store that refuses without a word."""

        def delete_file(self, path: str) -> None:
            """Nothing happens."""

        delete_dir = delete_file

    monkeypatch.setattr(fs, "resolve_without_markers", lambda uri: (Silent(), uri))
    with pytest.raises(ArtifactError, match=r"cannot delete .*stays: it is still there; check permissions"):
        delete(str(tmp_path / "stays"))


def test_creating_without_the_schemes_package_is_one_message() -> None:
    with pytest.raises(ConfigError, match=r"^nosuch://bucket/x: no filesystem for nosuch:// \(.*; use a path, s3://"):
        fs.create_bytes("nosuch://bucket/x", b"")
