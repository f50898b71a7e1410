"""The emotion that is heard in a recording, all along it, and how much of it a face is to show."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.devices import side_by_side, usable_threads
from talkhead.nets.conformer import ConformerClassifier
from talkhead.pipeline.feeling import NEUTRAL, EmotionKeys
from talkhead.speech.recording import Recording

STRETCH_SECONDS, HOP_SECONDS = 4.0, 2.0
"""The classifier hears stretches of this length, one after every hop: neighbours share half of what they hear."""

CALM = 0.995
"""How probable a neutral voice is before anything is heard: most people who record something just talk, and the bundled
classifier is sure of sadness in many a calm voice (docs/measurements/expression.md)."""


def heard_keys(net: ConformerClassifier | None, speech: Tensor | Recording | None) -> EmotionKeys:
    """Hear the emotion of a recording, stretch after stretch.

    Args:
        net: the classifier.
        speech: (S,) at 16 kHz.

    Returns:
        Keys whose ``asked`` are the classifier's calibrated probabilities, smoothed over neighbouring stretches, and
        whose ``meant`` is what `believed` makes of them.

    Raises:
        ValueError: if there is no classifier, or no recording.
    """
    if net is None or speech is None:
        missing = "audio to hear it in" if speech is None else "emotion classifier in this speaker"
        raise ValueError(f"emotion must be given, one of {', '.join(EMOTIONS)} or probabilities: there is no {missing}")
    heard = smoothed(torch.stack(list(_classified(net, stretches(speech)))))
    # A key's expression is reached one hop after it: half a hop before the stretch's middle, half a hop after.
    times = torch.arange(len(heard), dtype=torch.float64) * HOP_SECONDS + (STRETCH_SECONDS - HOP_SECONDS) / 2
    times[0] = 0.0
    return EmotionKeys(times, heard, believed(heard, net), HOP_SECONDS)


def _classified(net: ConformerClassifier, parts: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield what `classify` says of each part; a CPU's threads take one each."""
    while group := list(islice(parts, usable_threads() if net.device.type == "cpu" else 1)):
        yield from side_by_side(partial(classify, net), group)


def classify(net: ConformerClassifier, speech: Tensor) -> Tensor:
    """Return the (8,) probabilities of the emotion in (S,) samples."""
    return net.probabilities(speech[None].to(net.device))[0].float().cpu()


def stretches(speech: Tensor | Recording) -> Iterator[Tensor]:
    """Yield the overlapping stretches of a recording; the last is as long as the others, a short recording is one."""
    length, hop = (round(seconds * SAMPLE_RATE) for seconds in (STRETCH_SECONDS, HOP_SECONDS))
    starts = range(0, max(len(speech) - length, 0) + hop, hop)
    firsts = (max(min(start, len(speech) - length), 0) for start in starts if start < len(speech))
    return (speech[first : first + length] for first in firsts)


def smoothed(heard: Tensor) -> Tensor:
    """Average (N, 8) probabilities with their neighbours, 1:2:1; a lone one stays."""
    padded = F.pad(heard.mT[:, None], (1, 1), mode="replicate")
    return F.conv1d(padded, torch.tensor([[[0.25, 0.5, 0.25]]]))[:, 0].mT


def believed(heard: Tensor, net: ConformerClassifier) -> Tensor:
    """Return the (..., 8) mixtures that a face is to show of what is heard.

    The classifier has learnt from as many angry voices as neutral ones; people who make videos mostly just talk. By
    Bayes' rule the probabilities are brought to that prior (Saerens, Latinne & Decaestecker 2002), under which an
    emotion must be heard clearly before it is believed,

        p'(e) ~ p(e) prior(e) / (1 / number of classes).
    """
    known = torch.tensor([name in net.trained_on for name in EMOTIONS])
    prior = torch.where(NEUTRAL.bool(), CALM, (1 - CALM) / max(int(known.sum()) - 1, 1))
    weighed = heard * prior
    return weighed / weighed.sum(-1, keepdim=True).clamp_min(1e-12)
