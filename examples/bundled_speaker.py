"""Put the first bundled speaker together from its runs of `talkhead fit`, with a portrait that the renderer paints.

What was added since, the card names: the head, the bank of mouths, the renderer for large faces, and other weights.

    python examples/bundled_speaker.py WORK SPEECH.wav OUTPUT [RESULTS.md]

WORK     holds a cache and the runs: cache/, landmark/, emotion/ and video/
SPEECH   the demo's recording; the bundled one is espeak-ng's voice en-gb+m3 (`espeak-ng -v en-gb+m3 -s 140 -p 38`)
OUTPUT   the folder to make; the bundled one is talkhead/assets/speaker
RESULTS  a table for the card, as `talkhead evaluate` writes it
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from einops import rearrange
from torch import Tensor

from talkhead.data.clip import emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.face.points import LOWER_LIDS, UPPER_LIDS
from talkhead.media.read import write_image
from talkhead.metrics import mouth_opening
from talkhead.pipeline.windows import render_windows
from talkhead.speaker.folder import export_pipeline
from talkhead.speaker.trained import load_video

DATA = """\
Renderer and landmark generator: 204 of the 240 clips of speaker s1 of the GRID audiovisual sentence corpus (CC BY
4.0; Cooke, Barker, Cunningham, Shao 2006, doi 10.5281/zenodo.3625687): one man, frontal, English command sentences,
25 frames per second; all clips count as `neutral`. Split by clip, seed 0: 12 further clips chose settings, 24 are the
test clips. Emotion classifier: EMO-DB (CC0; Burkhardt, Paeschke, Rolfes, Sendlmeier, Weiss 2005): 339 German
utterances, acted, angry, happy, neutral and sad. It has never heard contempt, disgust, fear or surprise and gives
them probability 0.

The landmarks that all of this was trained on are dlib's (the 68-point model of face-recognition-models, made for
research use). How: `talkhead preprocess`, `talkhead fit --config landmark | emotion | video`, all on two CPU cores,
then `examples/bundled_speaker.py`. Of the renderer's 5400 steps the first 2300 were a run of their own, annealed to a
learning rate of 0, with `own_share` 0, `last_step_share` 0.6 and `mouth_weight` 3; the others followed from its
optimiser's state with the shipped settings.

`portrait.png` is no photograph but a frame that the renderer painted. `speech.flac` is synthetic speech: espeak-ng
1.51, `espeak-ng -v en-gb+m3 -s 140 -p 38`."""
LICENCE = "CC-BY-4.0"
CROP_SCALE = 1.57  # the training crops, 1.5 of a whole clip's landmarks, are so large in the median of single frames


def paint_portrait(video: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """Paint a frame with a closed mouth and open eyes: (3, S, S) uint8 and its (68, 2) px landmarks."""
    renderer, scheduler = load_video(video).parts.values()
    data = MEADDataModule(str(cache), batch_size=1, num_frames=None)
    data.setup("test")
    clip = data.test_dataloader().dataset[0]
    lids = (clip.landmarks[:, LOWER_LIDS, 1] - clip.landmarks[:, UPPER_LIDS, 1]).mean(1)
    order = (mouth_opening(clip.landmarks) - lids).argsort()
    wanted, reference = order[0], order[len(order) // 4]
    landmarks = clip.landmarks[wanted]
    frames = render_windows(
        renderer.eval(),
        scheduler,
        clip.frames[reference],
        clip.landmarks[reference],
        iter([landmarks[None]]),
        emotion_probabilities("neutral"),
        window=16,
        overlap=4,
        num_inference_steps=1,
    )
    return rearrange(next(iter(frames)), "1 c h w -> c h w"), landmarks


def main(work: Path, speech: Path, output: Path, results: Path | None) -> None:
    video = work / "video/checkpoints/last.ckpt"
    portrait, landmarks = paint_portrait(video, work / "cache")
    with TemporaryDirectory() as folder:
        write_image(Path(folder) / "portrait.png", portrait)
        export_pipeline(
            output,
            landmark=work / "landmark/checkpoints/last.ckpt",
            emotion=work / "emotion/checkpoints/last.ckpt",
            video=video,
            portrait=Path(folder) / "portrait.png",
            reference_landmarks=torch.as_tensor(landmarks),
            speech=speech,
            crop_scale=CROP_SCALE,
            num_inference_steps=1,  # measured best: docs/renderer.md
            name="The bundled speaker",
            data=DATA,
            licence=LICENCE,
            results=results.read_text(encoding="utf-8") if results else "",
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("WORK", "SPEECH", "OUTPUT"):
        parser.add_argument(name, type=Path)
    parser.add_argument("RESULTS", type=Path, nargs="?")
    main(*vars(parser.parse_args()).values())
