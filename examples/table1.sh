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
#   bash examples/table1.sh mead_flat table1 MakeItTalk=videos/makeittalk Wav2Lip=videos/wav2lip EVP=videos/evp ours=videos/talkhead
#
# Folders are read flat, and MEAD numbers its sentences anew in each folder, so give the videos names of their own first:
#
#   cd MEAD/M030/video && for file in front/*/*/*.mp4; do mkdir -p ~/mead_flat && ln -s "$PWD/$file" ~/mead_flat/"${file//\//_}"; done
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
