"""The report page: what it says, that nothing in it is taken for markup, and how it behaves in a browser.

The structure is checked with the standard library's parser. Tests in a browser skip without one.
"""

import base64
import hashlib
import html.parser
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdriver
import yaml

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import report
from espnet_llmvq.score.derail import KINDS

# Each would do harm, or break the page, if it were taken for markup anywhere.
SCRIPT = "<script>document.title='pwned'</script>"
NASTY = f"{SCRIPT} </style> --> \"quoted\" 'single' &amp; <img src=x onerror=alert(1)>"
LABEL = 'Soft <b>VQ</b> "k=10"'
UTT = "u1<b>'\"&"
SETS = {"test_id": "id", "test_noise": "ood", "test_far": "ood"}
WORDS = {"test_id": 12000, "test_noise": 800, "test_far": 150}
VALUES = {  # system: set: (WER, low, high)
    "ctc": {"test_id": (9.5, 8.0, 11.0), "test_noise": (30.25, 27.0, 33.0), "test_far": (100.0, 90.0, 110.0)},
    "lora": {"test_id": (12.345678, 10.0, 14.5), "test_noise": (8.75, 8.0, 9.5), "test_far": (131.0, 99.0, 160.0)},
    "soft": {"test_id": (101.5, 100.0, 103.0), "test_noise": (10.125, 9.0, 11.0), "test_far": (70.0, 60.0, 80.0)},
}
OPTIONS = ["--table=table.yaml", f"--title=Title {SCRIPT}"]
LABELS = {"ctc": "CTC", "lora": "SLAM-ASR + LoRA", "soft": LABEL}


def result_rows():
    rows = []
    for system, sets in VALUES.items():
        for metric, scale in (("wer", 1.0), ("cer", 0.5)):
            for name, domain in SETS.items():
                value, low, high = (scale * v for v in sets[name])
                entry = {"system": system, "kind": "set", "set": name, "domain": domain, "metric": metric}
                entry |= {"value": value, "low": low, "high": high, "normaliser": "none", "seed": 1}
                rows.append({**entry, "utterances": 4, "words": WORDS[name]})
            mean = sum(scale * sets[name][0] for name in ("test_noise", "test_far")) / 2
            entry = {"system": system, "kind": "macro", "set": "mean_ood", "domain": "ood", "metric": metric}
            rows.append({**entry, "value": mean, "utterances": 8, "words": 950, "seed": 1})
    return rows


def tone(path, frequency, seconds=0.6):
    t = np.arange(round(16000 * seconds)) / 16000
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * t), 16000, subtype="PCM_16")


def make_experiment(room):
    """Write an experiment in `room`; return the options of the report. Paths are relative to it."""
    refs = {UTT: f"five {NASTY} six", "u2": "one two three", "u3": "مرحبا بك", "u4": "seven"}
    hyps = {
        "ctc": {UTT: f"five {NASTY} six", "u2": "one two tree", "u3": "مرحبا", "u4": "seven"},
        "lora": {UTT: "five nine six", "u2": "one two", "u3": "مرحبا بك", "u4": ""},
        "soft": {UTT: f"five {SCRIPT}", "u2": "one uh two three", "u3": "x\x08y", "u4": "go " * 400},
    }
    for name in SETS:
        data = room / "dump" / name
        data.mkdir(parents=True)
        (data / "text").write_text("".join(f"{u} {t}\n" for u, t in refs.items()), encoding="utf-8")
        for system, texts in hyps.items():
            path = room / "exp" / system / f"decode_{name}" / "hyp.jsonl"
            path.parent.mkdir(parents=True)
            lines = [json.dumps({"id": utt, "text": text}) + "\n" for utt, text in texts.items()]
            path.write_text("".join(lines))
    for i, utt in enumerate(("a", "u2", "u3", "u4")):
        tone(room / "wav" / f"{utt}.wav", 300 + 100 * i)
    scp = [f"{UTT} wav/a.wav", "u2 wav/u2.wav", "u3 wav/u3.wav", "u4 wav/none.wav"]
    (room / "dump" / "test_id" / "wav.scp").write_text("\n".join(scp) + "\n")
    times = "u2 1 0.05 0.1 one\nu2 1 0.2 0.1 two\nu2 1 0.3 0.25 three\n"
    (room / "dump" / "test_id" / "words.ctm").write_text(times)
    exp = room / "exp"
    (exp / "results.json").write_text(json.dumps(result_rows()))
    (exp / "RESULTS.md").write_text(
        f"# Results\n\n</pre>{NASTY}\n\n## Environment\n\n- commit: {'0123456789' * 4}\n- label: {NASTY}\n"
    )
    entry = {"system": "soft", "set": "test_id", "utterances": 4, "wer_all": 7.123, "wer_without": 1}
    counts = {"loop": ["u4"], "prompt": [UTT], "any": [UTT, "u4"]}
    kinds = [{**entry, "kind": kind, "examples": counts.get(kind, [])} for kind in [*KINDS, "any"]]
    (exp / "derailments.json").write_text(json.dumps([{**kind, "count": len(kind["examples"])} for kind in kinds]))
    log = "1epoch results: [train] loss=2.5, time=1, [valid] loss=3.0, time=1\n"
    log += log.replace("1epoch", "2epoch").replace("2.5", "1.25").replace("3.0", "nan")
    phase = exp / 'start-<i>&"'
    phase.mkdir()
    (phase / "train.log").write_text(log)
    (exp / "analysis").mkdir()
    # The smallest PNG: one grey point.
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
    (exp / "analysis" / "<u>_nearest.png").write_bytes(base64.b64decode(png))
    systems = {s: {"label": label, "hypotheses": f"exp/{s}/decode_{{set}}/hyp.jsonl"} for s, label in LABELS.items()}
    sets = {name: {"domain": domain, "text": f"dump/{name}/text"} for name, domain in SETS.items()}
    sets["test_id"]["word_times"] = "dump/test_id/words.ctm"
    sets["test_far"]["word_times"] = "dump/test_far/words.ctm"  # not there
    table = {"systems": systems, "sets": sets, "normaliser": "none", "baseline": "lora"}
    (room / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    return OPTIONS


VOID = {"meta", "link", "br", "img", "input", "hr"}


class Node:
    def __init__(self, tag, attrs, parent):
        self.tag, self.attrs, self.parent, self.children = tag, dict(attrs), parent, []

    def walk(self):
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.walk()

    def all(self, tag, css_class=None):
        found = [node for node in self.walk() if node.tag == tag]
        return [n for n in found if not css_class or css_class in n.attrs.get("class", "").split()]

    @property
    def text(self):
        parts = [c.text if isinstance(c, Node) else c for c in self.children]
        return "".join(parts)

    @property
    def words(self):
        return " ".join(self.text.split())


class Tree(html.parser.HTMLParser):
    """Builds Nodes; AssertionError if tags are not properly nested."""

    def __init__(self, text):
        super().__init__()
        self.root = self.open = Node("", {}, None)
        self.feed(text)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> is given twice"
        node = Node(tag, attrs, self.open)
        self.open.children.append(node)
        if tag not in VOID:
            self.open = node

    def handle_startendtag(self, tag, attrs):
        self.open.children.append(Node(tag, attrs, self.open))

    def handle_endtag(self, tag):
        assert tag == self.open.tag, f"</{tag}> closes <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, data):
        self.open.children.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The path of a report of everything."""
    room = tmp_path_factory.mktemp("report")
    options = make_experiment(room)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        report.main(options)
    return room / "exp" / "report" / "report.html"


@pytest.fixture(scope="module")
def tree(page):
    return Tree(page.read_text(encoding="utf-8")).root


def find(tree, element_id):
    (node,) = [node for node in tree.walk() if node.attrs.get("id") == element_id]
    return node


def cells(node):
    """The text of the cells of the first body in `node`, by row."""
    rows = node.all("tbody")[0].all("tr")
    return [[c.words for c in row.walk() if c.tag in ("th", "td")] for row in rows]


def test_numbers_are_those_of_the_json(tree):
    tables = find(tree, "results").all("table")
    assert [table.all("caption")[0].words.partition(".")[0] for table in tables] == [
        "Word error rate (%)",
        "Character error rate (%)",
    ]
    names = [*SETS, "mean_ood"]
    for table, metric in zip(tables, ("wer", "cer")):
        expected = {(r["system"], r["set"]): r for r in result_rows() if r["metric"] == metric}
        shown = {}
        for line in table.all("tbody")[0].all("tr"):
            for name, cell in zip(names, line.all("td")):
                shown[line.attrs["data-system"], name] = cell
        assert shown.keys() == expected.keys()
        for key, cell in shown.items():
            entry = expected[key]
            assert float(cell.attrs["data-value"]) == entry["value"]
            assert cell.words.split()[0].startswith(f"{entry['value']:.2f}")
            if "low" in entry:
                assert f"{entry['low']:.2f} to {entry['high']:.2f}" in cell.words
            else:
                assert " to " not in cell.words
        for i in range(len(names)):
            column = [line.all("td")[i] for line in table.all("tbody")[0].all("tr")]
            values = [float(cell.attrs["data-value"]) for cell in column]
            bold = [bool(cell.all("strong")) for cell in column]
            assert bold == [value == min(values) for value in values]
    (link,) = [a for a in tree.all("a") if "download" in a.attrs]
    data = base64.b64decode(link.attrs["href"].partition("base64,")[2])
    assert json.loads(data) == result_rows()


def test_headings_of_columns(tree):
    heads = find(tree, "results").all("table")[0].all("thead")[0].all("th")
    assert [h.all("span", "label")[0].words for h in heads[1:]] == [
        *("test_id (ID)", "test_noise (OOD)", "test_far (OOD)", "OOD macro mean")
    ]
    assert [len(h.all("span", "mark")) for h in heads[1:]] == [0, 0, 1, 0]  # 150 words
    assert "12,000 words" in heads[1].words and "normaliser none" in heads[1].words


def test_forest(tree):
    table = find(tree, "intervals").all("table")[0]
    ticks = [float(t.words) for t in table.all("svg", "axis")[0].all("text")]
    assert ticks == [0, 20, 40, 60, 80, 100]
    groups = table.all("tbody")
    assert len(groups) == 4
    lines = groups[1].all("tr")[1:]  # test_noise
    for line, system in zip(lines, VALUES):
        value, low, high = VALUES[system]["test_noise"]
        assert f"{value:.2f}" in line.words and f"{low:.2f} to {high:.2f}" in line.words
        (segment,) = line.all("line", "interval")
        assert float(segment.attrs["x1"].rstrip("%")) == pytest.approx(low, abs=0.01)
        assert float(segment.attrs["x2"].rstrip("%")) == pytest.approx(high, abs=0.01)
        point = line.all("path", "point")[0].parent
        assert float(point.attrs["x"].rstrip("%")) == pytest.approx(value, abs=0.01)
        (base,) = line.all("line", "base")
        assert base.attrs["x1"] == "8.75%"  # of lora
    assert "An arrow at the right edge" in find(tree, "intervals").words


def test_errors_and_confusions(tree):
    lines = find(tree, "errors").all("table", "errors")[0].all("tbody")[0].all("tr")
    assert len(lines) == 9
    nasty = len(NASTY.split())
    words = nasty + 2 + 3 + 2 + 1
    ctc = next(line for line in lines if "CTC" in line.words)
    # tree for three; one word left out
    assert [float(c.attrs["data-value"]) for c in ctc.all("td") if "data-value" in c.attrs] == (
        pytest.approx([words, 100 / words, 100 / words, 0, 200 / words])
    )
    lists = find(tree, "errors").all("details")[0]
    assert lists.all("summary")[0].words == "CTC"
    substituted, left_out, put_in = lists.all("table")
    assert cells(substituted) == [["three", "tree", "3"]]  # once in each of three sets
    assert cells(left_out) == [["بك", "3"]]
    assert cells(put_in) == [["none"]]


def utterance(tree, set_name, utt):
    section = find(tree, "utterances")
    set_now = None
    for node in section.children:
        if isinstance(node, Node) and node.tag == "h3":
            set_now = node.words
        if isinstance(node, Node) and node.tag == "details" and set_now == set_name:
            if node.all("span", "id")[0].words == utt:
                return node
    raise AssertionError(f"{utt} of {set_name} is not shown")


def test_worst_utterances(tree):
    node = utterance(tree, "test_id", "u4")
    assert "up to 400 errors on 1 word among the worst of" in node.all("summary")[0].words
    ctc, lora, soft = node.all("div", "hyp")
    assert ctc.all("p", "diff") == []  # nothing wrong
    assert lora.all("span", "raw")[0].words == "empty"
    assert [d.words for d in lora.all("del")] == ["seven"]
    assert lora.all("p", "diff")[0].attrs["aria-label"] == "Errors: “seven” left out"
    diff = soft.all("p", "diff")[0]
    assert [d.words for d in diff.all("ins")] == ["go"] * 13 and " go 387 more seven" in diff.words
    (diff,) = utterance(tree, "test_noise", "u2").all("div", "hyp")[2].all("p", "diff")
    assert [[cell.words for cell in pair.all("span")] for pair in diff.all("span", "pair")] == [
        *(["one", "one"], ["", "uh"], ["two", "two"], ["three", "three"])
    ]
    assert diff.attrs["aria-label"] == "Errors: “uh” put in"


def test_audio(tree):
    audio = utterance(tree, "test_id", "u2").all("audio")[0]
    kind, _, data = audio.attrs["src"].partition(";base64,")
    assert kind in ("data:audio/mpeg", "data:audio/wav")
    assert audio.attrs["aria-label"] == "Audio of u2"
    assert len(base64.b64decode(data)) > 500
    assert utterance(tree, "test_id", "u4").all("audio") == []
    assert "wav/none.wav: audio file not found" in utterance(tree, "test_id", "u4").words
    assert utterance(tree, "test_far", "u2").all("audio") == []
    missing = find(tree, "missing").words
    assert "Audio of test_far: dump/test_far/wav.scp: not there" in missing
    assert "Audio of u4 (test_id): wav/none.wav: audio file not found" in missing


def test_words_with_times(tree):
    shown = utterance(tree, "test_id", "u2").all("span", "timed")[0]
    words = [(w.text, w.attrs["data-start"], w.attrs["data-end"]) for w in shown.all("span", "word")]
    assert words == [("one", "0.05", "0.15"), ("two", "0.2", "0.3"), ("three", "0.3", "0.55")]
    assert shown.words == "one two three"
    assert utterance(tree, "test_noise", "u2").all("span", "timed") == []
    assert "Word times of test_far: dump/test_far/words.ctm" in find(tree, "missing").words


def test_who_wins_how_often(tree):
    """By hand, in each of three sets: errors of CTC 0 1 1 0, of LoRA n 1 0 1, of soft n 1 2 400."""
    section = find(tree, "compare")
    assert "of the 12 utterances" in section.words
    assert [row[1:] for row in cells(section)] == [["", "6", "9"], ["3", "", "6"], ["0", "0", ""]]
    heads = [head.attrs["data-name"] for head in section.all("thead")[0].all("th")[1:]]
    assert heads == list(VALUES) == [row.attrs["data-system"] for row in section.all("tbody")[0].all("tr")]


def test_numbers_that_disagree_are_announced(tree):
    # The rates in results.json of this experiment are made up.
    warning = tree.all("section", "warning")[0].words
    assert "ctc on test_id: the hypotheses have a word error rate of" in warning
    assert "results.json says 9.50. Score again." in warning


def test_training_figures_derailments_environment(tree):
    (panel,) = find(tree, "training").all("figure")
    assert panel.all("figcaption")[0].words == 'start-<i>&"'
    assert cells(panel) == [["1", "2.5", "3"], ["2", "1.25", "nan"]]
    (image,) = find(tree, "figures").all("img")
    assert image.attrs["src"].startswith("data:image/png;base64,iVBOR")
    assert find(tree, "figures").all("figcaption")[0].words == "<u> nearest"
    derailments = find(tree, "derailments")
    assert cells(derailments) == [[LABEL, "2of 4", "1", "0", "0", "0", "1"]]
    (details,) = derailments.all("details")
    assert cells(details) == [["test_id", "1", "0", "0", "0", "1", "2", "4", "7.12", "1.00"]]
    loop, prompt = details.all("div", "hyp")
    assert [n.words for n in loop.all("span", "id") + loop.all("span", "mark")] == ["u4", "loop"]
    raw = [n.words for n in loop.all("span", "raw")]
    assert raw == ["seven", ("go " * 100).strip() + " … (900 more characters)"]
    assert prompt.all("span", "raw")[1].text == f"five {SCRIPT}"
    environment = find(tree, "environment")
    assert [d.words for d in environment.all("dd")] == ["0123456789" * 4, NASTY]
    assert "commit: 0123456789 01" not in tree.all("header")[0].words
    assert "commit: 012345678901…" in tree.all("header")[0].words


def test_transcripts_stay_text(tree, page):
    assert tree.all("title")[0].text == f"Title {SCRIPT}: results"
    node = utterance(tree, "test_id", UTT)
    assert node.all("span", "raw")[0].text == f"five {NASTY} six"
    soft = node.all("div", "hyp")[2]
    assert soft.all("b")[0].text == LABEL
    assert soft.all("span", "raw")[0].text == f"five {SCRIPT}"
    assert f"“{NASTY.split()[-1]}” left out" in soft.all("p", "diff")[0].attrs["aria-label"]
    assert "</pre>" in find(tree, "environment").all("pre")[0].text
    # only our own script, style and pictures; what else is in script elements is no script
    own, *rest = sorted(tree.all("script"), key=lambda node: "type" in node.attrs)
    assert len(tree.all("style")) == 1
    assert [node.attrs["type"] for node in rest] == ["application/json", *["text/plain"] * 3]
    assert not any("<" in node.text for node in rest)
    assert len(tree.all("img")) == 1
    source = Path(report.__file__).parents[1] / "report"
    assert own.text == (source / "page.js").read_text()
    assert tree.all("style")[0].text == (source / "page.css").read_text()
    for node in tree.walk():
        for name in node.attrs:
            assert not name.startswith("on"), f"<{node.tag}> has {name}"
            assert name != "style"
    text = page.read_text(encoding="utf-8")
    assert "\x08" not in text and "x\ufffdy" in text


def test_page_needs_nothing_from_outside(tree, page):
    for node in tree.walk():
        for name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
            value = node.attrs.get(name, "#")
            assert value.startswith(("#", "data:")), f"<{node.tag} {name}={value[:50]}>"
    css = tree.all("style")[0].text
    assert re.findall(r"url\((.*?)\)", css) == ["#hatch"]
    assert "@import" not in css
    assert not re.search(r"https?://", page.read_text(encoding="utf-8"))


def test_page_forbids_all_but_itself(tree):
    (policy,) = [m.attrs["content"] for m in tree.all("meta") if "http-equiv" in m.attrs]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = [node.text for node in tree.all(tag) if "type" not in node.attrs]
        digest = hashlib.sha256(text.encode()).digest()
        assert rules[name] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert rules["img-src"] == rules["media-src"] == "data:"


def test_structure_for_screen_readers(tree):
    (root,) = tree.all("html")
    assert root.attrs["lang"] == "en"
    levels = [int(n.tag[1]) for n in tree.walk() if re.fullmatch("h[1-6]", n.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:])), "a level of headings is skipped"
    assert len(tree.all("main")) == 1
    ids = [n.attrs["id"] for n in tree.walk() if "id" in n.attrs]
    assert len(set(ids)) == len(ids)
    for node in tree.walk():
        if node.tag == "a" and node.attrs["href"].startswith("#"):
            assert node.attrs["href"][1:] in ids
        if "aria-labelledby" in node.attrs:
            assert node.attrs["aria-labelledby"] in ids
    for table in tree.all("table"):
        assert len(table.all("caption")) == 1
        width = None
        for line in table.all("tr"):
            cells = [c for c in line.children if isinstance(c, Node)]
            columns = sum(int(cell.attrs.get("colspan", 1)) for cell in cells)
            assert columns == (width := width or columns)
    for head in tree.all("th"):
        assert head.attrs["scope"] in ("col", "row", "rowgroup")
    for image in tree.all("img"):
        assert image.attrs["alt"]
    for svg in tree.all("svg"):
        inside = svg.parent.tag == "svg"
        hidden = svg.attrs.get("aria-hidden") == "true"
        assert inside or hidden or (svg.attrs.get("role") == "img" and svg.attrs["aria-label"])
    for details in tree.all("details"):
        first = next(c for c in details.children if isinstance(c, Node))
        assert first.tag == "summary"
    for box in (n for n in tree.walk() if "scroll" in n.attrs.get("class", "").split()):
        assert box.attrs["tabindex"] == "0" and box.attrs["aria-label"]  # for the keyboard
    (viewport,) = [m for m in tree.all("meta") if m.attrs.get("name") == "viewport"]
    assert "width=device-width" in viewport.attrs["content"]


def luminance(colour):
    """Relative luminance as WCAG 2.1 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast(tree):
    css = tree.all("style")[0].text
    schemes = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in css.split(":root {")[1:]]
    assert len(schemes) == 2
    assert schemes[0].keys() == schemes[1].keys()
    for colours in schemes:
        for ground in ("paper", "raised"):
            for ink in ("ink", "quiet", "link", "sub", "del", "ins", "point"):
                pair = sorted(luminance(colours[name]) for name in (ink, ground))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ink, ground, colours)
        pair = sorted(luminance(colours[name]) for name in ("ink", "warn"))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


def test_same_input_same_page(page):
    room = page.parents[2]
    before = page.read_bytes()
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-m", "espnet_llmvq", "report", *OPTIONS]
    environment["PYTHONPATH"] = str(Path(report.__file__).parents[2])
    subprocess.run(command, cwd=room, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert page.read_bytes() == before
    assert sorted(p.name for p in page.parent.iterdir()) == [".llmvq-written", "report.html"]


def test_numbers_alone(tmp_path, capsys):
    with pytest.raises(UserError, match=r"results\.json: not there; score the systems first: llmvq results"):
        report.main([f"--exp_dir={tmp_path}"])
    bare = [{"system": "a", "kind": "set", "set": "test", "domain": "", "metric": "bleu", "value": 30.5, "seed": 1}]
    seed = tmp_path / "seed2"
    seed.mkdir()
    (seed / "results.json").write_text(json.dumps(bare))
    report.main([f"--exp_dir={tmp_path}", f"--results_dir={seed}"])
    path = seed / "report" / "report.html"
    assert capsys.readouterr().out == f"written: {path}\n"
    tree = Tree(path.read_text(encoding="utf-8")).root
    assert find(tree, "results").all("caption")[0].words == "BLEU"
    assert find(tree, "results").all("td")[0].words == "30.50"
    notes = [item.words for item in find(tree, "missing").all("li")]
    for start in ("Intervals: ", "Errors and utterances: ", "Derailments: ", "Figures ", "Training: "):
        assert any(note.startswith(start) for note in notes), start
    assert any("RESULTS.md is not there" in note for note in notes)
    one = {"domain": "id", "text": "text"}
    table = {"systems": {"b": {"label": "B", "hypotheses": "hyp"}}, "sets": {"test": one}}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(UserError, match="unknown baseline 'b'"):
        report.main([f"--exp_dir={tmp_path}", f"--results_dir={seed}", f"--table={tmp_path / 'table.yaml'}"])


def test_media_without_room_are_named(page, tmp_path, monkeypatch):
    options = make_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    table = yaml.safe_load((tmp_path / "table.yaml").read_text())
    del table["sets"]["test_far"]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    report.main([*options, "--max_media_mib=0.0001", "--max_text_mib=0.0001", "--worst=1"])
    tree = Tree((tmp_path / "exp/report/report.html").read_text(encoding="utf-8")).root
    assert tree.all("audio") == [] and len(tree.all("img")) == 0
    notes = find(tree, "missing").words
    assert "Figure <u> nearest: left out, as media are limited to 0.0001 MiB (--max_media_mib)." in notes
    assert f"Audio of {UTT} (test_id): left out" in notes
    assert "Utterances of test_far: not among the sets given." in notes
    room = "left out, as they are limited to 0.0001 MiB (--max_text_mib)."
    assert f"Utterances of test_id, to compare: {room}" in notes
    assert [node.attrs["type"] for node in find(tree, "compare").all("script")] == ["application/json"]
    assert cells(find(tree, "compare"))[0][1:] == ["", "4", "6"]  # the counts are there
    assert len(find(tree, "utterances").all("details")) < 8


def test_a_system_alone_and_a_set_without_the_baseline(tmp_path, monkeypatch):
    options = make_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    rows = [row for row in result_rows() if (row["system"], row["set"]) != ("lora", "test_far")]
    (tmp_path / "exp/results.json").write_text(json.dumps(rows))
    report.main(options)
    tree = Tree((tmp_path / "exp/report/report.html").read_text(encoding="utf-8")).root
    lines = [body.all("line") for body in find(tree, "intervals").all("tbody")]
    assert ["base" in [line.attrs.get("class") for line in group] for group in lines] == [True, True, False, True]
    table = yaml.safe_load((tmp_path / "table.yaml").read_text())
    table["systems"] = {"lora": table["systems"]["lora"]}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    report.main([*options, "--max_text_mib=0"])
    tree = Tree((tmp_path / "exp/report/report.html").read_text(encoding="utf-8")).root
    assert "to compare" not in find(tree, "missing").words  # with what?
    for value in ("nan", "-1", "inf"):
        with pytest.raises(UserError, match="max_text_mib is .*; it must be 0 or more"):
            report.main([*options, f"--max_text_mib={value}"])


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    programs, missing = webdriver.find_programs()
    if missing:
        pytest.skip(f"{' and '.join(missing)} not on PATH")
    window = webdriver.Browser(programs, tmp_path_factory.mktemp("browser"))
    yield window
    window.close()


@pytest.fixture
def opened(browser, page):
    browser.emulate(1280, 900)
    browser.open(page.as_uri())
    yield browser
    assert browser.messages() == [], "there are messages on the console"


ORDER = "return Array.from(document.querySelectorAll('#results tbody')[0].rows, r => r.dataset.system)"
SORTED = "return Array.from(document.querySelectorAll('#results thead')[0].rows[0].cells, c => c.ariaSort)"


def test_sort_by_click(opened):
    assert opened.run(ORDER) == list(VALUES)
    assert opened.run(SORTED) == ["none"] * 5
    for i, name in enumerate(SETS, 2):
        up = sorted(VALUES, key=lambda system, name=name: VALUES[system][name][0])
        button = f"#results table.sortable th:nth-child({i}) button"
        opened.click(button)
        assert opened.run(ORDER) == up
        assert opened.run(SORTED) == ["none"] * (i - 1) + ["ascending"] + ["none"] * (5 - i)
        opened.click(button)
        assert opened.run(ORDER) == up[::-1]
        assert opened.run(SORTED)[i - 1] == "descending"
    opened.click("#results table.sortable th:nth-child(1) button")
    assert opened.run(ORDER) == sorted(VALUES, key=lambda system: LABELS[system].lower())
    # the other table stays as it was
    assert opened.run(ORDER.replace("[0]", "[1]")) == list(VALUES)


def test_numbers_on_the_screen(opened):
    script = """return Array.from(document.querySelectorAll('#results tbody')[0].rows,
        r => [r.dataset.system, Array.from(r.cells).slice(1).map(c => c.innerText)])"""
    found = dict(opened.run(script))
    assert found.keys() == VALUES.keys()
    for system, cells in found.items():
        *cells, mean = cells
        total = sum(VALUES[system][name][0] for name, domain in SETS.items() if domain == "ood")
        assert mean.split("\n")[0].split()[0] == f"{total / 2:.2f}"
        assert len(cells) == len(VALUES[system])
        for (value, low, high), cell in zip(VALUES[system].values(), cells):
            assert cell.split("\n")[0].split() in ([f"{value:.2f}"], [f"{value:.2f}", "best"])
            assert cell.split("\n")[-1] == f"{low:.2f} to {high:.2f}"


def test_expand_a_diff(opened):
    visible = "return document.querySelector('.utterance .diff').checkVisibility()"
    assert opened.run(visible) is False
    opened.click(".utterance summary")
    assert opened.run(visible) is True
    assert opened.run("return document.querySelector('.utterance').open") is True
    # upper and lower line of a pair stand in one column, one above the other
    upper, lower = opened.run("""return Array.from(document.querySelector('.utterance .pair.sub, .utterance .pair.del')
        .children, c => { const r = c.getBoundingClientRect(); return [r.left, r.top, r.bottom]; })""")
    assert upper[0] == lower[0] and upper[2] <= lower[1]
    opened.click(".utterance summary")
    assert opened.run(visible) is False


def test_foreign_scripts_and_the_network_are_blocked(browser, page):
    browser.open(page.as_uri())
    run = """const s = document.createElement('script'); s.textContent = 'window.pwned = 1';
        document.body.append(s); return window.pwned === undefined"""
    assert browser.run(run) is True
    fetch = """return new Promise(answer => {
        document.addEventListener('securitypolicyviolation', e => answer(e.effectiveDirective));
        const image = new Image();
        image.onload = image.onerror = () => setTimeout(() => answer('no violation'), 1000);
        image.src = 'http://127.0.0.1:9/x.png'; })"""
    assert browser.run(fetch) == "img-src"
    messages = browser.messages()
    assert len(messages) == 2 and all("Content Security Policy" in m for m in messages)


def test_audio_plays(opened):
    duration = "const a = document.querySelector('audio'); a.preload = 'auto'; a.load(); return a.duration"
    opened.run(duration)
    for _ in range(100):
        found = opened.run("return document.querySelector('audio').duration")
        if found:
            break
        time.sleep(0.1)
    assert found == pytest.approx(0.6, abs=0.15)


PAIR = """return Array.from(document.querySelectorAll('#pair tbody tr'),
    r => Array.from(r.cells).map(c => c.innerText.trim()))"""
FOUND = """return Array.from(document.querySelectorAll('.found li'), li => [li.querySelector('.id').innerText,
    li.querySelector('.fact').innerText, ...Array.from(li.querySelectorAll('.side'), side => [
        side.querySelector('.fact').innerText, !!side.querySelector('.mark'),
        Array.from(side.querySelectorAll('.pair > :nth-child(2)'), word => word.textContent).filter(Boolean).join(' ')
    ])])"""


def focus_and_press(browser, script, key):
    browser.run(f"{script}.focus()")
    browser.press(key)


@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_compare_two_systems(browser, page, width, dark):
    browser.emulate(width, 900, dark)
    browser.open(page.as_uri())
    cell = "document.querySelector('#compare tbody').rows[0].cells[2].querySelector('button')"
    assert browser.run(f"return {cell}.innerText") == "6"
    focus_and_press(browser, cell, "Enter")  # CTC against LoRA
    found = browser.wait_for(FOUND)
    assert browser.run(PAIR)[:2] == [["all sets", "6", "3", "3", "6", str(3 * (len(NASTY.split()) + 2))],
                                     ["test_id", "2", "1", "1", "2", str(len(NASTY.split()) + 2)]]  # fmt: skip
    n = len(NASTY.split())
    assert [one[:2] for one in found] == [
        *[[UTT, f"{name}, {n + 2} words"] for name in SETS], *[["u4", f"{name}, 1 word"] for name in SETS]
    ]  # fmt: skip
    assert found[0][2:] == [["0 errors", True, f"five {NASTY} six"], [f"{n} errors", False, "five nine six"]]
    assert found[3][2:] == [["0 errors", True, "seven"], ["1 error", False, ""]]
    assert browser.run("return document.activeElement.innerText").startswith(
        "CTC has fewer errors than SLAM-ASR + LoRA"
    )
    sides = browser.run("return Array.from(document.querySelectorAll('.side'), s => s.getBoundingClientRect().top)")
    assert (sides[0] == sides[1]) == (width > 600)  # side by side, or one below the other
    assert browser.run("return document.documentElement.scrollWidth") == width
    colour = "return getComputedStyle(document.querySelector('.found del')).color"
    assert browser.run(colour) == ("rgb(243, 154, 154)" if dark else "rgb(165, 34, 42)")
    assert browser.run("return document.querySelector('.found .diff').ariaLabel").startswith("No errors: five ")
    # the audio of the worst utterances is here too
    assert browser.run("return document.querySelector('.found audio').src.slice(0, 11)") == "data:audio/"
    # where the other wins, and where both have as many errors
    browser.click("#pair tbody tr:nth-child(3) td:nth-child(3) button")
    browser.wait_for("return document.querySelector('.found li .id').innerText === 'u3'")
    assert [one[:2] for one in browser.run(FOUND)] == [["u3", "test_noise, 2 words"]]
    browser.click("#pair tbody tr:nth-child(1) td:nth-child(4) button")
    browser.wait_for("return document.querySelector('.found li .id').innerText === 'u2'")
    assert [one[2:] for one in browser.run(FOUND)] == [
        [["1 error", False, "one two tree"], ["1 error", False, "one two"]]
    ] * 3
    # other systems by the lists, by keyboard
    focus_and_press(browser, "document.querySelectorAll('#pair select')[1]", "Down")
    assert browser.run(PAIR)[0] == ["all sets", "9", "0", "3", "6", f"{3 * (n + 403):,}"]
    assert browser.run("return document.querySelector('.found').childElementCount") == 0
    browser.click("#pair tbody td:nth-child(2) button")
    browser.wait_for("return document.querySelector('.found li')")
    loop = browser.run(FOUND)[0]
    assert loop[0] == "u4" and loop[3] == ["400 errors", False, "go " * 12 + "387 more go"]
    # nothing of it was taken for markup
    assert browser.run("return document.title") == f"Title {SCRIPT}: results"
    assert browser.run("return document.querySelectorAll('#compare img, #compare li script').length") == 0
    assert browser.messages() == []


def test_sets_that_are_left_out_are_named(browser, tmp_path, monkeypatch):
    options = make_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    report.main([*options, "--max_text_mib=0.001"])
    browser.emulate(1280, 900)
    browser.open((tmp_path / "exp/report/report.html").as_uri())
    browser.click("#compare tbody button")
    said = browser.wait_for("const p = document.querySelector('.found p'); return p && p.innerText")
    assert "Not in this page, for want of room (--max_text_mib): test_" in said
    assert browser.messages() == []


def test_long_lists_are_shown_in_parts(browser, tmp_path, monkeypatch):
    for name, text in (("text", "one two"), ("a", "one two"), ("b", "one")):
        (tmp_path / name).write_text("".join(f"u{i:02d} {text}\n" for i in range(45)))
    (tmp_path / "exp").mkdir()
    rows = [{**entry, "set": "x", "system": system} for system in "ab" for entry in result_rows()[:1]]
    (tmp_path / "exp/results.json").write_text(json.dumps(rows))
    systems = {system: {"label": system.upper(), "hypotheses": system} for system in "ab"}
    table = {"systems": systems, "sets": {"x": {"domain": "id", "text": "text"}}, "normaliser": "none"}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    monkeypatch.chdir(tmp_path)
    report.main(["--table=table.yaml"])
    browser.emulate(390, 844)
    browser.open((tmp_path / "exp/report/report.html").as_uri())
    browser.click("#compare tbody button")
    browser.wait_for("return document.querySelectorAll('.found li').length === 20")
    assert browser.run("return document.querySelector('.found > button').innerText") == "Show 20 more of 25"
    focus_and_press(browser, "document.querySelector('.found > button')", "Enter")
    assert browser.run("return document.activeElement.querySelector('.id').innerText") == "u20"
    browser.click(".found > button")
    ids = browser.run("return Array.from(document.querySelectorAll('.found .id'), id => id.innerText)")
    assert ids == [f"u{i:02d}" for i in range(45)]
    assert browser.run("return document.querySelector('.found > button').checkVisibility()") is False
    assert browser.messages() == []


def test_a_word_plays_from_its_place(opened):
    opened.run("document.querySelector('.timed').closest('details').open = true")
    words = opened.run("return Array.from(document.querySelectorAll('.timed button'), w => w.innerText)")
    assert words == ["one", "two", "three"]
    # What is marked is noted, as a word is soon over.
    opened.run("""window.marked = [];
        new MutationObserver(all => all.forEach(m => { if (m.target.classList.contains('now')) {
            const audio = document.querySelector('.timed').closest('details').querySelector('audio');
            window.marked.push([m.target.innerText, audio.currentTime]); } }))
        .observe(document.querySelector('.timed'), { attributes: true, subtree: true })""")
    opened.click(".timed button:nth-of-type(2)")
    opened.wait_for("return window.marked.some(([word]) => word === 'three')")
    marked = opened.run("return window.marked")
    assert marked[0][0] == "two" and 0.19 <= marked[0][1] < 0.3
    assert {word for word, _ in marked} == {"two", "three"}
    opened.wait_for("return !document.querySelector('.timed .now')")


def test_all_parts_open_and_close(opened):
    state = "return Array.from(new Set(Array.from(document.querySelectorAll('details'), d => d.open)))"
    opened.click(".tools button")
    assert opened.run(state) == [True]
    opened.click(".tools button")
    assert opened.run(state) == [False]


@pytest.mark.parametrize("width", [1000, 700])
def test_on_paper(browser, page, width):
    """Landscape and portrait: in dark ink, nothing that scrolls, nothing cut off, no controls."""
    browser.emulate(width, 700, dark=True)
    browser.open(page.as_uri())
    browser.click("#compare tbody button")
    browser.wait_for("return document.querySelector('.found li')")
    browser.click(".tools button")
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.devtools("Emulation.setEmulatedMedia", {"media": "print", "features": [dark]})
    try:
        assert browser.run("return document.documentElement.scrollWidth") <= width
        cut = browser.run("""return Array.from(document.querySelectorAll('th, td, p, .pair'))
            .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.innerText)""")
        assert cut == []
        seen = "return document.querySelector(arguments[0]).checkVisibility()"
        assert [browser.run(seen, part) for part in ("nav", "audio", "select", ".found li", ".utterance .diff")] == [
            *(False, False, False, True, True)
        ]
        assert browser.run("return getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        pdf = base64.b64decode(browser.devtools("Page.printToPDF", {"preferCSSPageSize": True})["data"])
        assert pdf.startswith(b"%PDF")
    finally:
        browser.devtools("Emulation.setEmulatedMedia", {"media": "", "features": [dark]})


@pytest.mark.parametrize("dark", [False, True])
def test_phone(browser, page, dark):
    browser.emulate(360, 740, dark)
    browser.open(page.as_uri())
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    # text in drawings is not shrunk away; the wide table scrolls in its own box
    heights = browser.run("""return Array.from(document.querySelectorAll('svg text'),
        t => t.getBoundingClientRect().height)""")
    assert min(heights) > 9
    assert browser.run("""const box = document.querySelector('#results .scroll');
        return box.scrollWidth > box.clientWidth""")
    # its first column stays in sight
    assert (
        browser.run("""const box = document.querySelector('#results .scroll'); box.scrollLeft = 150;
        const edge = box.getBoundingClientRect().left;
        return Array.from(box.querySelectorAll('tr'), r => r.cells[0].getBoundingClientRect().left - edge)""")
        == [0] * 4
    )
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert browser.messages() == []
