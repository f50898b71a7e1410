#!/usr/bin/env bash
# Does the judge of any method's videos rank known faults as it must? Makes them with ffmpeg, and judges them.
#
#   bash examples/known_faults.sh CLIPS OUTPUT
#   FFMPEG=/opt/ffmpeg SYNC=runs/sync/checkpoints/last.ckpt bash examples/known_faults.sh GRID_OTHER faults
#
#   CLIPS   folder of videos of faces with sound, 25 frames/s (GRID's)
#   OUTPUT  folder: one folder of videos for each fault, and judged/videos.html, .md and .json
#
# Folders: the truth itself, written anew (H.264); 5 frames late; blurred; its first frame held; the next clip's video
# under this clip's name; and two encoders and rates that are not ours: VP9, 23.976 frames/s, enlarged; WMV, 29.97
# frames/s. COUNT=4 takes so many clips, spread over the folder.
set -euo pipefail

clips=${1:?give CLIPS, a folder of videos} output=${2:?give OUTPUT, a folder} count=${COUNT:-4}
[ -z "${SYNC:-}" ] || SYNC=$(realpath "$SYNC") # below, the judge runs in OUTPUT
talkhead=(${TALKHEAD:-talkhead})
mapfile -t all < <(find "$clips" -maxdepth 1 -name '*.mp*' | sort)
for ((i = 0; i < count; i++)); do files[i]=${all[i * ${#all[@]} / count]}; done

make() { # FOLDER ENDING FILTER FILE NAME [OPTION ...]
    mkdir -p "$output/$1"
    local to=$output/$1/$5.$2
    [ -e "$to" ] || "${FFMPEG:-ffmpeg}" -v error -nostdin -threads 1 -i "$4" -vf "$3" "${@:6}" "$to"
}

x264=(-c:v libx264 -crf 18 -threads 1 -c:a aac)
for ((i = 0; i < count; i++)); do
    file=${files[i]}
    name=$(basename "${file%.*}")
    mkdir -p "$output/truth"
    cp "$file" "$output/truth/"
    make same mp4 null "$file" "$name" "${x264[@]}"
    make shifted mp4 "tpad=start=5:start_mode=clone,trim=end_frame=75" "$file" "$name" "${x264[@]}"
    make blurred mp4 boxblur=4:1 "$file" "$name" "${x264[@]}"
    make still mp4 "loop=loop=-1:size=1:start=0,trim=end_frame=75" "$file" "$name" "${x264[@]}"
    make other_sentence mp4 null "${files[(i + 1) % count]}" "$name" "${x264[@]}"
    make vp9_23.976 webm "fps=24000/1001,scale=iw*3/2:ih*3/2" "$file" "$name" -c:v libvpx-vp9 -b:v 2M -cpu-used 5 -an
    make wmv_29.97 avi fps=30000/1001 "$file" "$name" -c:v wmv2 -b:v 2M -an
done

cd "$output"
"${talkhead[@]}" evaluate --videos same shifted blurred still other_sentence vp9_23.976 wmv_29.97 --truth truth \
    --output judged ${SYNC:+--sync "$SYNC"}
