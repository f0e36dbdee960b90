"""Reading transcripts, and the score command on real small files."""

import json
import os
import subprocess
import sys
import time

import pytest

from espnet_llmvq.bin.score import main
from espnet_llmvq.errors import UserError
from espnet_llmvq.score.files import match_utterances, read_transcript

TEXTS = {"u1": "Héllo, world", "u2": "", "u3": "line\u2028separator (twice) 你好"}


def write(path, text):
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return str(path)


def test_three_formats_agree(tmp_path):
    kaldi = write(tmp_path / "text", "".join(f"{u} {t}\n" for u, t in TEXTS.items()))
    trn = write(tmp_path / "a.trn", "".join(f"{t}\t({u})\n" for u, t in TEXTS.items()))
    lines = [json.dumps({"id": u, "text": t, "score": 1}) for u, t in TEXTS.items()]
    jsonl = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert read_transcript(kaldi) == read_transcript(trn) == read_transcript(jsonl) == TEXTS


def test_windows_file(tmp_path):
    path = write(tmp_path / "text", b"\xef\xbb\xbfu1 a b\r\n\r\nu2\tc\r\n")
    assert read_transcript(path) == {"u1": "a b", "u2": "c"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text", "u1 a\nu2 b\nu1 c\n", r"u1 \(lines 1 and 3\)"),
        ("text", b"u1 a\nu2 caf\xe9\n", r"UTF-8: line 2 \(u2\).*iconv"),
        ("text", "\n", "no utterances"),
        ("a.trn", "a b (u1)\nno id\n", "line 2: not `words"),
        ("a.jsonl", '{"id": "u1", "text": "a"}\n{"id": "u2"\n', "line 2: not a JSON object"),
        ("a.jsonl", '{"id": "u1", "txt": "a"}\n', "line 1: no string \"text\".*'txt'"),
        ("a.jsonl", '{"id": 7, "text": "a"}\n', 'no string "id"'),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as err:
        read_transcript(path)
    assert path in str(err.value)


def test_file_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_transcript(tmp_path / "nothing")


def test_ten_are_listed_and_the_rest_counted():
    refs = {f"u{i:02}": "a" for i in range(13)}
    with pytest.raises(UserError, match="13 of 13 .* u09 and 3 more"):
        match_utterances(refs, {}, "ref", "hyp")
    with pytest.raises(UserError, match="hyp: 13 utterances are not in ref: .* and 3 more"):
        match_utterances({"x": "a"}, refs, "ref", "hyp", "empty")
    hyps, absent = match_utterances(refs, {"u03": "b"}, "ref", "hyp", "empty")
    assert absent == 12
    assert hyps == {**dict.fromkeys(refs, ""), "u03": "b"}


@pytest.fixture
def files(tmp_path):
    ref = write(tmp_path / "text", "u1 The cat sat.\nu2 Hello world\n")
    one = write(tmp_path / "one.trn", "hello world (u2)\nthe cat sit (u1)\n")
    two = write(tmp_path / "two.jsonl", '{"id": "u2", "text": "hello"}\n')
    return ref, one, two


def test_command(files, tmp_path, capsys):
    ref, one, two = files
    out = tmp_path / "new" / "scores.json"
    main(["--ref", ref, "--hyp", one, "--hyp", two, "--missing", "empty", "--json", str(out)])
    lines = capsys.readouterr().out.splitlines()
    # characters: 11 + 11; one: a/i; two: all of u1 and " world" deleted
    assert lines[0].split() == ["file", "utterances", "words", "WER", "S", "D", "I", "CER"]
    assert lines[1].split() == [one, *["2", "5", "20.00", "1", "0", "0", "4.55"]]
    assert lines[2].split() == [two, *["2", "5", "80.00", "0", "4", "0", "77.27"]]
    assert lines[3] == "normaliser: basic; missing hypotheses: 0, 1 counted as empty"
    entry = json.loads(out.read_text())[1]
    assert entry == {
        "file": two,
        "wer": 80.0,
        "cer": 77.2727,
        "sub": 0,
        "del": 4,
        "ins": 0,
        "words": 5,
        "utterances": 2,
        "chars": 22,
        "missing": 1,
        "normaliser": "basic",
    }
    assert os.listdir(out.parent) == ["scores.json"]


def test_command_options(files, capsys):
    ref, one, two = files
    main(["--ref", ref, "--hyp", one, "--normaliser", "none", "--metric", "wer"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "utterances", "words", "WER", "S", "D", "I"]
    assert lines[1].split()[1:] == ["2", "5", "60.00", "3", "0", "0"]
    assert "missing hypotheses: an error" in lines[2]
    with pytest.raises(UserError, match="1 of 2 .*: u1; .*--missing empty"):
        main(["--ref", ref, "--hyp", two])
    with pytest.raises(UserError, match="did you mean 'basic'"):
        main(["--ref", ref, "--hyp", one, "--normaliser", "basc"])
    with pytest.raises(UserError, match="unknown metric 'ter'"):
        main(["--ref", ref, "--hyp", one, "--metric", "ter"])


def test_command_exits_1_without_traceback(files):
    command = [sys.executable, "-m", "espnet_llmvq.bin.score", "--ref", files[0], "--hyp", "no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no: cannot read")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["score", "results", "report"])
def test_help_is_fast(command):
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        command_line = [sys.executable, "-m", f"espnet_llmvq.bin.{command}", "--help"]
        subprocess.run(command_line, check=True, capture_output=True)
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 0.5
