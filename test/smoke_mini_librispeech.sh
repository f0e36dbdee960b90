#!/usr/bin/env bash
# egs/mini_librispeech/llmasr1 on corpora of a few utterances in their public layouts (corpora/mini_librispeech.py) and small
# random checkpoints in the formats of the real ones (standins.py); nothing is asked of the network.

set -euo pipefail

export HF_HUB_OFFLINE=1
. "$(dirname "${BASH_SOURCE[0]}")/smoke_room.sh" mini_librispeech/llmasr1
systems="recogniser ctc ctc_lm lora_long soft_k10"
sets="test_libri dev_clean_2 test_commonvoice test_an4 test_coffee test_arctic test_alnum test_so762 test_digits"

note "corpora and checkpoints"
unset CORPORA LLM MODELS
PYTHONPATH="${root}/test:${PYTHONPATH:-}" python3 -m corpora.mini_librispeech corpora >variables
# shellcheck source=/dev/null
. ./variables
(cd "${root}/test" && python3 -c "import standins; standins.whisper_recogniser('${work}/models/whisper', encoder_layers=4); standins.llama('${work}/models/llama')")
for i in $(seq 20); do echo "The dog of number ${i} goes home to see what they said about fish. It is not here, and nobody has seen it since one of us left."; done |
    sed 's/number [0-9]*/the house/' >spoken.txt
export WHISPER=${work}/models/whisper GEMMA=${work}/models/llama TTS_FROM=${work}/spoken.txt

given=(--ctc_pieces 60)
run() {
    if ! ./run.sh --smoke --systems "${systems}" "${given[@]}" "$@" >log 2>&1; then
        tail -n 40 log >&2
        fail "a run that should pass failed: $*"
    fi
}
note "dry run, without the trimmed LLM"
run --dry_run
grep -q "lora_long" log || fail "the dry run does not say what it would train"
[ ! -e llm_smoke ] && [ ! -e data_smoke ] || fail "the dry run wrote something"
! GEMMA=nowhere ./run.sh --smoke --systems slam >log 2>&1 || fail "a run without its LLM passed"
grep -q "GEMMA=nowhere is no model; get it with" log || fail "a run without its LLM does not say so"
note "stages 1 to 4"
run --stop_stage 4
[ -s llm_smoke/gemma/model.safetensors ] || fail "no trimmed LLM"
for name in train valid ${sets}; do
    [ -s "dump_smoke/${name}/text" ] || fail "dump_smoke/${name} is missing or empty"
done
[ "$(wc -l <data_smoke/lm/text.txt.dropped.tsv)" -ge 2 ] || fail "lines that are read aloud were left in the text"
note "again: nothing is made anew"
stamp=$(stat -c %Y.%s llm_smoke/gemma/model.safetensors)
run --stop_stage 4
[ "${stamp}" = "$(stat -c %Y.%s llm_smoke/gemma/model.safetensors)" ] || fail "the LLM was trimmed again"
run --dry_run
note "all stages"
echo "MIT License" >"${WHISPER}/LICENSE"
run --score_opts "--replicates 200" --stop_stage 16 --pack_system soft_k10 --pack_dir exp_smoke/pack --pack_opts "--max_mb 500"
check_results exp_smoke "${systems}" "${sets}"
[ -s exp_smoke/pieces/rows.safetensors ] && [ -s exp_smoke/frames/train+tts/frames.scp ] || fail "no pieces, or no frames"
[ -s exp_smoke/pack/spelling/rows.safetensors ] || fail "the packed system has no tokens of its CTC head"
[ -s exp_smoke/pack/licences/encoder/LICENSE ] && [ -s exp_smoke/pack/licences/NOTICE-data.md ] || fail "the packed system has no licences"
grep -q "^## Limits" exp_smoke/pack/README.md || fail "the model card does not say limits"
python3 -m espnet_llmvq transcribe exp_smoke/pack "$(head -n 1 dump_smoke/test_libri/wav.scp | cut -d' ' -f2)" --format json >said.json
grep -q '"segments"' said.json || fail "the packed system transcribes nothing"
note "passed"
