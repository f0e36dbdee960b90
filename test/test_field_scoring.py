"""Scoring as people do it, from public reports of this and other toolkits (docs/field_reports.md)."""

import json

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import score


@pytest.fixture
def scored(tmp_path, capsys):
    """Function: the rows and the text that `llmvq score` prints of a reference and a hypothesis file, by content."""

    def run(ref, hyp, *options, ref_name="ref", hyp_name="hyp"):
        for name, content in ((ref_name, ref), (hyp_name, hyp)):
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        out = tmp_path / "out.json"
        score.main(["--ref", str(tmp_path / ref_name), "--hyp", str(tmp_path / hyp_name), "--json", str(out), *options])
        rows = {row["metric"]: row for row in json.loads(out.read_text())["scores"]}
        return rows, capsys.readouterr().out

    return run


def test_empty_hypotheses_are_deletions(scored):
    """https://github.com/jitsi/jiwer/issues/98 and https://github.com/huggingface/distil-whisper/pull/158"""
    rows, printed = scored("a one two\nb three\n", "a\nb three\n")
    assert rows["wer"]["value"] == pytest.approx(200 / 3) and rows["wer"]["empty"] == 1
    assert "2 / 3 words, 1 hypotheses empty" in printed
    with pytest.raises(UserError, match="1 hypotheses are empty with the normaliser basic: a"):
        scored("a one two\nb three\n", "a\nb three\n", "--empty_hyp", "error")


def test_alternatives_of_sclite_are_named(scored):
    _, printed = scored("a i am { uh / um / @ } here\nb and/or\n", "a i am here\nb and or\n")
    assert "1 references have alternatives of sclite, { a / b }, whose words all count here: a; write one" in printed
    assert "alternatives of" not in scored("a {x} and/or\n", "a x\n")[1]


def test_references_without_words(scored):
    """https://github.com/jitsi/jiwer/pull/108 and https://github.com/analyticsinmotion/werpy/pull/21: silence in a test
    set. What is said there is insertions, if asked for, and nothing there is no error.
    """
    with pytest.raises(UserError, match="1 references are empty with the normaliser basic: a"):
        scored("a\nb one\n", "a\nb one\n")
    assert scored("a\nb one\n", "a\nb one\n", "--empty_ref", "keep")[0]["wer"]["value"] == 0
    rows, _ = scored("a\nb one\n", "a thank you for watching\nb one\n", "--empty_ref", "keep")
    assert (rows["wer"]["ins"], rows["wer"]["value"]) == (4, 400)
    # https://github.com/receptron/mulmoclaude/pull/2216: what Whisper says to silence
    rows, printed = scored("a\nb one\n", "a thank you for watching\nb one\n", "--empty_ref", "drop")
    assert rows["wer"]["value"] == 0 and "1 utterances with an empty reference left out" in printed


def test_a_loop_is_more_than_all_words(scored):
    """https://github.com/huggingface/evaluate/pull/667 wants rates below 100; here they are what they are, and
    https://github.com/QwenAudio/Fun-ASR/issues/15, "um um um um": the audit names such utterances.
    """
    rows, printed = scored("a yes\nb no\n", "a " + "um " * 20 + "\nb no\n")
    assert rows["wer"]["value"] == 1000
    assert "derailed (loop): 1 of 2 utterances" in printed


def test_which_side_is_which(scored):
    """https://github.com/jitsi/jiwer/issues/99: the length is the reference's, deletions are its words."""
    rows, _ = scored("a one two three four\n", "a one\n")
    assert (rows["wer"]["value"], rows["wer"]["del"], rows["wer"]["ins"]) == (75, 3, 0)
    rows, _ = scored("a one\n", "a one two three four\n")
    assert (rows["wer"]["value"], rows["wer"]["del"], rows["wer"]["ins"]) == (300, 0, 3)


def test_the_scorer_is_named_beside_figures(scored):
    """https://github.com/huggingface/open_asr_leaderboard/pull/135: a gap between two runs was the scorer."""
    rows, printed = scored("a one\n", "a 1\n", "--normaliser", "whisper_english")
    assert "whisper_english (whisper-normalizer " in rows["wer"]["normaliser"] and rows["wer"]["value"] == 0
    assert rows["wer"]["normaliser"] in printed


def test_files_in_another_order_of_lines(scored):
    rows, _ = scored("a one two\nb three\nc four\n", "c four\na one two\nb three\n")
    assert rows["wer"]["value"] == 0


DAMAGED = {
    "twice": ("a x\na y\n", "utterances given twice: a .lines 1 and 2"),
    "missing": ("b y\n", "1 of 2 utterances of .* have no hypothesis: a"),
    "extra": ("a x\nb y\nc z\n", "1 utterances are not in .*: c"),
    "other ids": ("A x\nB y\n", "no utterance of .* is in it: 2 references"),
    "CR LF and a byte order mark": ("\ufeffa x\r\nb y\r\n", None),
    "latin-1": ("a x\nb caf\xe9\n".encode("latin-1"), "not valid UTF-8: line 2 .b."),
    "UTF-16": ("a x\nb y\n".encode("utf-16"), "not valid UTF-8"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_hypotheses(scored, name):
    content, message = DAMAGED[name]
    if message is None:
        assert scored("a x\nb y\n", content)[0]["wer"]["value"] == 0
        return
    with pytest.raises(UserError, match=message):
        scored("a x\nb y\n", content)


FORMS = {
    "hyp.trn": "one two (a)\nthree (b)\n",
    "hyp.jsonl": '{"id": "a", "text": "one two", "segments": []}\n{"id": "b", "text": "three", "language": "en"}\n',
    "hyp": "a one two\nb three\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_hypotheses(scored, name):
    assert scored("a one two\nb three\n", FORMS[name], hyp_name=name)[0]["wer"]["value"] == 0


def test_the_json_of_whisper_has_no_ids(scored):
    """One object a file, over many lines: it is refused with what is wanted."""
    whisper = json.dumps({"text": " one two", "segments": [{"id": 0, "text": " one two"}], "language": "en"})
    with pytest.raises(UserError, match='hyp.json, line 1: no string "id"'):
        scored("a one two\n", whisper, hyp_name="hyp.json")
    with pytest.raises(UserError, match='hyp.json, line 1: not a JSON object {"id"'):
        scored("a one two\n", json.dumps(json.loads(whisper), indent=2), hyp_name="hyp.json")


@pytest.mark.parametrize("name, content, message", [
    ("hyp.ctm", "a 1 0.0 0.5 x\n", "hyp.ctm: holds times"),
    ("hyp.stm", "a 1 s 0.0 0.5 <o> x\n", "hyp.stm: holds times"),
    ("hyp.jsonl", '{"id": "a", "text": null}\n', 'no string "text", but null'),
    ("hyp.jsonl", '{"id": 7, "text": "x"}\n', 'no string "id", but 7'),
])  # fmt: skip
def test_what_is_no_text_of_an_utterance(scored, name, content, message):
    """Times would be words: 300 % for one right word."""
    with pytest.raises(UserError, match=message):
        scored("a x\n", content, hyp_name=name)
