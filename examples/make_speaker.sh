#!/usr/bin/env bash
# Make a talking head of a person from a folder of their clips: preprocess, four fits, export.
#
#   bash examples/make_speaker.sh CLIPS SPEECH OUTPUT [WORK]
#
#   CLIPS   folder with videos of one person, frontal, with sound (minutes are enough)
#   SPEECH  folder with emotional speech in EMO-DB's naming, for the emotion classifier
#   OUTPUT  folder of the speaker to make
#   WORK    folder for caches and checkpoints (default: runs/speaker)
#
# Stopped at any point and started again, it goes on where it was. The bundled speaker was made so, from GRID's speaker s1
# and EMO-DB. More options go to `fit` through FIT, e.g. FIT="--trainer.max_epochs 2" for a trial run.
set -euo pipefail

clips=$1 speech=$2 output=$3 work=${4:-runs/speaker}
here=$(cd "$(dirname "$0")" && pwd)

talkhead preprocess --layout folder --input "$clips" --output "$work/cache" --identity speaker --emotion neutral \
    --detector "${DETECTOR:-auto}" --size 128 --workers "${WORKERS:-2}"
talkhead preprocess --layout emodb --input "$speech" --output "$work/cache_speech" --workers "${WORKERS:-2}"

# fit NAME CACHE: train one module, or go on with it, or leave it alone when it is done.
fit() {
    local folder="$work/$1"
    [ -e "$folder/done" ] && return
    local resume=()
    [ -e "$folder/checkpoints/last.ckpt" ] && resume=(--ckpt_path last)
    # shellcheck disable=SC2086  # FIT holds several words
    talkhead fit --config "$1" --data.root "$2" --trainer.default_root_dir "$folder" "${resume[@]}" ${FIT:-}
    touch "$folder/done"
}
fit landmark "$work/cache"
fit head "$work/cache"
fit emotion "$work/cache_speech"
fit video "$work/cache"

# The face for the demo is the first frame of the first clip; any other picture of the person does as well.
python "$here/first_frame.py" "$clips" "$work/portrait.png"
talkhead export --landmark "$work/landmark/checkpoints/last.ckpt" --head "$work/head/checkpoints/last.ckpt" \
    --emotion "$work/emotion/checkpoints/last.ckpt" \
    --video "$work/video/checkpoints/last.ckpt" --portrait "$work/portrait.png" --output "$output" \
    --detector "${DETECTOR:-auto}" --name "$(basename "$output")"
echo "try: talkhead generate --speaker $output --image $work/portrait.png --audio SPEECH.wav --output hello.mp4"
