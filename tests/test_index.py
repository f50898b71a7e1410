"""The layouts: what is listed, under which names, and what is said when a folder is something else."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from talkhead.data.clip import EMOTIONS
from talkhead.data.index import list_sources


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def mead(tmp_path: Path) -> Path:
    return touch(
        tmp_path,
        "M030/video/front/happy/level_3/012.mp4",
        "M030/video/front/neutral/level_1/001.mp4",
        "M030/video/left_30/happy/level_3/012.mp4",
        "M030/audio/happy/level_3/012.m4a",
        "W009/video/front/angry/level_2/001.mp4",
        "W009/video/front/bored/level_2/001.mp4",
    )


def test_mead_is_read_from_its_folders(mead: Path) -> None:
    sources = {s.name: s for s in list_sources("mead", mead)}
    assert sorted(sources) == list(sources)
    happy = sources["M030-front-happy-level_3-012"]
    assert (happy.identity, happy.emotion, happy.sentence, happy.has_video) == ("M030", "happy", "012", True)
    assert happy.audio_path == mead / "M030/audio/happy/level_3/012.m4a"
    assert sources["M030-front-neutral-level_1-001"].audio_path is None
    # The same number is the same sentence for splitting, whoever says it and however.
    assert sources["W009-front-angry-level_2-001"].sentence == sources["M030-front-neutral-level_1-001"].sentence
    assert "bored" in (sources["W009-front-bored-level_2-001"].skip or "")
    assert len(sources) == 4


def test_mead_root_may_be_one_person_and_filters_apply(mead: Path) -> None:
    assert [s.identity for s in list_sources("mead", mead / "M030")] == ["M030", "M030"]
    assert {s.identity for s in list_sources("mead", mead, identity="M030")} == {"M030"}
    assert [s.emotion for s in list_sources("mead", mead, emotion="angry")] == ["angry"]
    assert [s.path.parts[-4] for s in list_sources("mead", mead, view="left_30")] == ["left_30"]
    every = list_sources("mead", mead, identity="M030", view="all")
    assert [(s.view, s.emotion) for s in every] == [("front", "happy"), ("front", "neutral"), ("left_30", "happy")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layout": "vox"}, "layout must be one of mead, ravdess, emodb, crema-d, folder"),
        ({"view": "back"}, "view must be one of front"),
        ({"emotion": "bored"}, "emotion must be one of angry"),
        ({"identity": "M031"}, r"identity: 'M031' is not in .* which has M030, W009"),
        ({"view": "top"}, r"looked for <ID>/video/top/<emotion>/level_<k>/<nnn>.mp4; extract"),
        ({"root": Path(__file__)}, r"looked for <ID>/video/front/<emotion>/level_<k>/<nnn>.mp4; extract"),
        ({"layout": "ravdess"}, "looked for MM-VC-EE-II-SS-RR-AA"),
        ({"layout": "emodb"}, "looked for <speaker><text>"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(mead: Path, arguments: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        list_sources(**({"layout": "mead", "root": mead} | arguments))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input: .* does not exist"):
        list_sources("folder", tmp_path / "nowhere")
    touch(tmp_path, "readme.txt", ".hidden.mp4")
    with pytest.raises(ValueError, match="found nothing to read"):
        list_sources("folder", tmp_path)


def test_folder_takes_any_nesting(tmp_path: Path) -> None:
    touch(tmp_path, "b.MPG", "anna/talk 1.mp4", "anna/talk 1.wav", "anna/day/x.flac", "anna/._x.flac", "notes.txt")
    sources = {s.name: s for s in list_sources("folder", tmp_path)}
    assert list(sources) == ["anna-day-x", "anna-talk_1", "b"]
    assert [s.identity for s in sources.values()] == ["day", "anna", "speaker"]
    assert [s.has_video for s in sources.values()] == [False, True, True]
    assert [s.sentence for s in sources.values()] == ["x", "talk 1", "b"]
    # A sound file beside a video of its name is that video's sound, no recording of its own.
    assert sources["anna-talk_1"].audio_path == tmp_path / "anna/talk 1.wav"
    named = list_sources("folder", tmp_path, identity="eve", emotion="sad")
    assert {(s.identity, s.emotion) for s in named} == {("eve", "sad")}


def test_folder_may_be_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    assert [s.name for s in list_sources("folder", tmp_path / "b.mp4")] == ["b"]


def test_equal_names_are_told_apart_by_their_place_alone(tmp_path: Path) -> None:
    touch(tmp_path, "x y.mp4", "x_y.mp4", "x_y.mov", "z.mp4")
    before = {s.path.name: s.name for s in list_sources("folder", tmp_path)}
    assert len(set(before.values())) == 4 and before["z.mp4"] == "z"
    assert all(n.startswith("x_y-") for f, n in before.items() if f != "z.mp4")
    touch(tmp_path, "X_Y.mp4", "a.mp4")
    after = {s.path.name: s.name for s in list_sources("folder", tmp_path)}
    assert {f: after[f] for f in before} == before


@pytest.mark.parametrize("sign", ["a", "é", "频"])
def test_long_names_are_cut_to_what_a_file_system_holds(sign: str, tmp_path: Path) -> None:
    width = len(sign.encode())
    whole = sign * (99 // width)  # with the folder's name and the dash 200 bytes or a little less
    folder = tmp_path / whole
    touch(folder, f"{whole}{'x' * (199 - 2 * len(whole.encode()))}.wav", f"{sign * (240 // width)}.wav")
    touch(folder, f"{sign * (240 // width - 1)}x.wav", f"{sign * (240 // width - 1)}x.mp3")
    kept, *cut = sorted((s.name for s in list_sources("folder", tmp_path)), key=lambda name: name.count("-"))
    assert kept.startswith(f"{whole}-{whole}") and len(kept.encode()) == 200
    assert len({*cut}) == 3 and all(name.startswith(f"{whole}-{whole}"[:60]) for name in cut)
    assert all(180 < len(name.encode()) <= 255 - len("@0000.safetensors") for name in cut)
    assert sorted(name.count("-") for name in cut) == [2, 3, 3]  # two places differ in their endings alone


def test_ravdess_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "Actor_01/03-01-06-01-02-01-01.wav",
        "Actor_01/03-01-02-01-02-01-01.wav",
        "Actor_02/01-01-08-01-01-01-02.mp4",
        "Actor_02/02-01-08-01-01-01-02.mp4",
        "Actor_02/03-01-08-01-01-01-02.wav",
        "again/Actor_01/03-01-06-01-02-01-01.wav",
        "Actor_02/cover.mp4",
    )
    sources = list_sources("ravdess", tmp_path)
    usable = {s.name: s for s in sources if not s.skip}
    assert list(usable) == ["01-01-08-01-01-01-02", "03-01-06-01-02-01-01"]
    fear = usable["03-01-06-01-02-01-01"]
    assert (fear.identity, fear.emotion, fear.sentence, fear.has_video) == ("Actor_01", "fear", "statement_02", False)
    assert usable["01-01-08-01-01-01-02"].has_video
    skipped = Counter(s.skip for s in sources if s.skip)
    assert len(skipped) == 4 and skipped["calm has no MEAD label"] == 1
    assert len({s.name for s in sources}) == 6


def test_crema_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "AudioMP3/1001_DFA_ANG_XX.mp3",
        "AudioWAV/1001_DFA_ANG_XX.wav",
        "VideoFlash/1001_DFA_ANG_XX.flv",
        "AudioWAV/1091_IEO_HAP_HI.wav",
        "AudioWAV/1091_IEO_SAD_LO.wav",
        "AudioWAV/1091_IEO_JOY_LO.wav",
        "AudioWAV/1040_ITH_SAD_X.wav",
        "AudioWAV/notes.wav",
    )
    usable = {s.name: s for s in list_sources("crema-d", tmp_path) if not s.skip}
    found = {n: (s.identity, s.sentence, s.emotion, s.level, s.has_video) for n, s in usable.items()}
    assert found == {
        "1001_DFA_ANG_XX": ("1001", "DFA", "angry", 0, True),
        "1040_ITH_SAD_X": ("1040", "ITH", "sad", 0, False),
        "1091_IEO_HAP_HI": ("1091", "IEO", "happy", 3, False),
        "1091_IEO_SAD_LO": ("1091", "IEO", "sad", 1, False),
    }


def test_levels_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, "r/03-01-06-02-02-01-01.wav", "r/03-01-05-01-02-01-01.wav")
    assert [s.level for s in list_sources("ravdess", tmp_path / "r")] == [1, 2]
    touch(tmp_path, *(f"m/M030/video/front/sad/level_{k}/001.mp4" for k in (1, 2, 3)))
    assert [s.level for s in list_sources("mead", tmp_path / "m")] == [1, 2, 3]


def test_emodb_names(tmp_path: Path) -> None:
    touch(tmp_path, "wav/03a01Fa.wav", "wav/16b10Lb.wav", "wav/08b02Ea.wav", "wav/notes.wav")
    sources = {s.name: s for s in list_sources("emodb", tmp_path)}
    assert list(sources) == ["03a01Fa", "08b02Ea", "16b10Lb"]
    happy = sources["03a01Fa"]
    assert (happy.identity, happy.emotion, happy.sentence, happy.has_video) == ("03", "happy", "a01", False)
    assert sources["08b02Ea"].emotion == "disgusted"
    assert sources["16b10Lb"].skip == "bored (L) has no MEAD label"


def test_real_folders_have_their_published_counts(shared_data: Callable[[str], Path]) -> None:
    ravdess = list_sources("ravdess", shared_data("ravdess"))
    # RAVDESS speech: 24 actors x 60; calm, as each emotion but neutral, is 8 of an actor's 60.
    assert len(ravdess) == 1440 and sum(s.skip is not None for s in ravdess) == 24 * 8
    assert len({s.identity for s in ravdess}) == 24
    emodb = Counter(s.emotion for s in list_sources("emodb", shared_data("emodb")))
    assert emodb == {"angry": 127, "happy": 71, "neutral": 79, "sad": 62} and set(emodb) <= set(EMOTIONS)
    assert len(list_sources("folder", shared_data("grid_s1/clips"))) == 240
    crema = Counter((s.emotion, s.has_video) for s in list_sources("crema-d", shared_data("crema_d")))
    assert crema == {
        (e, v): 1 for e in ("angry", "disgusted", "fear", "happy", "neutral", "sad") for v in (True, False)
    }


def listed(root: Path) -> list[str]:
    return [s.path.relative_to(root).as_posix() for s in list_sources("folder", root)]


def test_linked_folders_are_entered_and_none_twice(tmp_path: Path) -> None:
    disk = touch(tmp_path / "disk", "anna/a.mp4", "anna/deep/b.mp4", ".trash/c.mp4")
    root = touch(tmp_path / "data", "bert/d.mp4", "zoe/e.mp4")
    for place, target in {
        "anna": disk / "anna",
        "again": disk / "anna",  # a second way to the same recordings, which would lie in two parts of a split
        "copy": root / "zoe",  # called as it is called itself
        "bert/up": root,
        "bert/here": Path("."),
        "bert/self": Path("self"),
        "gone": disk / "nobody",
        ".hidden": disk / "anna",
        "single.mp4": disk / ".trash/c.mp4",
    }.items():
        (root / place).symlink_to(target)
    (disk / "anna/deep/back").symlink_to(disk / "anna")
    expected = ["again/a.mp4", "again/deep/b.mp4", "bert/d.mp4", "single.mp4", "zoe/e.mp4"]
    assert sorted(listed(root)) == expected
    (tmp_path / "way").symlink_to(root)
    assert sorted(listed(tmp_path / "way")) == expected  # whatever leads to the root


def test_a_link_to_what_holds_the_root_ends(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "a/x.mp4")
    touch(tmp_path, "beside/y.mp4")
    (root / "all").symlink_to(tmp_path)
    assert sorted(listed(root)) == ["a/x.mp4", "all/beside/y.mp4"]


def test_pictures_and_people_may_be_links(mead: Path, tmp_path: Path) -> None:
    stills = touch(tmp_path / "elsewhere", "0001/x.jpg", "0001/y.jpg").parent / "stills"
    stills.mkdir()
    (stills / "anna").symlink_to(tmp_path / "elsewhere/0001")
    assert [(s.identity, len(s.stills)) for s in list_sources("stills", stills)] == [("anna", 2)]
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "M041").symlink_to(mead / "M030")
    assert {s.identity for s in list_sources("mead", linked)} == {"M041"}
    assert {s.name for s in list_sources("mead", linked)} >= {"M041-front-happy-level_3-012"}
