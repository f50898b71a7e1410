#!/usr/bin/env bash
# Does the class path (Eq. 3) learn? The paper's three recipes, small, on files in MEAD's layout; then the class alone is exchanged.
#
#   bash examples/class_path.sh [WORK]      # runs/class_path; less than an hour on one core
#
# WORK/result/confusion.md gets the confusions. Stopped and started again with the same words, it goes on where it was.
# The faces are one portrait bent by a computer (examples/rendered_mead.py) and the encoder's weights are random: this
# shows what the path can learn, and measures nothing else. EPOCHS_LANDMARK, EPOCHS_EMOTION and EPOCHS_VIDEO shorten it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/../.venv/bin/python" ] && PATH="$here/../.venv/bin:$PATH"
work=${1:-runs/class_path}
mkdir -p "$work"

source "$here/once.sh"

# Clips begin with a neutral face, which is the portrait (--data.reference first): one that wears the emotion already
# would leave the class nothing to say. The second tree has other words.
face=(--onset 5 --people M003 --front)
once tree python "$here/rendered_mead.py" "$work/MEAD" --each 3 --frames 24 "${face[@]}"
once others python "$here/rendered_mead.py" "$work/OTHERS" --each 2 --first 101 --frames 24 "${face[@]}"
once encoder python "$here/random_encoder.py" "$work/encoder"
for name in MEAD OTHERS; do
    once "cache_$name" python -m talkhead preprocess --layout mead --input "$work/$name" --output "$work/cache_$name" \
        --size 32 --detector dlib
done

fit() {
    local name=$1 resume=()
    shift
    [ -e "$work/$name/checkpoints/last.ckpt" ] && resume=(--ckpt_path last)
    python -m talkhead fit --config "paper/$name" "$@" --data.root "$work/cache_MEAD" --data.test_fraction 0.02 \
        --data.val_fraction 0.02 --trainer.limit_val_batches 0 --trainer.num_sanity_val_steps 0 \
        --trainer.accelerator cpu --trainer.default_root_dir "$work/$name" "${resume[@]}"
}
net=--model.init_args.net.init_args
renderer=--model.init_args.renderer.init_args
once fit_landmark fit landmark --data.reference first --data.num_frames 16 --model.init_args.size 32 \
    --model.init_args.learning_rate 2e-3 "$net.encoder" "$work/encoder" "$net.width" 32 "$net.heads" 2 \
    "$net.dropout" 0 --trainer.max_epochs "${EPOCHS_LANDMARK:-60}"
once fit_emotion fit emotion --data.audio_seconds 0.8 "$net.size" XS --model.init_args.learning_rate 1e-3 \
    --trainer.max_epochs "${EPOCHS_EMOTION:-60}"
once fit_video fit video --data.reference first --data.num_frames 4 "$renderer.size" 32 "$renderer.widths" "[16,32,64]" \
    --model.init_args.learning_rate 1e-3 --trainer.max_epochs "${EPOCHS_VIDEO:-60}"

python "$here/synthetic_mead.py" confuse --cache "$work/cache_MEAD" --test "$work/cache_OTHERS" --output "$work/result" \
    --landmark "$work/landmark/checkpoints/last.ckpt" --emotion "$work/emotion/checkpoints/last.ckpt" \
    --video "$work/video/checkpoints/last.ckpt"
