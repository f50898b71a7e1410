"""Write a small wav2vec 2.0 encoder of random weights, to try what needs one offline."""

import argparse
from pathlib import Path

import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path, help="where it is written")
folder = parser.parse_args().folder
torch.manual_seed(0)
config = Wav2Vec2Config(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16, 16),
    conv_kernel=(10, 8), conv_stride=(10, 8), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
)  # fmt: skip
Wav2Vec2Model(config).save_pretrained(folder)
