"""A file is there whole or not at all, whoever else writes it at the same time."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import SafetensorError

from talkhead.media.files import FullError, check_apart, new_folder, replacing, sweep, temporary_name, write_whole


def test_bytes_and_functions_are_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"one")
    write_whole(tmp_path / "b", lambda file: file.write(b"two"))
    assert (tmp_path / "a").read_bytes() == b"one" and (tmp_path / "b").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail(file: object) -> None:
        assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
        raise error

    with pytest.raises(error):
        write_whole(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_threads_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    contents = [bytes([k]) * 100_000 for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_whole(path, content), contents * 4))
    assert path.read_bytes() in contents and list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda source, target: calls.append(Path(source).read_text()))
    write_whole(tmp_path / "a", b"content")
    assert calls == ["fsync", "content"]


def test_names_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".json")  # 245 of 255 bytes
    with replacing(path) as temporary:
        assert temporary.suffix == ".json" and temporary.name.startswith(".")
        temporary.write_text("x")
    assert path.read_text() == "x"


def test_sweep_takes_what_killed_processes_left(tmp_path: Path) -> None:
    kept = tmp_path / "a.safetensors"
    write_whole(kept, b"")
    with pytest.raises(OSError), replacing(tmp_path / "b.json") as temporary:
        temporary.write_text("half")
        left = temporary.rename(tmp_path / f".b.1-{'0' * 12}.tmp.json")  # as if the process had been killed
    assert left.exists()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_sweep_takes_nothing_of_the_user_s(tmp_path: Path) -> None:
    """Hidden names with .tmp in them, a folder and a link with the very name of a temporary file."""
    for name in (".notes.tmpl", ".a.tmp", ".a.tmp.json", ".a.12.tmp", ".a.1-0.tmp.b", ".a.7-0123456789ab.tmp.tar.gz"):
        (tmp_path / name).write_text("mine")
    for name in (".x.tmp", ".d.7-0123456789ab.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".l.7-0123456789ab.tmp").symlink_to(".notes.tmpl")
    before = sorted(tmp_path.iterdir())
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["a", "a.json", ".hidden", "a.tar.gz", "ä" * 90 + ".mp4", "a\nb.wav", "%d.png", "a."])
def test_sweep_knows_every_name_that_a_killed_process_may_leave(tmp_path: Path, name: str) -> None:
    temporary_name(tmp_path / name).touch()
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


NO_ROOM = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, NO_ROOM),  # as Python's and Pillow's writers say it
        OSError(errno.ENOSPC, NO_ROOM, ".temporary"),  # PyAV's names what it wrote
        SafetensorError(f"Error while serializing: I/O error: {NO_ROOM} (os error {errno.ENOSPC})"),
    ],
)
def test_of_a_full_disk_the_name_is_told_that_was_to_be_written(tmp_path: Path, error: Exception) -> None:
    """Whoever wrote, it is one sentence, and nothing is left."""
    said = f"output: '{tmp_path / 'made'}' cannot be written ({NO_ROOM}); make room or choose another folder"
    for way in (replacing, new_folder):
        with pytest.raises(FullError) as raised, way(tmp_path / "made") as temporary:
            if getattr(error, "filename", None):
                error.filename = str(temporary)
            (temporary / "part" if temporary.is_dir() else temporary).write_bytes(b"half")
            raise error
        assert str(raised.value) == said and raised.value.errno == errno.ENOSPC
        assert list(tmp_path.iterdir()) == []


def test_of_another_disk_that_is_full_its_own_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="elsewhere"), replacing(tmp_path / "made"):
        raise OSError(errno.ENOSPC, NO_ROOM, "/elsewhere/speech")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"output: '.*/file/made' cannot be made \(.*\); choose another folder"):
        with new_folder(tmp_path / "file" / "made"):
            pass


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("x")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "x"]
    with pytest.raises(FileExistsError, match="not an empty folder"), new_folder(tmp_path / "a"):
        pass


@pytest.mark.parametrize("there", [True, False], ids=["an empty folder", "nothing yet"])
def test_a_link_to_an_empty_folder_is_filled(tmp_path: Path, there: bool) -> None:
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk" / "big").mkdir()
    (tmp_path / "link").symlink_to("disk/big")
    with new_folder(tmp_path / "link") as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk/big/x").read_text() == "x"
    assert sorted(p.name for p in tmp_path.rglob("*") if not p.is_symlink()) == ["big", "disk", "x"]


def test_a_folder_that_cannot_be_made_anew_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = "^output: '{}' is the current folder or the top of a disk; give the name of a folder in it$"
    for place in (".", str(tmp_path)):
        with pytest.raises(OSError, match=said.format(place)), new_folder(place):
            pytest.fail("the work has begun")
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "disk")
    with pytest.raises(OSError, match=said.format("disk")), new_folder("disk"):
        pytest.fail("the work has begun")
    assert list(tmp_path.iterdir()) == [tmp_path / "disk"]


def test_a_folder_has_the_rights_of_new_folders_and_any_name(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with new_folder(tmp_path / ("a" * 255)) as folder:
            (folder / "x").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ("a" * 255)).stat().st_mode) == 0o750


@pytest.mark.parametrize(
    ("output", "source", "writes_over"),
    [
        ("%05d.png", "00001.png", True),
        ("%05d.png", "sub/../00017.png", True),
        ("%05d.png", "link.png", True),  # to 00001.png
        ("%05d.png", "123456.png", True),  # a sixth digit from frame 100000 on
        ("%05d.png", "1.png", False),
        ("%05d.png", "000001.png", False),
        ("%05d.png", "sub/00001.png", False),
        ("%05d.png", "x00001.png", False),
        ("me.%d.png", "me.7.png", True),
        ("me.%d.png", "me.07.png", False),
        ("me.%d.png", "meX7.png", False),  # the dot is a dot
        ("%3d.png", "  7.png", True),
        ("take%d.mp4", "take1.mp4", False),  # videos are not numbered
    ],
)
def test_numbered_pictures_are_kept_apart_from_what_is_read(
    tmp_path: Path, output: str, source: str, writes_over: bool
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to("00001.png")
    if not writes_over:
        return check_apart(tmp_path / output, image=tmp_path / source)
    for given in (tmp_path / source, [str(tmp_path / source)], ("other.png", tmp_path / source)):
        with pytest.raises(ValueError, match="is the reference and would be written over"):
            check_apart(tmp_path / output, image=None, reference=given)
