"""The quality report of an alignment, against a case worked out by hand."""

import pytest

from espnet_llmvq.align.ctm import Word
from espnet_llmvq.align.output import write_alignment
from espnet_llmvq.align.quality import Quality
from espnet_llmvq.base.errors import UserError

ALIGNED = {"u1": [Word("a", 0.1, 0.2), Word("b", 0.3, 0.1), Word("c", 0.65, 0.35)], "u2": [Word("a", 0.0, 0.21)]}
SECONDS = {"u1": 1.0, "u2": 0.5}
FAILED = {"u3": "no path", "u4": "audio too short: 1 of 2", "u5": "audio too short: 3 of 4"}
# Errors of starts: 10, 60, 0, 150 ms; of ends: 20, 40, 0, 150 ms.
TRUE = {
    "u1": [Word("a", 0.09, 0.23), Word("b", 0.36, 0.08), Word("c", 0.65, 0.35)],
    "u2": [Word("a", 0.15, 0.21)],
    "u9": [Word("a", 0.0, 0.1)],
}


def quality():
    found = Quality(FAILED, TRUE)
    for utt, words in ALIGNED.items():
        found.add(utt, words, SECONDS[utt])
    return found


# Median, 90th percentile, and shares within 20, 50 and 100 ms.
ERRORS = {"start": (35, 123, 0.5, 0.5, 0.75), "end": (30, 117, 0.5, 0.75, 0.75), "both": (30, 150, 0.5, 0.625, 0.75)}


def test_table_by_hand():
    names = ("median_ms", "p90_ms", "within_20_ms", "within_50_ms", "within_100_ms")
    assert quality().table().splitlines() == [
        "part\titem\tvalue",
        "coverage\taligned\t2",
        "coverage\tfailed\t3",
        "failed\taudio too short\t2",
        "failed\tno path\t1",
        "word_seconds\t0.10\t1",
        "word_seconds\t0.20\t2",
        "word_seconds\t0.34\t1",
        "pause_seconds\t0.24\t1",
        "edge_silence_seconds\t0.10\t1",
        "edge_silence_seconds\t0.28\t1",
        *(f"{side}_error\t{name}\t{x:.3f}" for side, row in ERRORS.items() for name, x in zip(names, row)),
    ]


def test_summary_names_reasons_and_errors():
    lines = quality().summary().splitlines()
    assert lines[:3] == ["2 of 5 utterances aligned, 3 failed", "  2 failed: audio too short", "  1 failed: no path"]
    assert "a pause between 50.0% of neighbours" in lines[3]
    assert lines[4].startswith("word starts: error median 35 ms, 90th percentile 123 ms; 50.0% within 20 ms")
    assert lines[-1] == "compared with the true times: 2 of 2 utterances"


def test_files(tmp_path, capsys):
    out = str(tmp_path / "new/w.ctm")
    write_alignment(out, ALIGNED, FAILED, SECONDS, TRUE)
    files = ["w.ctm", "w.ctm.failed", "w.ctm.report.png", "w.ctm.report.tsv"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [".llmvq-written", *files]
    assert (tmp_path / "new/w.ctm.report.png").read_bytes().startswith(b"\x89PNG")
    assert f"{out}.failed has the reasons" in capsys.readouterr().out
    # One word, no silence, nothing to compare with.
    write_alignment(out, {"u": [Word("a", 0.0, 1.0)]}, {}, {"u": 1.0})
    assert (tmp_path / "new/w.ctm.failed").read_text() == ""
    assert "error" not in capsys.readouterr().out


def test_nothing_aligned_or_compared_is_an_error(tmp_path):
    out = str(tmp_path / "w.ctm")
    with pytest.raises(UserError, match="no utterance could be aligned"):
        write_alignment(out, {}, FAILED, {})
    assert (tmp_path / "w.ctm.failed").read_text().count("\n") == 3 and not (tmp_path / "w.ctm").exists()
    with pytest.raises(UserError, match="no utterance has the words of the reference"):
        write_alignment(out, ALIGNED, {}, SECONDS, {"u1": TRUE["u9"]})
