"""Turn a Whisper model of faster-whisper (CTranslate2) into a folder that ``encoder=`` takes.

    python examples/convert_whisper.py --model FOLDER --output whisper-base

FOLDER holds config.json and model.bin, whole or cut into model.bin.part1, model.bin.part2, ... Written are config.json
and model.safetensors as ``transformers`` reads them. Nothing is downloaded, and nothing in the file is executed.
"""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""CTranslate2's numbers for element types; bfloat16 (5), which NumPy lacks, is not read."""


class Reader:
    """Reads little-endian numbers and strings one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def number(self, kind: str) -> int:
        """Read one integer; ``kind`` is a letter of ``struct``."""
        (value,) = struct.unpack_from("<" + kind, self.data, self.at)
        self.at += struct.calcsize("<" + kind)
        return int(value)

    def take(self, count: int) -> memoryview:
        """Read so many bytes."""
        if self.at + count > len(self.data):
            raise SystemExit("--model: model.bin ends too early; were all of its parts given?")
        self.at += count
        return self.data[self.at - count : self.at]

    def string(self) -> str:
        """Read a string: its length with the closing zero, then its characters."""
        return bytes(self.take(self.number("H")))[:-1].decode()


def read_variables(data: bytes) -> dict[str, Tensor]:
    """Read the variables of a CTranslate2 model (binary version 6) as float32, by their names."""
    reader = Reader(data)
    version, name = reader.number("I"), reader.string()
    if version != 6 or name != "WhisperSpec":
        raise SystemExit(f"--model: expected a WhisperSpec of binary version 6; got {name!r} of version {version}")
    reader.number("I")
    variables = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        kind = reader.number("B")
        raw = reader.take(reader.number("I"))
        if kind not in DTYPES:
            raise SystemExit(f"--model: {name} has an element type that is not read ({kind}); convert it to float16")
        variables[name] = torch.from_numpy(np.frombuffer(raw, DTYPES[kind]).reshape(shape).astype(np.float32))
    if quantised := [name for name in variables if name.endswith("weight_scale")]:
        raise SystemExit(f"--model: {len(quantised)} matrices are quantised; convert the model to float16 first")
    return variables


def attention(variables: dict[str, Tensor], at: str, to: str, crossed: bool) -> dict[str, Tensor]:
    """Take the projections of one attention apart: CTranslate2 stacks queries, keys and values in one matrix."""
    stacks = [f"{at}/linear_0", f"{at}/linear_1"] if crossed else [f"{at}/linear_0"]
    weight = torch.cat([variables[f"{name}/weight"] for name in stacks]).chunk(3)
    bias = torch.cat([variables[f"{name}/bias"] for name in stacks]).chunk(3)
    last = f"{at}/linear_{len(stacks)}"
    parts = {f"{to}.{name}_proj.weight": w for name, w in zip("qkv", weight, strict=True)}
    # Whisper's keys have no bias: the stack holds zeros there.
    parts |= {f"{to}.q_proj.bias": bias[0], f"{to}.v_proj.bias": bias[2]}
    return parts | {f"{to}.out_proj.{part}": variables[f"{last}/{part}"] for part in ("weight", "bias")}


def norm(variables: dict[str, Tensor], at: str, to: str) -> dict[str, Tensor]:
    """Rename the gain and the offset of a layer norm."""
    return {f"{to}.weight": variables[f"{at}/gamma"], f"{to}.bias": variables[f"{at}/beta"]}


def to_transformers(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the variables the names that ``transformers.WhisperModel`` knows them by."""
    state = {}
    for side in ("encoder", "decoder"):
        state[f"{side}.embed_positions.weight"] = variables[f"{side}/position_encodings/encodings"]
        state |= norm(variables, f"{side}/layer_norm", f"{side}.layer_norm")
        layers = sum(name.startswith(f"{side}/layer_") and name.endswith("ffn/linear_0/weight") for name in variables)
        for index in range(layers):
            at, to = f"{side}/layer_{index}", f"{side}.layers.{index}"
            kinds = {"self_attention": "self_attn"} | ({"attention": "encoder_attn"} if side == "decoder" else {})
            for kind, name in kinds.items():
                state |= attention(variables, f"{at}/{kind}", f"{to}.{name}", crossed=kind == "attention")
                state |= norm(variables, f"{at}/{kind}/layer_norm", f"{to}.{name}_layer_norm")
            state |= norm(variables, f"{at}/ffn/layer_norm", f"{to}.final_layer_norm")
            for number in (0, 1):
                for part in ("weight", "bias"):
                    state[f"{to}.fc{number + 1}.{part}"] = variables[f"{at}/ffn/linear_{number}/{part}"]
    for number in (1, 2):
        for part in ("weight", "bias"):
            state[f"encoder.conv{number}.{part}"] = variables[f"encoder/conv{number}/{part}"]
    state["decoder.embed_tokens.weight"] = variables["decoder/embeddings/weight"]
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="folder, or folders of the parts")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    files = [path for folder in args.model for path in folder.glob("model.bin*")]
    if not files:
        parser.error(f"--model: no model.bin in {', '.join(map(str, args.model))}")
    if args.output.exists():
        parser.error(f"--output: {args.output} is there already; remove it or choose another folder")
    data = b"".join(path.read_bytes() for path in sorted(files, key=lambda path: path.name))
    state = to_transformers(read_variables(data))

    from transformers import WhisperConfig, WhisperModel

    width = state["encoder.layer_norm.weight"].shape[0]
    sides = {}
    for side in ("encoder", "decoder"):
        # Distilled models have fewer layers in the decoder.
        layers = sum(name.startswith(f"{side}.layers.") and name.endswith("fc1.weight") for name in state)
        sides |= {f"{side}_layers": layers, f"{side}_attention_heads": width // 64, f"{side}_ffn_dim": 4 * width}
    config = WhisperConfig(
        d_model=width,
        num_mel_bins=state["encoder.conv1.weight"].shape[1],
        vocab_size=state["decoder.embed_tokens.weight"].shape[0],
        **sides,
    )
    model = WhisperModel(config)
    model.load_state_dict(state)
    temporary = args.output.with_name(args.output.name + ".partial")
    model.half().save_pretrained(temporary)
    os.replace(temporary, args.output)
    weights = sum(p.numel() for p in model.parameters())
    print(f"{args.output}: Whisper, {sides['encoder_layers']} layers, {width} wide, {weights:,} weights")


if __name__ == "__main__":
    main()
