# Sourced after smoke_room.sh "": smoke runs of mini_tts in rooms of their own, with processes and files that can be told apart.
# shellcheck shell=bash disable=SC2154

export MAIN_ROOT=${root}
mkdir "${work}/tmp"

# A copy of the recipe without what its runs made, which becomes the current directory: room NAME
room() {
    local recipe=${root}/egs/mini_tts/llmasr1
    mkdir "${work}/$1"
    cp -rL "${recipe}"/*.sh "${recipe}/conf" "${recipe}/local" "${recipe}/utils" "${work}/$1"
    cd "${work}/$1" || exit 1
    touch log
}
# Takes the place of the shell only in the background, so that `$!` is its number.
run() { LLMVQ_TEST=${work} TMPDIR=${work}/tmp exec_or_call ./run.sh --smoke "$@"; }
exec_or_call() { if [ "${BASHPID}" -eq $$ ]; then "$@"; else exec "$@"; fi; }
# Processes of runs.
left_running() {
    local path
    for path in $(grep -lzs "^LLMVQ_TEST=${work}\$" /proc/[0-9]*/environ || true); do
        path=${path%/environ}
        echo "${path#/proc/}: $(tr '\0' ' ' 2>/dev/null <"${path}/cmdline" | cut -c 1-120)"
    done
}
# Names of all that runs left, here and in the directory for temporary files.
files() {
    {
        find . -path './*_smoke*' ! -type d
        find "${work}/tmp" -mindepth 1 ! -path '*/torchinductor_*' # torch's cache
    } | sed -E 's/events\.out\.tfevents\..*/events/' | sort -u
}
# "SECOND NUMBER" of each stage that began in a log.
stage_starts() {
    { grep -aoE '^\S+ \(llmasr.sh\) Stage [0-9]+:' "$1" || true; } | while read -r when _ _ number; do
        echo "$(date -d "${when}" +%s) ${number%:}"
    done
}
