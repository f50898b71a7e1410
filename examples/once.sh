# Read by `source`: what the long scripts here share.

# once NAME COMMAND...: run a command unless it has been done in $work.
once() {
    local mark="$work/.done_$1"
    shift
    [ -e "$mark" ] && return
    "$@"
    touch "$mark"
}
