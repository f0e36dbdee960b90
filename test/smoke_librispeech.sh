#!/usr/bin/env bash
# Every stage of egs/librispeech/llmasr1 with both encoders, on corpora of a few utterances in their public layouts
# (corpora/librispeech.py) and small random checkpoints in the formats of the real ones (standins.py); nothing is asked of the network.

set -euo pipefail

export HF_HUB_OFFLINE=1
. "$(dirname "${BASH_SOURCE[0]}")/smoke_room.sh" librispeech/llmasr1

note "corpora and checkpoints"
PYTHONPATH="${root}/test:${PYTHONPATH:-}" python3 -m corpora.librispeech corpora >variables
# shellcheck source=/dev/null
. ./variables
python3 "${root}/test/standins.py" models >models.log
export WAVLM=${work}/models/wavlm WHISPER=${work}/models/whisper LLM=${work}/models/qwen2
sets="test_clean test_other test_commonvoice test_tedlium3 test_voxpopuli test_gigaspeech test_ami test_earnings22 test_spgispeech"

# A run with encoder $1, systems $2 and options, its output in $1.log
check() {
    note "$1"
    if ! ENCODER=$1 ./run.sh --smoke true --systems "$2" --score_opts "--replicates 200" "${@:3}" >"$1.log" 2>&1; then
        tail -n 40 "$1.log" >&2
        fail "a run that should pass failed: $1"
    fi
    check_results "exp/$1_smoke" "$2" "${sets}"
    for file in RESULTS.md report/report.html analysis/ANALYSIS.md; do
        [ -s "exp/$1_smoke/${file}" ] || fail "exp/$1_smoke/${file} is missing or empty"
    done
    grep -q "arXiv 2506.05706" "exp/$1_smoke/RESULTS.md" || fail "$1: the published figures are not in RESULTS.md"
}
# The layer is a choice of the recipe; Whisper has the last one.
sed -i 's/{layer: last}/{layer: weighted}/' conf/systems.yaml
check wavlm "lora lora_long soft_k10" --stop_stage 16 --pack_system soft_k10
grep -q "layer: weighted" exp/wavlm_smoke/lora/config.yaml || fail "WavLM's layers were not weighted"
[ -s exp/wavlm_smoke/packed/soft_k10/encoder/config.json ] || fail "the packed system has no encoder"
check whisper "slam soft_k10"
note "passed"
