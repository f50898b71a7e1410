#!/usr/bin/env bash
# Put several methods' videos into the paper's Table 1, beside the truth and a picture that does nothing.
#
#   bash examples/table1.sh TRUTH OUTPUT NAME=FOLDER [NAME=FOLDER ...]
#
#   TRUTH   folder with the true videos
#   OUTPUT  folder for videos.md, videos.json and videos.html
#   NAME=FOLDER  a method and the folder of its videos, named like the true ones, in any size, rate and container
#
# The paper's rows, for whoever has their videos of MEAD's M030:
#
#   bash examples/table1.sh mead/M030/video table1 MEAD=videos/mead MakeItTalk=videos/makeittalk \
#       Wav2Lip=videos/wav2lip EVP=videos/evp ours=videos/talkhead
#
# SYNC=runs/sync/checkpoints/last.ckpt adds the judge of synchrony (talkhead fit --config sync).
set -euo pipefail

truth=$1 output=$2
shift 2
names=() folders=()
for method in "$@"; do
    names+=("${method%%=*}")
    folders+=("${method#*=}")
done
talkhead evaluate --videos "${folders[@]}" --name "${names[@]}" --truth "$truth" --output "$output" \
    ${SYNC:+--sync "$SYNC"}
