#!/usr/bin/env bash
# Stage 1: fetch AN4 if need be and write data/. Options go to local/data.py (see --help there),
# for example: local/data.sh --smoke true
set -euo pipefail

# shellcheck disable=SC1091
. ./path.sh
# shellcheck disable=SC1091
. ./db.sh

an4_url=https://github.com/cmusphinx/an4

if [ ! -f "${AN4}/etc/an4_train.fileids" ]; then
    if [ "${AN4}" != downloads/an4 ]; then
        echo "error: AN4=${AN4} holds no etc/an4_train.fileids; set AN4 to a copy of ${an4_url}" >&2
        exit 1
    fi
    mkdir -p downloads
    rm -rf downloads/an4.tmp
    if ! GIT_TERMINAL_PROMPT=0 git clone --depth 1 "${an4_url}" downloads/an4.tmp; then
        rm -rf downloads/an4.tmp
        echo "error: cannot fetch ${an4_url}; get a copy by other means and set AN4=path" >&2
        exit 1
    fi
    mv downloads/an4.tmp downloads/an4
fi

exec python3 local/data.py --an4 "${AN4}" --fsdd "${FSDD}" --so762 "${SO762}" "$@"
