# Sourced by smoke runs: a temporary directory, which becomes the current one (`work`), `fail` and `note`. With the name of
# a recipe (`smoke_room.sh RECIPE`; "" for none), a copy of it there and its environment. KEEP=1 leaves the directory.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
finish() {
    local status=$?
    if [ -n "${KEEP:-}" ]; then echo "smoke: kept ${work}"; else rm -rf "${work}"; fi
    [ "${status}" -eq 0 ] || echo "smoke: FAILED" >&2
}
trap finish EXIT
cd "${work}" || exit 1
if [ -n "$1" ]; then
    export MAIN_ROOT=${root}
    # What belongs to the recipe, not what its runs made.
    cp -rL "${root}/egs/$1"/*.sh "${root}/egs/$1/conf" "${root}/egs/$1/local" "${root}/egs/$1/utils" .
    # shellcheck source=/dev/null
    . ./path.sh
fi

fail() {
    echo "smoke: error: $*" >&2
    exit 1
}
note() { echo "smoke: $* (${SECONDS} s)"; }
# Fails unless the experiment directory $1 has a word error rate of each of the systems $2 on each of the sets $3.
check_results() {
    python3 - "$@" <<'END'
import json
import math
import sys

systems, sets = (argument.split() for argument in sys.argv[2:])
rows = {(r["system"], r["set"], r["metric"]): r for r in json.load(open(f"{sys.argv[1]}/results.json"))}
for system in systems:
    for name in sets:
        row = rows.get((system, name, "wer"))
        if row is None or not math.isfinite(row["value"]) or row["utterances"] < 1:
            sys.exit(f"smoke: error: results.json has no word error rate of {system} on {name}: {row}")
END
}
