#!/usr/bin/env bash
# The paper, from MEAD's files to its two tables: preprocess, three fits with its settings, export, Tables 1 and 2, a report.
#
#   bash examples/reproduce_paper.sh ROOT [WORK]        # ROOT holds MEAD's people: ROOT/M030/video, ROOT/M030/audio, ...
#   bash examples/reproduce_paper.sh --quick [WORK]     # small networks on rendered faces: ten minutes
#
# WORK (runs/paper, or runs/paper_quick) gets the caches, checkpoints, tables, and in the end report.md and report.html.
# Before anything long starts, hours and disk are estimated from a short calibration on this machine.
# Stopped at any point and started again with the same words, it goes on where it was.
#
# By the environment:
#   IDENTITY=M030  the person, as in the paper; IDENTITY=all: everybody in ROOT
#   WORKERS=2      processes that preprocess        DETECTOR=auto  finds the faces: auto, dlib, face-alignment
#   ENCODER=...    wav2vec 2.0: a hub name or a folder (facebook/wav2vec2-base-960h)
#   GPU=1          adds `--config gpu` to the fits; FIT="..." adds any other argument to all three
#   ESTIMATE=1     estimates, and stops
# --quick is there to show that all of this runs, and measures nothing: the faces are bent pictures, the encoder's weights random.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/../.venv/bin/python" ] && PATH="$here/../.venv/bin:$PATH"
talkhead() { python -m talkhead "$@"; }

quick=
[ "${1:-}" = --quick ] && { quick=1; shift; }
if [ -n "$quick" ]; then
    work=${1:-runs/paper_quick} root=$work/MEAD
else
    root=${1:?give the folder that holds the people of MEAD, or --quick} work=${2:-runs/paper}
fi
mkdir -p "$work/settings"

source "$here/once.sh"

identity=${IDENTITY:-M030} size=128 encoder=${ENCODER:-facebook/wav2vec2-base-960h}
landmark=(--config paper/landmark) emotion=(--config paper/emotion) video=(--config paper/video)
painting=(--steps 300) table1=() table2=()
if [ -n "$quick" ]; then
    identity=all size=64 encoder=$work/encoder
    once tree python "$here/rendered_mead.py" "$root" ${EACH:+--each "$EACH"} ${FRAMES:+--frames "$FRAMES"}
    once encoder python "$here/random_encoder.py" "$work/encoder"
    landmark+=(--model.init_args.size=64 --data.num_frames=12 --trainer.max_epochs="${EPOCHS:-12}")
    emotion+=(--model.init_args.net.init_args.size=XS --data.audio_seconds=1 --trainer.max_epochs="${EPOCHS:-12}")
    video+=(--model.init_args.renderer.init_args.size=64 "--model.init_args.renderer.init_args.widths=[16,32,64]"
        --model.init_args.num_inference_steps=4 --data.num_frames=8 --trainer.max_epochs="${EPOCHS:-12}"
        --trainer.check_val_every_n_epoch=6)
    painting=(--steps 8) table1=(--limit 4) table2=(--start-timesteps 2 8 32 --steps 2 8 32 --limit 2 --num-frames 9)
fi
landmark+=(--model.init_args.net.init_args.encoder="$encoder")
[ -n "${GPU:-}" ] && { landmark+=(--config gpu); emotion+=(--config gpu); video+=(--config gpu); }
who=()
[ "$identity" = all ] || who=(--identity "$identity")

# settings NAME ARGUMENTS...: what a fit is told, in full, where the estimate, the fit and the report read it.
settings() {
    local name=$1
    shift
    # shellcheck disable=SC2086  # FIT holds several words
    talkhead fit "$@" --data.root "$work/cache" --trainer.default_root_dir "$work/$name" ${FIT:-} --print_config \
        >"$work/settings/$name.yaml.part"
    mv "$work/settings/$name.yaml.part" "$work/settings/$name.yaml"
}
once settings_landmark settings landmark "${landmark[@]}"
once settings_emotion settings emotion "${emotion[@]}"
once settings_video settings video "${video[@]}"

estimate() {
    python "$here/estimate_reproduction.py" "$root" "$work" "${who[@]}" --size "$size" --workers "${WORKERS:-2}" \
        --detector "${DETECTOR:-auto}" "${painting[@]}" ${quick:+--sweep 2 8 32}
}
once estimate estimate
[ -n "${ESTIMATE:-}" ] && exit

once preprocess talkhead preprocess --layout mead --input "$root" --output "$work/cache" "${who[@]}" --size "$size" \
    --workers "${WORKERS:-2}" --detector "${DETECTOR:-auto}"
once cache talkhead cache info "$work/cache" --html "$work/cache.html"

fit() {
    local resume=()
    [ -e "$work/$1/checkpoints/last.ckpt" ] && resume=(--ckpt_path last)
    talkhead fit --config "$work/settings/$1.yaml" "${resume[@]}"
}
for module in landmark emotion video; do
    once "fit_$module" fit "$module"
done

export_speaker() {
    rm -rf "$work/speaker"
    talkhead export --landmark "$work/landmark/checkpoints/last.ckpt" --emotion "$work/emotion/checkpoints/last.ckpt" \
        --video "$work/video/checkpoints/last.ckpt" --output "$work/speaker" "${painting[@]}" --name paper
}
once export export_speaker
finder=${DETECTOR:-auto}
once table1 talkhead evaluate --model "$work/speaker" --root "$work/cache" --output "$work/table1" \
    --detector "$finder" "${painting[@]}" "${table1[@]}"
once table2 talkhead ablate --model "$work/speaker" --root "$work/cache" --output "$work/table2" \
    --detector "$finder" "${table2[@]}"
python "$here/reproduction_report.py" "$work" ${quick:+--rendered}
