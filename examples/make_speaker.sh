#!/usr/bin/env bash
# Make a talking head of a person from a folder of their clips: one line of `talkhead adapt`.
#
#   bash examples/make_speaker.sh CLIPS OUTPUT [more options of `talkhead adapt`, such as --minutes 30]
#
# Stopped at any point and started again, it goes on where it was; OUTPUT/report.html says how good the speaker is.
set -euo pipefail
clips=${1:?give CLIPS, a folder of videos of one person} output=${2:?give OUTPUT, the folder to make}
shift 2
talkhead adapt "$clips" --output "$output" "$@"
echo "or: talkhead generate --speaker $output --image $output/portrait.png --reference speaker --audio SPEECH.wav --output hello.mp4"
