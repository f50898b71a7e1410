"""A pipeline as a folder: export, save, load, demo, and the examples with a tiny speaker in the bundled one's place."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from conftest import POINTS, OneFace, speech
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file, save_file

from talkhead.cli import main
from talkhead.media.read import probe, write_audio, write_image
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline, demo, export_pipeline
from talkhead.speaker.folder import BUNDLED


@pytest.fixture(scope="module")
def folder(pipe, portrait, tmp_path_factory) -> Path:
    """A pipeline exported from saved parts."""
    parts = tmp_path_factory.mktemp("parts")
    pipe.landmark_net.save_pretrained(parts / "landmark")
    pipe.emotion_net.save_pretrained(parts / "emotion")
    pipe.renderer.save_pretrained(parts / "video" / "renderer")
    pipe.scheduler.save_pretrained(parts / "video" / "scheduler")
    write_image(parts / "face.png", portrait)
    write_audio(parts / "hello.wav", speech(0.5))
    return export_pipeline(
        parts / "speaker",
        landmark=parts / "landmark",
        emotion=parts / "emotion",
        video=parts / "video",
        portrait=parts / "face.png",
        speech=parts / "hello.wav",
        reference_landmarks=POINTS,
        window=8,
        overlap=2,
        num_inference_steps=2,
        data="A hum.",
        licence="CC0-1.0",
    )


def test_export_makes_the_same_pipeline(pipe, portrait, folder):
    names = "README.md emotion landmark pipeline.json portrait.png renderer scheduler speech.flac"
    assert sorted(p.name for p in folder.iterdir()) == names.split()
    info = json.loads((folder / "pipeline.json").read_text())
    assert (info["fps"], info["size"], info["crop_scale"]) == ("25", 32, 1.5) and "talkhead" in info
    card = (folder / "README.md").read_text()
    assert "license: CC0-1.0" in card and "A hum." in card
    loaded = TalkingHeadPipeline.from_pretrained(folder)
    one, two = (p(portrait, speech(0.5), reference_landmarks=POINTS) for p in (pipe, loaded))
    # Convolutions round by how the weights lie in memory, which may tip the rounding of a colour.
    assert (one.frames.int() - two.frames.int()).abs().max() <= 1
    assert one.emotion == pytest.approx(two.emotion, abs=1e-6)


def test_who_may_read_one_file_of_a_speaker_may_read_all(folder, tmp_path):
    """The weights were their owner's alone: to other users and containers a speaker seemed damaged."""
    bank = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), POINTS[None]
    shutil.copytree(folder / "scheduler", tmp_path / "video" / "scheduler")
    Renderer(size=32, widths=(8, 16), patch=2, bank=2).save_pretrained(tmp_path / "video" / "renderer")
    parts = {"landmark": folder / "landmark", "emotion": folder / "emotion", "video": tmp_path / "video"}
    before = os.umask(0o027)
    try:
        made = export_pipeline(tmp_path / "made", **parts, bank=bank)
        TalkingHeadPipeline.from_pretrained(made, device="cpu").save_pretrained(tmp_path / "copy")
    finally:
        os.umask(before)
    files = [path for name in ("made", "copy") for path in (tmp_path / name).rglob("*") if path.is_file()]
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert "bank.safetensors" in rights and set(rights.values()) == {0o640}


def test_parts_may_be_the_bundled_speakers(folder, tmp_path):
    own = folder.parent
    options = ["--landmark", str(own / "landmark"), "--video", str(own / "video"), "--output", str(tmp_path / "made")]
    assert main(["export", *options, "--emotion", "bundled", "--head", "bundled"]) == 0
    for part in ("emotion", "head"):
        weights = "diffusion_pytorch_model.safetensors"
        made, theirs = (load_file(place / part / weights) for place in (tmp_path / "made", BUNDLED))
        assert made.keys() == theirs.keys() and all(torch.equal(made[name], theirs[name]) for name in made)


def test_a_folder_with_the_old_name_of_the_points_is_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "old")
    text = (folder / "pipeline.json").read_text()
    assert "reference_landmarks" in text
    (tmp_path / "old" / "pipeline.json").write_text(text.replace("reference_landmarks", "portrait_landmarks"))
    assert (
        TalkingHeadPipeline.from_pretrained(tmp_path / "old").info == TalkingHeadPipeline.from_pretrained(folder).info
    )


def test_save_and_load_again(folder, tmp_path):
    first = TalkingHeadPipeline.from_pretrained(folder)
    first.save_pretrained(tmp_path / "copy")
    second = TalkingHeadPipeline.from_pretrained(str(tmp_path / "copy"))
    assert second.info == first.info
    for path in (tmp_path / "copy").rglob("*.json"):
        assert str(folder.parent) not in path.read_text()  # where it was loaded from is nobody else's business
    assert (tmp_path / "copy" / "portrait.png").read_bytes() == (folder / "portrait.png").read_bytes()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        first.save_pretrained(tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_other_schedulers_survive_the_folder(pipe, tmp_path):
    scheduler = DDPMScheduler(prediction_type="sample", clip_sample=False)
    paper = TalkingHeadPipeline(pipe.landmark_net, None, pipe.renderer, scheduler, pipe.info)
    paper.save_pretrained(tmp_path / "paper")
    loaded = TalkingHeadPipeline.from_pretrained(tmp_path / "paper")
    assert isinstance(loaded.scheduler, DDPMScheduler) and loaded.emotion_net is None
    assert loaded.scheduler.config.prediction_type == "sample"


def test_demo_needs_no_argument_but_a_pipeline(folder, tmp_path):
    out = demo(tmp_path / "outputs" / "demo.mp4", pipeline=folder, progress=False)
    info = probe(out)
    assert info.num_frames == 13 and info.sample_rate == 16000


EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def code_of(path: Path) -> str:
    """Return a script, or a notebook's code cells one after the other."""
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("api/01_generate.py", "talk.mp4"),
        ("api/02_stream.py", ""),
        ("api/03_edit_motion.py", "articulate.mp4 motion.npz motion.png"),
        ("notebooks/01_talk.ipynb", "talk.mp4"),
        ("notebooks/02_landmarks.ipynb", "edited.mp4 motion.npz"),
    ],
)
def test_examples_run(folder, tmp_path, monkeypatch, name, made):
    """With a tiny speaker in the place of the bundled one."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr("talkhead.speaker.folder.BUNDLED", folder)
    monkeypatch.setattr("sys.argv", [name])
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of(EXAMPLES / name), name, "exec"), {"__name__": "__main__"})
    plt.close("all")
    assert sorted(p.name for p in tmp_path.iterdir()) == made.split()


def test_a_failed_export_leaves_nothing(folder, tmp_path, monkeypatch):
    parts = folder.parent
    arguments = {"landmark": parts / "landmark", "emotion": None, "video": parts / "video"}
    with pytest.raises(ValueError, match="reference_landmarks"):
        export_pipeline(tmp_path / "new", **arguments, reference_landmarks=torch.zeros(3, 2))
    with pytest.raises(FileNotFoundError, match="no checkpoint or folder"):
        export_pipeline(tmp_path / "new", **arguments | {"video": parts / "absent.ckpt"})
    empty = parts / "empty"
    empty.mkdir()
    for part in ("landmark", "video"):
        with pytest.raises(
            ValueError, match=f"{part}: the folder '.*empty' is no trained .*it has no config.json.*give"
        ):
            export_pipeline(tmp_path / "new", **arguments | {part: empty})
    monkeypatch.setattr("talkhead.speaker.folder.load_detector", lambda name: OneFace(None))
    with pytest.raises(ValueError, match="^portrait: no face was found in '.*face.png' by .*; give a picture"):
        export_pipeline(tmp_path / "new", **arguments, portrait=parts / "face.png")
    (parts / "bad.ckpt").write_bytes(b"bad")
    with pytest.raises(ValueError, match="is torn or no checkpoint"):
        export_pipeline(tmp_path / "new", **arguments | {"video": parts / "bad.ckpt"})
    for given in ("portrait", "speech"):
        with pytest.raises(ValueError, match=f"^{given}: '.*' is a folder"):
            export_pipeline(tmp_path / "new", **arguments, **{given: parts})
    with pytest.raises(ValueError, match=r"^overlap must lie in 0\.\.window // 2 = 3; got 4 with window 6"):
        export_pipeline(tmp_path / "new", **arguments, window=6)  # it made videos with 3, and `adapt` failed at its end
    with pytest.raises(ValueError, match="^references: this renderer looks at one portrait alone"):  # `demo` refused it
        export_pipeline(tmp_path / "new", **arguments, references=parts / "face.png")
    assert not list(tmp_path.iterdir())


def write_run(folder: Path, module, **facts) -> Path:
    """Leave behind what a run of `talkhead fit` on a cache with such ``facts`` leaves, and a configuration to trust."""
    from lightning import Trainer

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(checkpoint | {"MEADDataModule": {"cache": facts}}, folder / "checkpoints" / "last.ckpt")
    (folder / "logs" / "version_0").mkdir(parents=True)
    evil = "model: {init_args: {net: {class_path: os.mkdir, init_args: {path: executed}}}}"
    (folder / "logs" / "version_0" / "config.yaml").write_text(evil)
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def runs(pipe, tmp_path, monkeypatch) -> dict[str, Path]:
    """Three runs: landmarks and video at 30 frames/s with a wide crop, emotions from sound alone."""
    from talkhead import EmotionClassifier, LandmarkGenerator, VideoDiffusion

    monkeypatch.chdir(tmp_path)
    ears = ConformerClassifier("XS", trained_on=["happy", "sad"])
    facts = {"fps": "30", "crop_scale": 1.8, "detector": "dlib", "size": 32}
    return {
        "landmark": write_run(tmp_path / "landmark", LandmarkGenerator(pipe.landmark_net), **facts),
        "emotion": write_run(tmp_path / "emotion", EmotionClassifier(ears)),
        "video": write_run(tmp_path / "video", VideoDiffusion(pipe.renderer, pipe.scheduler), **facts),
    }


def test_export_from_checkpoints(pipe, portrait, runs, tmp_path):
    speaker = export_pipeline(tmp_path / "speaker", **runs, window=8, overlap=2, num_inference_steps=2)
    assert not Path("executed").exists()
    loaded = TalkingHeadPipeline.from_pretrained(speaker)
    info = {name: loaded.info[name] for name in ("fps", "crop_scale", "detector", "size")}
    assert info == {"fps": "30", "crop_scale": 1.8, "detector": "dlib", "size": 32}
    pipe = TalkingHeadPipeline(pipe.landmark_net, pipe.emotion_net, pipe.renderer, pipe.scheduler, loaded.info)
    options = {"reference_landmarks": POINTS, "emotion": "sad"}
    one, two = (p(portrait, speech(0.4), **options).frames.int() for p in (pipe, loaded))
    assert one.shape == two.shape and (one - two).abs().max() <= 1  # as above
    assert loaded.emotion_net.trained_on == ("happy", "sad")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"fps": 25},
            "fps: the data of the parts had 30 of the landmark checkpoint, 30 of the video checkpoint, not 25",
        ),
        ({"crop_scale": 1.5}, "crop_scale: .* 1.8 of the video checkpoint, not 1.5"),
        ({"detector": "face-alignment"}, "detector: .*, not face-alignment"),
    ],
)
def test_export_refuses_what_the_data_contradict(runs, tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        export_pipeline(tmp_path / "speaker", **runs, **given)
    assert not (tmp_path / "speaker").exists()
    assert json.loads((export_pipeline("near", **runs, crop_scale=1.7) / "pipeline.json").read_text())["fps"] == "30"


def test_export_refuses_parts_of_different_data(pipe, runs, tmp_path):
    from talkhead import LandmarkGenerator

    other = runs | {"landmark": write_run(tmp_path / "other", LandmarkGenerator(pipe.landmark_net), fps="25")}
    with pytest.raises(
        ValueError, match="fps: .* 25 of the landmark checkpoint, 30 of the video checkpoint; give parts"
    ):
        export_pipeline(tmp_path / "speaker", **other)
    assert export_pipeline(tmp_path / "speaker", **other, fps=30).is_dir()


@pytest.mark.parametrize(
    "change",
    [
        {"net": {"class_path": "os.mkdir", "init_args": {"path": "executed"}}},
        {"net": {"class_path": "talkhead.nets.renderer.Renderer", "init_args": {}}},
        {"net": {"class_path": "talkhead.nets.landmark.LandmarkNet", "init_args": {"width": 10**9}}},
        {"net": {"class_path": "talkhead.nets.landmark.LandmarkNet", "init_args": {"encoder": "../secret"}}},
        {"net": "os.mkdir"},
        {"_class_path": "talkhead.modules.emotion.EmotionClassifier"},
    ],
)
def test_export_builds_nothing_but_its_own_networks(runs, tmp_path, change):
    checkpoint = torch.load(runs["landmark"], weights_only=True)
    checkpoint["hyper_parameters"] |= change
    torch.save(checkpoint, runs["landmark"])
    with pytest.raises(ValueError, match="LandmarkGenerator: .* is no checkpoint of it"):
        export_pipeline(tmp_path / "speaker", **runs)
    assert not Path("executed").exists() and not (tmp_path / "speaker").exists()


def test_a_module_of_ones_own_is_exported_by_its_networks(runs, tmp_path):
    checkpoint = torch.load(runs["landmark"], weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "os.mkdir"  # it is not run, and need not be there
    torch.save(checkpoint, runs["landmark"])
    assert export_pipeline(tmp_path / "speaker", **runs).is_dir() and not Path("executed").exists()


def test_networks_and_schedulers_of_ones_own_are_loaded_where_they_have_been_imported(pipe, portrait, runs, tmp_path):
    from talkhead import VideoDiffusion

    class OwnNet(type(pipe.landmark_net)):
        pass

    class OwnProcess(type(pipe.scheduler)):
        pass

    net = OwnNet(**{name: value for name, value in pipe.landmark_net.config.items() if not name.startswith("_")})
    own = TalkingHeadPipeline(net, None, pipe.renderer, OwnProcess(), pipe.info)
    own.save_pretrained(tmp_path / "own")
    loaded = TalkingHeadPipeline.from_pretrained(tmp_path / "own")
    assert (type(loaded.landmark_net), type(loaded.scheduler)) == (OwnNet, OwnProcess)
    runs["video"] = write_run(tmp_path / "process", VideoDiffusion(pipe.renderer, OwnProcess()), fps="30")
    speaker = export_pipeline(tmp_path / "speaker", **runs | {"landmark": tmp_path / "own" / "landmark"})
    assert type(TalkingHeadPipeline.from_pretrained(speaker).landmark_net) is OwnNet
    config = tmp_path / "own" / "landmark" / "config.json"
    config.write_text(config.read_text().replace("OwnNet", "StrangeNet"))
    with pytest.raises(ValueError, match="StrangeNet, not a LandmarkNet; a class of your own, .* imported"):
        TalkingHeadPipeline.from_pretrained(tmp_path / "own")


def test_a_network_of_ones_own_with_arguments_of_its_own_is_exported_and_loaded(pipe, runs, tmp_path, caplog):
    """It chooses those of the class that it replaces, which diffusers keeps beside its own."""
    from talkhead import LandmarkGenerator

    class Raised(LandmarkNet):
        @register_to_config
        def __init__(self, breadth: int = 8, lift: float = 0.5):
            super().__init__(width=breadth, heads=1, layers=1)
            self.lifted = torch.nn.Parameter(torch.tensor(lift))

    class Loose(LandmarkNet):
        @register_to_config
        def __init__(self, **options):
            super().__init__(**options)

    net = Raised(16, lift=0.25)
    net.register_to_config(trained_on=["happy"])  # as a training does
    with torch.no_grad():
        net.lifted.fill_(3.0)
    runs["landmark"] = write_run(tmp_path / "raised", LandmarkGenerator(net), fps="30")
    caplog.clear()
    loaded = TalkingHeadPipeline.from_pretrained(export_pipeline(tmp_path / "speaker", **runs)).landmark_net
    assert type(loaded) is Raised and loaded.lifted == 3 and not [r for r in caplog.records if "Raised" in r.message]
    assert [loaded.config[name] for name in ("breadth", "lift", "width", "trained_on")] == [16, 0.25, 16, ["happy"]]
    runs["landmark"] = write_run(tmp_path / "loose", LandmarkGenerator(Loose(width=8, heads=1, layers=1)), fps="30")
    with pytest.raises(ValueError, match="Loose takes arguments that it does not name"):
        export_pipeline(tmp_path / "other", **runs)


def test_what_is_no_pipeline_is_refused(folder, tmp_path):
    for name, kind, words in (
        (tmp_path / "absent", FileNotFoundError, "no folder"),
        ("nobody/nothing", FileNotFoundError, "hub"),
        (tmp_path, ValueError, "no pipeline.json"),
    ):
        with pytest.raises(kind, match=words) as caught:
            TalkingHeadPipeline.from_pretrained(name)
        assert "\n" not in str(caught.value)
    (tmp_path / "pipeline.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        TalkingHeadPipeline.from_pretrained(tmp_path)


# diffusers says which weights it did not find; here that is the point.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_that_lack_some_are_refused(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = next((broken / "renderer").glob("*.safetensors"))
    weights = load_file(file)
    weights.pop("unet.head.weight")
    save_file(weights, file)
    with pytest.raises(ValueError, match="renderer: its weights file lacks some"):
        TalkingHeadPipeline.from_pretrained(broken)


def test_a_classifier_of_other_emotions_is_refused(pipe, folder, tmp_path):
    few = ConformerClassifier("XS", emotions=["happy", "sad"])
    few.save_pretrained(tmp_path / "few")
    with pytest.raises(ValueError, match="emotion: expected a classifier of .*; got one of happy, sad; train it with"):
        export_pipeline(
            tmp_path / "speaker", landmark=folder / "landmark", emotion=tmp_path / "few", video=folder, detector="dlib"
        )
    assert not (tmp_path / "speaker").exists()
    with pytest.raises(ValueError, match="got one of happy, sad"):
        TalkingHeadPipeline(pipe.landmark_net, few, pipe.renderer, pipe.scheduler)
