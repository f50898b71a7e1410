"""A speaker's own video: what comes with a pipeline's folder, said by whom it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from talkhead.pipeline.talking_head import TalkingHeadPipeline
from talkhead.speaker.folder import own_references


def demo(
    output: str | Path = "outputs/demo.mp4",
    *,
    pipeline: str | Path = "bundled",
    device: str | torch.device = "auto",
    compile: bool = False,
    progress: bool = True,
    **options: Any,
) -> Path:
    """Let a pipeline's own speaker say what comes with it; needs no detector.

    Args:
        output: the video; its folder is made.
        pipeline: see `TalkingHeadPipeline.from_pretrained`.
        device: where the networks run; see `TalkingHeadPipeline.from_pretrained`, also for ``compile``.
        compile: see there.
        progress: show a bar on stderr.
        options: see `TalkingHeadPipeline.stream`.

    Returns:
        ``output``.

    Raises:
        FileNotFoundError: if there is no such pipeline.
        ValueError: if it has no portrait, landmarks or speech of its own.
        OSError: if ``output`` cannot be written.
    """
    speaker = TalkingHeadPipeline.from_pretrained(pipeline, device, compile=compile)
    assert speaker.folder is not None
    portrait, speech = speaker.folder / "portrait.png", speaker.folder / "speech.flac"
    if not (portrait.is_file() and speech.is_file() and "reference_landmarks" in speaker.info):
        raise ValueError(f"pipeline: '{pipeline}' has no portrait and speech of its own; export it with both")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    options.setdefault("reference_landmarks", torch.tensor(speaker.info["reference_landmarks"]))
    options.setdefault("references", own_references(speaker.folder))
    return speaker.generate_file(portrait, speech, output, progress=progress, **options)
