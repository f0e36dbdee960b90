#!/usr/bin/env bash
# The commands of the section "On a handful first" of docs/tutorial.md as they stand there: from a directory of sound files
# and a CSV to a table with an out-of-domain set, a packed system and texts. KEEP=1 leaves the directory for inspection.

set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/smoke_room.sh" ""
unset MAIN_ROOT
export PYTHONPATH=${root}

note "recordings"
python3 - <<'END'
import csv
import os
import random
from pathlib import Path

from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.synthesise import synthesise

rng = random.Random(1)
words = "please open close the door window red green blue one two three four five now and then".split()
utterances = [(f"{i:03d}", " ".join(rng.choices(words, k=rng.randint(2, 6)))) for i in range(70)]
synthesise(utterances, Path("spoken"), voices=["en-us", "en-gb+m3"], seed=1, nj=1)
data = DataDir.load("spoken")
os.makedirs("recordings/wavs")
with open("recordings/metadata.csv", "w", newline="") as f:
    table = csv.writer(f)
    table.writerow(["audio", "text", "speaker"])
    for utt in data.utts:
        os.rename(data.wav_scp[utt], f"recordings/wavs/{utt}.wav")
        table.writerow([f"wavs/{utt}.wav", data.text[utt], data.utt2spk[utt]])
END
rm -r spoken

mapfile -t commands < <(sed -n '/^## On a handful first/,/^## The run/p' "${root}/docs/tutorial.md" | sed -n '/^```sh/,/^```/{/^```/d;p}')
[ "${commands[3]:-}" = "./run.sh --smoke" ] || fail "docs/tutorial.md has other commands: ${commands[*]}"
for command in "${commands[@]}"; do
    note "${command}"
    eval "${command}" >>"${work}/log" 2>&1 || { tail -n 40 "${work}/log" >&2; fail "${command}"; }
done

check_results exp_smoke "ctc ctc_lm slam lora lora_long hard soft_k10" "test test_noise"
python3 - <<'END'
import json

domains = {(row["set"], row["domain"]) for row in json.load(open("exp_smoke/results.json")) if row["metric"] == "wer"}
if not {("test", "id"), ("test_noise", "ood")} <= domains:
    raise SystemExit(f"smoke: error: test is not in domain, or test_noise not out of it: {domains}")
END
for file in RESULTS.md report/report.html; do
    [ -s "exp_smoke/${file}" ] || fail "exp_smoke/${file} is missing or empty"
done
note "passed"
