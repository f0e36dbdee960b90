"""The derailment audit on hypotheses made by hand."""

import pytest

from espnet_llmvq.score.derail import AuditRules, audit, derailment_rows, longest_run, prompt_pieces

PROMPT = "USER: {speech} Transcribe speech to text. ASSISTANT: {text}"


@pytest.mark.parametrize(
    ("words", "expected"), [("", 0), ("a", 1), ("a b a", 1), ("a a", 2), ("x a b a b a b", 3), ("a b c a b c a b", 2)]
)
def test_longest_run(words, expected):
    assert longest_run(words.split()) == expected


CASES = {  # utterance: (reference, hypothesis, kinds)
    "fine": ("hello world again", "hello word again", set()),
    "loop": ("we go to the sea", "we go to to to to", {"loop"}),
    "phrase": ("a b c d e f g", "x of the of the of the of the", {"loop"}),
    "said": ("nine nine nine nine", "nine nine nine nine", set()),
    "three": ("no", "no no no", set()),
    "chars": ("ha", "hahahahahahahahaha", {"loop"}),
    "empty": ("hello", "", {"empty"}),
    "silence": ("", "", set()),
    "long": ("one two", "a b c d e f g h", {"length"}),
    "edge": ("one two", "a b c d e f g", set()),
    "prompt": ("ok then", "Assistant: ok then", {"prompt"}),
    "user": ("my user name", "my user name", set()),
    "asked": ("Transcribe speech to text. please", "transcribe speech to text. please", set()),
    "cut": ("so it is", "so it", {"at_limit"}),
}


def run_audit(rules=AuditRules()):  # noqa: B008
    refs = {utt: ref for utt, (ref, _, _) in CASES.items()}
    hyps = {utt: hyp for utt, (_, hyp, _) in CASES.items()}
    words = [{utt: text.lower().split() for utt, text in side.items()} for side in (refs, hyps)]
    return audit(refs, hyps, *words, {"cut"}, PROMPT, rules)


@pytest.mark.parametrize("utt", CASES)
def test_kinds(utt):
    assert {kind for kind, utts in run_audit().items() if utt in utts} == CASES[utt][2]


def test_thresholds():
    found = run_audit(AuditRules(loop_repeats=3, length_ratio=1, length_words=100))
    assert "three" in found["loop"]
    assert found["length"] == []


def test_prompt_pieces():
    assert prompt_pieces(PROMPT) == ["user:", "transcribe speech to text.", "assistant:"]
    assert prompt_pieces("{speech} {text}") == []


def test_rows():
    found = {"loop": ["u1"], "empty": [], "at_limit": ["u1"], "length": ["u2"], "prompt": []}
    rows = derailment_rows("lora", "test", found, ["u1", "u2", "u3"], [[30, 10], [5, 10], [1, 10]])
    by_kind = {row["kind"]: row for row in rows}
    loop = {"system": "lora", "set": "test", "kind": "loop", "count": 1, "utterances": 3}
    assert by_kind["loop"] == {**loop, "wer_all": 120.0, "wer_without": 30.0, "examples": ["u1"]}
    assert by_kind["empty"]["wer_without"] == 120.0
    assert (by_kind["any"]["count"], by_kind["any"]["wer_without"]) == (2, 10.0)
    assert (by_kind["empty"]["examples"], by_kind["any"]["examples"]) == ([], ["u1", "u2"])
    alone = derailment_rows("s", "t", {"loop": ["u1"]}, ["u1"], [[3, 1]])
    assert alone[0]["wer_without"] is None
