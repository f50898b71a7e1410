"""What the live page makes of a microphone's sound, in a JavaScript engine: 16 kHz, whatever the microphone's rate."""

import json
import re
import shutil
import subprocess
from importlib.resources import files

import pytest
import torch
from torch import Tensor

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node here: apt-get install nodejs")

HEARING = """
const given = JSON.parse(require("fs").readFileSync(0)), RATE = 16000, sent = [];
globalThis.AudioWorkletProcessor = class { port = { postMessage: piece => sent.push(...piece) }; };
globalThis.registerProcessor = (name, kind) => { globalThis.Pieces = kind; };
globalThis.sampleRate = given.rate;
%s
(0, eval)(WORKLET);
const pieces = new Pieces();
for (let at = 0; at < given.sound.length; at += given.block)
  pieces.process([[Float32Array.from(given.sound.slice(at, at + given.block))]]);
console.log(JSON.stringify(sent));
"""


def heard(sound: Tensor, rate: int, block: int = 128) -> Tensor:
    """Return what the page sends of (S,) sound that its worklet hears in blocks, in [-1, 1]."""
    page = (files("talkhead.app") / "live.html").read_text(encoding="utf-8")
    worklet = re.search(r"^const WORKLET = `.*?`;$", page, re.DOTALL | re.MULTILINE)
    assert worklet is not None and NODE is not None
    given = json.dumps({"rate": rate, "sound": sound.tolist(), "block": block})
    done = subprocess.run([NODE, "-e", HEARING % worklet[0]], input=given, capture_output=True, text=True, check=True)
    return torch.tensor(json.loads(done.stdout)) / 32767


def wave(hertz: float, rate: int, seconds: float = 0.5) -> Tensor:
    """Return half of full scale."""
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate), dtype=torch.float64) / rate)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("hertz", [100.0, 1000.0, 3500.0])
def test_a_microphone_of_any_rate_is_heard_at_16_kilohertz(rate: int, hertz: float) -> None:
    sent = heard(wave(hertz, rate), rate)
    assert 7400 < len(sent) <= 8000 and len(sent) % 320 == 0
    true = wave(hertz, 16000)[: len(sent)]
    assert (sent - true)[100:].abs().max() < 0.002  # no step where blocks meet, no drift; 16 bits are 0.00003


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
def test_what_16_kilohertz_cannot_hold_is_left_out(rate: int) -> None:
    for hertz in (8200.0, 10000.0, 15000.0, 20000.0):  # else heard at 7800, 6000, 1000 and 4000 Hz
        assert heard(wave(hertz, rate), rate)[100:].abs().max() < 0.5 * 0.01  # -40 dB


def test_the_blocks_do_not_matter() -> None:
    noise = torch.rand(9000, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.equal(heard(noise, 44100), heard(noise, 44100, block=333))
