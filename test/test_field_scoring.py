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
        score.main(["--ref", str(tmp_path / ref_name), "--hyp", str(tmp_path / hyp_name), "--json", str(out),
                    "--overwrite", *options])  # fmt: skip
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
    assert "alternatives" not in scored("a {x} and/or\n", "a x\n")[1]
