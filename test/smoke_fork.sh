#!/usr/bin/env bash
# The three commands of docs/fork.md as they stand there, as a smoke run: from a directory of sound files and a CSV to a
# table with an out-of-domain set. KEEP=1 leaves the directory for inspection.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
unset MAIN_ROOT
export PYTHONPATH=${root}
work=$(mktemp -d)
finish() {
    local status=$?
    if [ -n "${KEEP:-}" ]; then echo "smoke_fork: kept ${work}"; else rm -rf "${work}"; fi
    [ "${status}" -eq 0 ] || echo "smoke_fork: FAILED" >&2
}
trap finish EXIT
cd "${work}"

fail() {
    echo "smoke_fork: error: $*" >&2
    exit 1
}
note() { echo "smoke_fork: $* (${SECONDS} s)"; }

note "recordings"
python3 - <<'END'
import csv
import os
import random
from pathlib import Path

from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.espeak import synthesise

rng = random.Random(1)
words = "please open close the door window red green blue one two three four five now and then".split()
utterances = [(f"{i:03d}", " ".join(rng.choices(words, k=rng.randint(2, 6)))) for i in range(70)]
synthesise(utterances, ["en-us", "en-gb+m3"], Path("spoken"), 1, 1)
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

mapfile -t commands < <(sed -n '/^## Three commands/,/^## Data/p' "${root}/docs/fork.md" | sed -n 's/^    //p' | head -n 3)
[ "${commands[2]}" = ./run.sh ] || fail "docs/fork.md has other commands: ${commands[*]}"
commands[2]+=" --smoke"
for command in "${commands[@]}"; do
    note "${command}"
    eval "${command}" >>"${work}/log" 2>&1 || { tail -n 40 "${work}/log" >&2; fail "${command}"; }
done

python3 - <<'END'
import json
import math
import sys

rows = [row for row in json.load(open("exp_smoke/results.json")) if row["metric"] == "wer"]
found = {(row["system"], row["set"], row["domain"]) for row in rows if math.isfinite(row["value"]) and row["utterances"]}
for system in "ctc ctc_lm slam lora lora_long hard soft_k10".split():
    for name, domain in (("test", "id"), ("test_noise", "ood")):
        if (system, name, domain) not in found:
            sys.exit(f"smoke_fork: error: results.json has no word error rate of {system} on {name}")
END
for file in RESULTS.md report/report.html; do
    [ -s "exp_smoke/${file}" ] || fail "exp_smoke/${file} is missing or empty"
done
note "passed"
