"""Reading transcripts, and the score command on real small files."""

import json
import os
import re
import subprocess
import sys

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.score import main
from espnet_llmvq.score.files import Rules, match_utterances, read_at_limit, read_transcript, trn

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
    with pytest.raises(UserError, match="11 of 13 .* u09 and 1 more"):
        match_utterances(refs, {"u12": "a"} | dict.fromkeys(["u11"], ""), "ref", "hyp")
    with pytest.raises(UserError, match="hyp: 12 utterances are not in ref: .* and 2 more"):
        match_utterances({"u00": "a"}, refs, "ref", "hyp")
    notes = []
    hyps = match_utterances(refs, {"u03": "b"}, "ref", "hyp", Rules(missing="empty"), notes)
    assert hyps == {**dict.fromkeys(refs, ""), "u03": "b"}
    hyps = match_utterances({"u1": "a"}, {"u1": "b", "u2": "c"}, "r", "h", Rules(extra="drop"), notes)
    assert hyps == {"u1": "b"}
    assert notes == ["hyp: 12 missing hypotheses counted as empty", "h: 1 hypotheses without a reference left out"]


def test_no_id_in_common():
    rules = Rules(missing="empty", extra="drop")
    with pytest.raises(UserError, match="no utterance of ref is in it.*u1.*spk-u1.*same ids"):
        match_utterances({"u1": "a"}, {"spk-u1": "a"}, "ref", "hyp", rules)


@pytest.mark.parametrize(("duplicate", "text"), [("first", "a"), ("last", "c")])
def test_duplicates_by_option(tmp_path, duplicate, text):
    path, notes = write(tmp_path / "text", "u1 a\nu2 b\nu1 c\n"), []
    assert read_transcript(path, Rules(duplicate=duplicate), notes) == {"u1": text, "u2": "b"}
    assert notes == [f"{path}: 1 further lines of an utterance, {duplicate} kept"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_other_encodings_by_option(tmp_path, encoding):
    path, notes = write(tmp_path / "text", "u1 café\nu2 naïve\n".encode(encoding)), []
    found = read_transcript(path, Rules(encoding=encoding), notes)
    assert found == {"u1": "café", "u2": "naïve"}
    assert notes == [f"{path}: read as {encoding}"]
    with pytest.raises(UserError, match="not valid UTF-8"):
        read_transcript(path)


def test_rules_are_checked():
    with pytest.raises(UserError, match="--missing 'emty' .did you mean 'empty'"):
        Rules(missing="emty")
    with pytest.raises(UserError, match="unknown --encoding 'latin-77'.*Python"):
        Rules(encoding="latin-77")


def test_at_limit_and_trn(tmp_path):
    lines = '{"id": "u1", "text": "a", "at_limit": true}\n{"id": "u2", "text": "b"}\n'
    assert read_at_limit(write(tmp_path / "hyp.jsonl", lines)) == {"u1"}
    assert read_at_limit(write(tmp_path / "text", "u1 a\n")) == set()
    path = write(tmp_path / "a.trn", trn({"u1": "a (b) c", "u2": ""}))
    assert read_transcript(path) == {"u1": "a (b) c", "u2": ""}


@pytest.fixture
def files(tmp_path):
    ref = write(tmp_path / "text", "u1 The cat sat.\nu2 Hello world\n")
    one = write(tmp_path / "one.trn", "hello world (u2)\nthe cat sit (u1)\n")
    two = write(tmp_path / "two.jsonl", '{"id": "u2", "text": "hello"}\n')
    return ref, one, two


def test_command(files, tmp_path, capsys):
    ref, one, two = files
    out = tmp_path / "new" / "scores.json"
    more = ["--json", str(out), "--out_dir", str(tmp_path / "files")]
    main(["--ref", ref, "--hyp", one, "--hyp", two, "--missing", "empty", *more])
    lines = capsys.readouterr().out.splitlines()
    # characters: 11 + 11; one: a/i; two: all of u1 and " world" deleted
    expected = [
        [one, "WER", "basic", "20.00", "1 / 5 words", "1 / 0 / 0"],
        [one, "CER", "basic", "4.55", "1 / 22 characters"],
        [two, "WER", "basic", "80.00", "4 / 5 words, 1 hypotheses empty", "0 / 4 / 0"],
        [two, "CER", "basic", "77.27", "17 / 22 characters"],
    ]
    for line, cells in zip(lines[1:], expected):
        without = re.sub(r"\[.*?\]", "", line)
        assert re.split(r"\s{2,}", without.strip()) == cells
    printed = "\n".join(lines)
    assert "against " + one + ", 2 comparisons" in printed
    assert "small: under 500 words" in printed
    assert "few: only 2 utterances to resample" in printed
    assert f"input: {two}: 1 missing hypotheses counted as empty" in printed
    content = json.loads(out.read_text())
    entry = content["scores"][2]
    assert 0 <= entry.pop("low") <= 80 <= entry.pop("high") <= 100
    expected = {"file": two, "metric": "wer", "normaliser": "basic", "value": 80.0, "count": 4, "of": 5}
    assert entry == {**expected, "unit": "words", "sub": 0, "del": 4, "ins": 0, "empty": 1}
    assert content["comparisons"][0]["change"] == 60
    assert content["small"] is True
    assert sorted(os.listdir(out.parent)) == [".llmvq-written", "scores.json"]
    # raw texts, and what sclite users look for
    assert (tmp_path / "files/one/ref.trn").read_text().startswith("The cat sat. (u1)\n")
    assert (tmp_path / "files/two/hyp.trn").read_text() == " (u1)\nhello (u2)\n"
    result = (tmp_path / "files/one/result.txt").read_text()
    assert "| Sum/Avg    |      2       5 |   80.0   20.0    0.0    0.0   20.0   50.0 |" in result
    assert "id: (u2)" in result


@pytest.mark.parametrize("name", ["hyp.trn", "ref.trn", "result.txt"])
def test_inputs_are_not_replaced(tmp_path, monkeypatch, capsys, name):
    """Where outputs would have their names: neither a person's nor such as this command wrote before."""
    monkeypatch.chdir(tmp_path)
    stem = os.path.splitext(name)[0]
    os.makedirs(f"exp1/{stem}")
    write(tmp_path / "ref", "u1 a b\nu2 c\n")
    write(tmp_path / "exp1" / stem / name, "a b (u1)\nc (u2)\n" if name.endswith("trn") else "u1 a b\nu2 c\n")
    command = ["--ref", "ref", "--hyp", f"exp1/{stem}/{name}", "--replicates=100"]
    before = (tmp_path / command[3]).read_bytes()
    with pytest.raises(UserError, match=f"exp1/{stem}/{name}: would replace the input"):
        main([*command, "--out_dir", "exp1"])
    with pytest.raises(UserError, match=f"{name}: would replace the input"):
        main([*command, "--json", command[3]])
    with pytest.raises(UserError, match="ref: would replace the input"):
        main([*command, "--json", "ref"])
    main([*command, "--out_dir", "out"])
    main([*command, "--out_dir", "out"])
    if stem != "hyp":
        os.rename(f"out/{stem}", "out/hyp")
    command[3] = "out/hyp/hyp.trn"  # written by the command itself
    with pytest.raises(UserError, match="out/hyp/hyp.trn: would replace the input"):
        main([*command, "--out_dir", "out"])
    write(tmp_path / "hyp", "u1 a b\nu2 c\n")
    with pytest.raises(UserError, match="out/hyp/ref.trn: would replace the input"):
        main(["--ref", "out/hyp/ref.trn", "--hyp", "hyp", "--out_dir", "out"])
    assert (tmp_path / "exp1" / stem / name).read_bytes() == before


def test_texts_are_one_line_each(tmp_path, capsys):
    """Also by what only some readers take for the end of a line; an id that is no word is an error."""
    broken = "".join(f"one{end}two " for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029") + "\n\nthree"
    ref = write(tmp_path / "ref.jsonl", json.dumps({"id": "u1", "text": broken}) + "\n")
    main(["--ref", ref, "--hyp", write(tmp_path / "h", "u1 one"), "--out_dir", str(tmp_path / "out")])
    for name, count in (("ref.trn", 1), ("hyp.trn", 1), ("utterances.tsv", 2)):
        assert len((tmp_path / "out/h" / name).read_text().splitlines()) == count
    assert read_transcript(tmp_path / "out/h/ref.trn") == {"u1": "one two " * 10 + "three"}
    for bad in ("u 1", "u\n1", "", " u1"):
        write(tmp_path / "ref.jsonl", json.dumps({"id": bad, "text": "a"}) + "\n")
        with pytest.raises(UserError, match='line 1: "id" must be a word, without white space'):
            read_transcript(ref)


def test_command_is_deterministic(files, capsys):
    ref, one, two = files
    printed = []
    for seed in ("1", "1"):
        main(["--ref", ref, "--hyp", one, "--hyp", two, "--missing=empty", "--draw_seed", seed])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_command_options(files, tmp_path, capsys):
    ref, one, two = files
    main(["--ref", ref, "--hyp", one, "--normaliser", "none", "--metric", "wer"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == "file metric normaliser value interval count S / D / I".split()
    assert lines[1].split()[1:4] == ["WER", "none", "60.00"]
    spk = write(tmp_path / "utt2spk", "u1 s1\n")
    speakers = [one, "--resample", "speaker", "--utt2spk", spk]
    for options, message in (
        ([two], "1 of 2 .*: u1; .*--missing empty"),
        ([one, "--normaliser", "basc"], "did you mean 'basic'"),
        ([one, "--metric", "wr"], "unknown metric 'wr'.*did you mean 'wer'"),
        ([one, "--hyp", one], "given twice"),
        ([one, "--replicates", "5"], "--replicates 5"),
        ([one, "--confidence", "95"], "--confidence 95"),
        ([one, "--resample", "speaker"], "--resample speaker needs the speakers"),
        (speakers, "1 of 2 utterances have no speaker: u2; .*--unmapped own"),
    ):
        with pytest.raises(UserError, match=message):
            main(["--ref", ref, "--hyp", *options])
    main(["--ref", ref, "--hyp", *speakers, "--unmapped", "own"])
    assert f"input: {spk}: 1 utterances without a speaker are one each" in capsys.readouterr().out


def test_empty_references_and_hypotheses(tmp_path, capsys):
    ref = write(tmp_path / "ref", "u1 a b\nu2 [noise]\nu3 c d\n")
    hyp = write(tmp_path / "hyp", "u1 a b\nu2 x\nu3\n")
    command = ["--ref", ref, "--hyp", hyp, "--metric", "wer", "--normaliser", "whisper_basic"]
    with pytest.raises(UserError, match="1 references are empty .*: u2; .*--empty_ref drop"):
        main(command)
    with pytest.raises(UserError, match="1 hypotheses are empty .*: u3; .*--empty_hyp keep"):
        main([*command, "--empty_ref", "keep", "--empty_hyp", "error"])
    main([*command, "--empty_ref", "keep"])  # 2 deletions, 1 insertion of 4
    printed = capsys.readouterr().out
    assert " 75.00 " in printed
    assert "3 / 4 words, 1 hypotheses empty" in printed
    assert "1 references are empty; hypotheses there are insertions" in printed
    assert "1 empty hypotheses, their words counted as deletions" in printed
    main([*command, "--empty_ref", "drop"])
    printed = capsys.readouterr().out
    assert "2 / 4 words" in printed
    assert "1 utterances with an empty reference left out" in printed
    assert "derailed (empty): 1 of 2 utterances; WER 50.00, without them 0.00" in printed


def test_no_torch_and_no_espnet(files):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['espnet'] = sys.modules['espnet2'] = None;"
        "from espnet_llmvq.cli.score import main; main(sys.argv[1:])"
    )
    ref, one, _ = files
    command = [sys.executable, "-c", code, "--ref", ref, "--hyp", one, "--metric", "ter"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    path = tmp_path / "hyp.jsonl"
    path.write_text('{"id": "u1", "text": "a \\ud83d\\ude42"}\n{"id": "u2", "text": "a \\ud800 b"}\n')
    with pytest.raises(UserError, match='line 2: "text" holds a character that is none'):
        read_transcript(path)


@pytest.mark.parametrize(("rule", "found"), [("first", {"u1"}), ("last", {"u2"})])
def test_the_line_that_counts_says_whether_it_is_at_the_limit(tmp_path, rule, found):
    path = tmp_path / "hyp.jsonl"
    entries = [("u1", True), ("u2", False), ("u1", False), ("u2", True)]
    path.write_text("".join(json.dumps({"id": u, "text": "a", "at_limit": at}) + "\n" for u, at in entries))
    assert read_at_limit(path, Rules(duplicate=rule)) == found


def test_ids_with_parentheses_are_read_as_they_are_written(tmp_path):
    texts = {"rec(2)": "a (b)", "(x)y": "", "u1": "a (b)(c) (d)"}
    assert read_transcript(write(tmp_path / "a.trn", trn(texts))) == texts
    assert read_transcript(write(tmp_path / "b.trn", "a (b)(u1)\n")) == {"u1": "a (b)"}
