#!/usr/bin/env bash
# Make a talking head of a person from a folder of their clips: one line of `talkhead adapt`.
#
#   bash examples/make_speaker.sh CLIPS OUTPUT [more options of `talkhead adapt`, such as --minutes 30]
#
# Stopped at any point and started again, it goes on where it was; OUTPUT/report.html says how good the speaker is.
set -euo pipefail
clips=$1 output=$2
shift 2
talkhead adapt "$clips" --output "$output" "$@"
echo "or: talkhead generate --speaker $output --image $output/portrait.png --reference speaker --audio SPEECH.wav --output hello.mp4"
