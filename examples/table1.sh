#!/usr/bin/env bash
# Put several methods' videos into the paper's Table 1, beside the truth and a picture that does nothing.
#
#   bash examples/table1.sh TRUTH OUTPUT NAME=FOLDER [NAME=FOLDER ...]
#
#   TRUTH   folder with the true videos
#   OUTPUT  folder for videos.md, videos.json and videos.html
#   NAME=FOLDER  a method and the folder of its videos, in any size, rate and container. Each has the name and the place
#                in its folder that the true one has in TRUTH: happy/level_2/001.webm for happy/level_2/001.mp4
#
# The paper's rows, for whoever has their videos of MEAD's M030:
#
#   bash examples/table1.sh MEAD/M030/video/front table1 MakeItTalk=videos/makeittalk Wav2Lip=videos/wav2lip \
#       EVP=videos/evp ours=videos/talkhead
#
# SYNC=runs/sync/checkpoints/last.ckpt adds the judge of synchrony (talkhead fit --config sync).
set -euo pipefail

truth=${1:?give TRUTH, the folder with the true videos} output=${2:?give OUTPUT, a folder}
shift 2
: "${1:?give NAME=FOLDER, a method and the folder of its videos}"
names=() folders=()
for method in "$@"; do
    names+=("${method%%=*}")
    folders+=("${method#*=}")
done
talkhead evaluate --videos "${folders[@]}" --name "${names[@]}" --truth "$truth" --output "$output" \
    ${SYNC:+--sync "$SYNC"}
