#!/usr/bin/env bash
# Every stage of egs/librispeech/jstip1 on corpora of a few utterances in their public layouts (corpora/jstip.py) and a
# small random LLM of the Llama family (standins.py), whose tokens are not those that the recipe's files name; the
# encoder is trained, as the recipe does without ENCODER. Nothing is asked of the network.

set -euo pipefail

export HF_HUB_OFFLINE=1
. "$(dirname "${BASH_SOURCE[0]}")/smoke_room.sh" librispeech/jstip1
# One or more of each kind in paper_b: encoder alone, speech alone, interleaved in all ways, text, synthetic speech,
# its transcripts, everything, and everything behind a quantizer.
systems="ctc ctc_lm asr_only il_word il_seg_sil il_seg_sil_punc il_mixed_sil text tts ttstext best best_soft"
sets="test_clean test_other test_medical test_banking"

note "corpora and LLM"
PYTHONPATH="${root}/test:${PYTHONPATH:-}" python3 -m corpora.jstip corpora >variables
# shellcheck source=/dev/null
. ./variables
PYTHONPATH=${root}/test:${PYTHONPATH:-} python3 - >models.log <<'END'
from corpora import jstip
import standins

texts = [jstip.BOOK, jstip.OTHER_BOOK]
texts += [parts[0][1] for _, _, parts in jstip.many_abstracts(60)]
standins.llama("llama", vocab=1000, words=sorted(set(" ".join(texts).split())))
END
export LLM=${work}/llama

note "every stage"
if ! ./run.sh --smoke --systems "${systems}" --score_opts "--replicates 200" --prompt "<s>USER: {speech} ASSISTANT: {text}" \
    --interleave_overrides "begin_token=<s> segment_token=null" >log 2>&1; then
    tail -n 40 log >&2
    fail "a run that should pass failed"
fi
for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    grep -q "Stage ${number}:" log || fail "stage ${number} is not in the log"
done
check_results exp_smoke "${systems}" "${sets}"
python3 - "${systems}" <<'END'
import json
import sys

from espnet_llmvq.sequence.sequence import read_sequences

# Segments by silence, though this encoder hears none: each has speech, text, and the begin token of this LLM.
sequences = list(read_sequences("dump_smoke/train/seg_sil.jsonl"))
for seq in sequences:
    first = seq.spans[0]
    if (first.text, first.special) != ("<s>", True) or {s.is_speech for s in seq.spans[1:]} != {True, False}:
        sys.exit(f"smoke: error: {seq.id} is not interleaved by segments of this LLM's tokens: {seq.spans}")
rows = json.load(open("exp_smoke/results.json"))
for system in sys.argv[1].split():
    metrics = {row["metric"] for row in rows if row["system"] == system and row["set"] == "test_medical"}
    if "eer" not in metrics:
        sys.exit(f"smoke: error: results.json has no entity error rate of {system} on test_medical: {metrics}")
END
for file in RESULTS.md report/report.html analysis/ANALYSIS.md align/train.ctm align/tts.ctm llm_alone; do
    [ -s "exp_smoke/${file}" ] || fail "exp_smoke/${file} is missing or empty"
done
grep -q "arXiv 2607.01733" exp_smoke/RESULTS.md || fail "the published figures are not in RESULTS.md"

note "every change of an option or a config is seen"
python3 "${root}/test/changes.py" exp_smoke "${root}/docs/recipes.md"

note "passed"
