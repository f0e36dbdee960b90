"""Words that the LLM preferred, against a forward pass over each text."""

import json
import os
from pathlib import Path

import pytest
import torch

from espnet_llmvq.cli.lm import preferred as command
from espnet_llmvq.decode.preferred import count_preferred, put_right
from espnet_llmvq.llm.directory import load_llm
from espnet_llmvq.score.wer import score_utterances

TEXTS = {  # reference / hypothesis
    "u1": "one two three/one six three",
    "u2": "one two/one two",
    "u3": "six ten two one/ten two two six six",
    "u4": "two/",
    "u5": "ten one/six two",
}


def pairs_of(text):
    ref, hyp = text.split("/")
    return score_utterances({"u": ref.split()}, {"u": hyp.split()})[0].pairs


def test_put_right_by_hand():
    heard, right = put_right((("S", "a", "x"), ("D", "b", ""), ("=", "c", "c"), ("I", "", "y"), ("S", "d", "z")))
    assert heard == ["x", "c", "y", "z"]
    assert right == [["a", "c", "y", "z"], ["x", "c", "y", "d"]]
    assert put_right((("=", "a", "a"), ("D", "b", ""))) == (["a"], [])


def brute(llm, tokenizer, text):
    """Log probability of a text and its end, in float64."""
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = llm(input_ids=torch.tensor([ids])).logits[0].double()
    return sum(float(logits[i].log_softmax(-1)[token]) for i, token in enumerate(ids[1:]))


@pytest.fixture(scope="module")
def expected(llm_dir, tokenizer):
    """{utterance: (preferred, substitutions)} by brute force."""
    llm, found = load_llm(llm_dir).eval(), {}
    for utt, text in TEXTS.items():
        heard, right = put_right(pairs_of(text))
        scores = [brute(llm, tokenizer, " ".join(words)) for words in (heard, *right)] if right else [0]
        found[utt] = (sum(score < scores[0] for score in scores[1:]), len(right))
    assert 0 < sum(n for n, _ in found.values()) < sum(n for _, n in found.values())
    return found


def test_counts_are_those_of_brute_force(llm_dir, tokenizer, expected):
    counts = count_preferred(load_llm(llm_dir).eval(), tokenizer, [pairs_of(text) for text in TEXTS.values()])
    assert dict(zip(TEXTS, counts)) == expected


def test_command(tmp_path, experiment_of, llm_dir, expected, capsys, monkeypatch):
    """Derailed utterances have no counts; what is counted is not counted again."""
    monkeypatch.chdir(tmp_path)
    experiment = experiment_of(str(tmp_path), {"ctc": "ctc"}, {})
    experiment = json.loads(Path("exp/experiment.json").read_text())
    experiment["sets"] = [{"name": "a", "domain": "ood"}]
    Path("exp/experiment.json").write_text(json.dumps(experiment))
    texts = TEXTS | {"u6": "two one/six six six six six"}  # a loop
    refs, hyps = ({utt: text.split("/")[i] for utt, text in texts.items()} for i in (0, 1))
    home = Path("exp/encoder/decode_ctc_a")
    for folder in ("dump/a", home):
        os.makedirs(folder)
    Path("dump/a/text").write_text("".join(f"{utt} {text}\n" for utt, text in refs.items()))
    Path("dump/a/utt2spk").write_text("".join(f"{utt} {utt}\n" for utt in refs))
    (home / "hyp.jsonl").write_text("".join(json.dumps({"id": u, "text": t}) + "\n" for u, t in hyps.items()))
    command.main(["--exp", "exp"])
    counts = [line.split("\t") for line in Path("exp/preferred/ctc/a.tsv").read_text().splitlines()]
    assert counts[0] == ["utterance", "preferred", "substitutions"]
    assert {utt: (int(n), int(of)) for utt, n, of in counts[1:]} == expected | {"u6": (0, 0)}
    (row,) = json.loads(Path("exp/preferred/preferred.json").read_text())
    n, of = (sum(column) for column in zip(*expected.values()))
    assert (row["count"], row["of"]) == (n, of) and row["value"] == pytest.approx(100 * n / of, abs=1e-4)
    assert row["low"] <= row["value"] <= row["high"]
    assert f"{n} of {of}" in capsys.readouterr().out
    command.main(["--exp", "exp"])
    assert "a.tsv is up to date" in capsys.readouterr().out
