"""The demo page in a headless browser: load, microphone, file, result, what goes wrong, two users, keyboard, widths."""

import threading

import numpy as np
import pytest
import soundfile
import webdriver

pytest.importorskip("starlette", reason="the extra `demo` is not installed")
pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")

from conftest import WORDS, tones  # noqa: E402
from test_demo import Slow, serving  # noqa: E402

from espnet_llmvq.demo.system import DemoSystem  # noqa: E402

FAKE_MICROPHONE = ("--use-fake-device-for-media-stream",)  # it beeps
READY = "return document.documentElement.dataset.ready"
SHOWN = "return !document.getElementById('result').hidden && document.getElementById('about').textContent"
PROBLEM = "const p = document.getElementById('problem'); return !p.hidden && p.textContent"
STATUS = "return document.getElementById('status').textContent"


@pytest.fixture(scope="module")
def systems(packed_dir):
    """The same packed system twice, to switch between: the second keeps what the CTC head wrote, which is in words."""
    copied = {"num_beams": 1, "draft": "ctc", "draft_accept": 0.0}
    return DemoSystem(packed_dir, "beam"), DemoSystem(packed_dir, "copied", **copied)


@pytest.fixture(scope="module")
def address(systems):
    with serving(*systems, max_seconds=4.0) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def new_browser(tmp_path_factory):
    """Function: a new browser."""
    programs, missing = webdriver.find_programs()
    if missing:
        pytest.skip(f"{' and '.join(missing)} not on PATH")
    windows = []

    def make():
        windows.append(webdriver.Browser(programs, tmp_path_factory.mktemp("browser"), FAKE_MICROPHONE))
        return windows[-1]

    yield make
    for window in windows:
        window.close()


@pytest.fixture(scope="module")
def browser(new_browser):
    return new_browser()


@pytest.fixture
def opened(browser, address):
    browser.emulate(1280, 900)
    browser.open(address)
    browser.wait_for(READY)
    yield browser
    assert browser.messages() == [], "there are messages on the console"


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Two sound files of seven words and about a second, in which even a random system hears some."""
    room = tmp_path_factory.mktemp("waves")
    for name, seed in (("one", 1), ("two", 2)):
        rng = np.random.default_rng(seed)
        soundfile.write(room / f"{name}.wav", tones(list(rng.choice(WORDS, 7)), rng), 16000, subtype="PCM_16")
    return str(room / "one.wav"), str(room / "two.wav")


@pytest.fixture
def wave(waves):
    return waves[0]


def words_on_page(browser):
    return browser.run("""return Array.from(document.querySelectorAll('#spoken button'),
        b => [b.firstChild.textContent, Number(b.dataset.start), Number(b.dataset.end)])""")


def test_load(opened, systems):
    assert opened.run("return document.title") == "What the LLM heard"
    assert opened.run("return document.getElementById('limits').textContent").startswith("Up to 4 s and 20 MB: WAV,")
    assert opened.run("return Array.from(document.querySelectorAll('#systems label'), l => l.innerText.trim())") == [
        "Soft-VQ beam, soft bridge, k=5", "Soft-VQ copied, soft bridge, k=5",
    ]  # fmt: skip
    assert opened.run(SHOWN) is False and opened.run(PROBLEM) is False
    assert opened.run("return document.getElementById('words').value") == "one\nnine nine"
    # Nothing was loaded but from its own server.
    loaded = opened.run("return performance.getEntriesByType('resource').map(e => e.name)")
    origin = opened.run("return location.origin")
    assert len(loaded) == 4 and all(name.startswith(origin) for name in loaded)


def test_a_file_and_its_result(opened, systems, wave):
    expected = systems[0].hear(wave)
    opened.choose("#file", wave)
    about = opened.wait_for(SHOWN)
    assert about == f"one.wav, {expected['duration']:.2f} s, heard by Soft-VQ (soft bridge, k=5)"
    (segment,) = expected["segments"]
    assert opened.run("return document.getElementById('text').innerText.trim()") == segment["text"]
    assert opened.run("return document.getElementById('draft').innerText.trim()") == segment["draft"]
    assert words_on_page(opened) == [list(word) for word in segment["words"] or []]
    for op, column, selector in (
        ("D", 1, "#draft del"),
        ("I", 2, "#text ins"),
        ("S", 1, "#draft .sub"),
        ("S", 2, "#text .sub"),
    ):
        marked = opened.run("return Array.from(document.querySelectorAll(arguments[0]), e => e.textContent)", selector)
        assert marked == [pair[column] for pair in segment["differences"] if pair[0] == op]
    count = sum(pair[0] != "=" for pair in segment["differences"])
    assert count and opened.run("return document.getElementById('differ').textContent").startswith(f"{count} differen")
    rows = opened.run("""const text = (cell, css) => cell.querySelector(css).textContent;
        return Array.from(document.querySelectorAll('#steps tbody tr'), r => [r.cells[0].textContent,
            Array.from(r.cells).slice(1).map(c => [text(c, '.token'), text(c, '.number')])])""")
    assert rows == [
        [f"{at:.2f}", [[token, f"{weight:.2f}" if weight else "–"] for token, _, weight in tokens]]
        for at, tokens in segment["steps"]
    ]
    # The waveform has as many parts as there are, each from its lowest to its highest sample.
    path = opened.run("return document.querySelector('#wave path').getAttribute('d')")
    assert path.count("L") == 4 * len(expected["peaks"]) - 1
    assert opened.run(STATUS) == f"Done: {segment['text']}"


def test_words_listened_for(opened, systems, wave):
    """Whatever the case and the signs around them; phrases too."""
    (segment,) = systems[1].hear(wave)["segments"]
    text, draft = segment["text"].split(), segment["draft"].split()
    assert len(text) == len(segment["words"]) > 3 and draft[-1] not in text  # which was cut off
    opened.click("#systems label:nth-of-type(2) input")
    opened.choose("#file", wave)
    opened.wait_for(SHOWN)
    wanted = [f"{text[0].upper()}!", f"{text[0]} {text[1]}", f"{text[1]} {text[0]}", draft[-1].strip(";"), "metformin"]
    opened.run(
        "const box = document.getElementById('words'); box.value = arguments[0]; box.dispatchEvent(new Event('input'))",
        "\n".join(wanted),
    )
    found = opened.run("return Array.from(document.querySelectorAll('#listened li'), l => [l.className, l.innerText])")
    assert [css for css, _ in found] == ["heard", "heard", "missed", "drafted", "missed"]
    at = f"{segment['words'][0][1]:.2f} s"
    assert found[0][1] == f"✓{wanted[0]}: heard at {at}" and found[1][1] == f"✓{wanted[1]}: heard at {at}"
    assert found[3][1] == f"~{wanted[3]}: in the CTC draft alone"
    assert found[4][1] == "✗metformin: not heard"


def test_systems_are_switched(opened, systems, wave):
    opened.choose("#file", wave)
    opened.wait_for(SHOWN)
    texts = {}
    for i, system in enumerate(systems):
        opened.click(f"#systems label:nth-of-type({i + 1}) input")
        opened.wait_for(SHOWN)
        texts[system.name] = opened.wait_for("return document.getElementById('text').innerText.trim()")
        assert texts[system.name] == system.hear(wave)["text"]
    assert len(set(texts.values())) == 2


def test_a_wrong_file_is_told_and_the_next_one_is_heard(opened, wave, tmp_path):
    (tmp_path / "notes.wav").write_text("<b>this</b> is no sound\n" * 50)
    opened.choose("#file", tmp_path / "notes.wav")
    assert opened.wait_for(PROBLEM).startswith("notes.wav: cannot be read as audio")
    assert opened.run(SHOWN) is False and opened.run(STATUS) == ""
    soundfile.write(tmp_path / "long.wav", np.zeros(5 * 8000), 8000)
    opened.choose("#file", tmp_path / "long.wav")
    told = opened.wait_for(
        "const p = document.getElementById('problem'); return !p.hidden && p.innerText.match(/^long.*/)"
    )
    assert told[0].startswith("long.wav: the recording has 5.0 s, and this page takes up to 4 s")
    opened.choose("#file", wave)
    opened.wait_for(SHOWN)
    assert opened.run(PROBLEM) is False
    # The browser tells of each status that is none of success.
    told = opened.messages()
    assert len(told) == 2 and all("hear?system=beam" in message and "status of 4" in message for message in told)


def test_a_file_that_is_too_large_is_not_sent(opened):
    opened.run("settings.max_mb = 0.001; take(new Blob([new Uint8Array(2000)]), 'big.wav')")
    assert opened.wait_for(PROBLEM) == "big.wav: larger than 0.001 MB; choose a shorter or compressed one."


def permission(browser, address, setting):
    browser.devtools(
        "Browser.setPermission",
        {"permission": {"name": "microphone"}, "setting": setting, "origin": address.rstrip("/")},
    )


def test_microphone(opened, address):
    permission(opened, address, "granted")
    opened.click("#record")
    stopped = """const button = document.getElementById('record');
        if (!recording || recording.samples < 96000) return false;
        const said = [button.innerText.trim(), document.getElementById('clock').textContent];
        button.click(); return said;"""
    opened.run(
        "window.ended = null; const at = setInterval(() => { ended = (() => {"
        + stopped
        + """})();
        if (ended) clearInterval(at); }, 10)"""
    )  # not from here, which may be slow
    about = opened.wait_for(SHOWN)
    name, clock = opened.run("return ended")
    assert name == "Stop" and clock.endswith(" of 4 s") and about.startswith("your recording, ")
    # The server heard as many samples as the page recorded, at the rate of the sound card.
    size, duration, rate = opened.run("""return sound.blob.arrayBuffer().then(b => { const v = new DataView(b);
        return [b.byteLength, shown.duration, v.getUint32(24, true)]; })""")
    assert duration == pytest.approx((size - 44) / 2 / rate, abs=1e-3) and 96000 / rate <= duration <= 4
    assert max(high for _, high in opened.run("return shown.peaks")) > 0.01  # the beeps, one a second
    assert opened.run("return document.getElementById('record').innerText.trim()") == "Record again"


def test_a_recording_ends_at_the_limit(opened, address):
    permission(opened, address, "granted")
    opened.click("#record")
    opened.wait_for(SHOWN)
    assert opened.run("return [shown.duration, recording]") == [pytest.approx(4, abs=1e-3), None]


def test_microphone_refused(opened, address, wave):
    permission(opened, address, "denied")
    opened.click("#record")
    assert opened.wait_for(PROBLEM).startswith("The microphone was refused. Allow it for this page")
    assert opened.run("return [document.getElementById('record').disabled, document.activeElement.id]") == [
        False,
        "record",
    ]
    assert opened.run("return document.getElementById('record').innerText.trim()") == "Record"
    opened.choose("#file", wave)
    opened.wait_for(SHOWN)
    assert opened.run(PROBLEM) is False
    permission(opened, address, "granted")


def test_no_microphone(browser, address):
    """Over plain http from another machine, browsers give none."""
    script = "Object.defineProperty(navigator, 'mediaDevices', {value: undefined})"
    added = browser.devtools("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    browser.open(address)
    browser.wait_for(READY)
    assert browser.run("return document.getElementById('record').disabled") is True
    assert "Browsers give the microphone to pages of localhost only" in browser.run("return document.body.innerText")
    browser.devtools("Page.removeScriptToEvaluateOnNewDocument", added)
    assert browser.messages() == []


def test_two_users(new_browser, browser, waves):
    """The second one is told of the first, and each gets the answer to its own sound."""
    slow = Slow()
    slow.hear = answers = Answers()
    with serving(slow) as port:
        users = [browser, new_browser()]
        for user in users:
            user.emulate(1280, 900)
            user.open(f"http://127.0.0.1:{port}/")
            user.wait_for(READY)
        first, second = users
        first.choose("#file", waves[0])
        first.wait_for("return document.getElementById('status').textContent.startsWith('Listening to one.wav')")
        second.choose("#file", waves[1])
        assert second.wait_for(f"const s = (() => {{ {STATUS} }})(); return s.startsWith('Waiting') && s") == (
            "Waiting: one recording is before yours."
        )
        answers.go.set()
        assert first.wait_for(SHOWN).startswith("one.wav") and second.wait_for(SHOWN).startswith("two.wav")
        assert [user.run("return shown.text") for user in users] == [*map(answers.text, waves)]
        assert first.messages() == second.messages() == []


class Answers:
    """In place of `DemoSystem.hear`: waits for `go`; the text says how long the sound is."""

    def __init__(self):
        self.go = threading.Event()

    def text(self, path):
        return f"{soundfile.info(path).frames} samples"

    def __call__(self, path):
        assert self.go.wait(60)
        segment = {"start": 0, "end": 1, "text": self.text(path), "at_limit": False, "words": None, "draft": None,
                   "differences": None, "steps": None}  # fmt: skip
        return {"duration": 1, "peaks": [[-1, 1]], "text": self.text(path), "segments": [segment]}


def test_the_server_ends(opened, wave, systems):
    """The page says so, and does not break."""
    with serving(*systems) as port:
        opened.open(f"http://127.0.0.1:{port}/")
        opened.wait_for(READY)
    opened.choose("#file", wave)
    assert "the page's server does not answer" in opened.wait_for(PROBLEM)
    assert all("ERR_CONNECTION_REFUSED" in message for message in opened.messages())


def test_by_keyboard(opened, wave):
    """All controls are reached in the order in which they stand, and words by arrows."""
    opened.choose("#file", wave)
    opened.wait_for(SHOWN)
    opened.click("h1")  # where Tab begins
    reached = []
    for _ in range(30):
        opened.press("Tab")
        name = opened.run("const e = document.activeElement; return e.id || e.name || e.tagName")
        if name == "BODY":
            break
        if name not in reached:
            reached.append(name)
    assert reached[:5] == ["record", "file", "system", "SUMMARY", "words"]
    assert [name for name in reached if name in ("player", "wave_scroll", "steps_scroll")] == [
        "player",
        "wave_scroll",
        "steps_scroll",
    ]
    words = words_on_page(opened)
    assert len(words) > 1
    at = "return Array.from(document.querySelectorAll('#spoken button')).indexOf(document.activeElement)"
    opened.run("document.querySelector('#spoken button').focus()")
    opened.press("Right")
    assert opened.run(at) == 1
    opened.press("End")
    assert opened.run(at) == len(words) - 1
    opened.press("Home")
    assert opened.run(at) == 0
    opened.run("""const player = document.getElementById('player'); window.from = null;
        player.addEventListener('seeking', () => { from ??= player.currentTime; })""")
    opened.press("End", "Enter")
    assert opened.wait_for("return from") == pytest.approx(words[-1][1], abs=0.3)
    # The step nearest to it is marked.
    marked = opened.run("return Array.from(document.querySelectorAll('#steps tr.now'), r => Number(r.dataset.at))")
    assert len(marked) == 1


def test_accessible_names(opened, wave):
    """Every control has a name that assistive programs can say, and no id is there twice."""
    opened.choose("#file", wave)
    opened.wait_for(SHOWN)
    opened.devtools("Accessibility.enable", {})
    nodes = opened.devtools("Accessibility.getFullAXTree", {})["nodes"]
    roles = (
        "button",
        "radio",
        "textbox",
        "region",
        "group",
        "Audio",
        "table",
        "image",
        "heading",
        "DisclosureTriangle",
        "meter",
    )
    found = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in roles and not node.get("ignored"):
            found.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert {"button", "radio", "textbox", "region", "table", "image", "heading"} <= found.keys()
    assert all(
        name.strip()
        for role in ("button", "radio", "textbox", "region", "table", "image", "heading")
        for name in found[role]
    ), found
    ids = opened.run("return Array.from(document.querySelectorAll('[id]'), e => e.id)")
    assert len(ids) == len(set(ids))
    live = opened.run("return [document.getElementById('status').role, document.getElementById('problem').role]")
    assert live == ["status", "alert"]


def test_scripts_of_others_and_other_servers_are_blocked(opened):
    assert opened.run("""const s = document.createElement('script');
        try { s.textContent = 'window.pwned = 1'; document.body.append(s); } catch (err) { return err.name; }
        return window.pwned""") == "TypeError"  # fmt: skip
    assert (
        opened.run("""return new Promise(answer => {
        document.addEventListener('securitypolicyviolation', e => answer(e.effectiveDirective));
        fetch('http://127.0.0.1:9/').catch(() => setTimeout(() => answer('no violation'), 1000)); })""")
        == "connect-src"
    )
    assert all("Content Security Policy" in m or "TrustedScript" in m for m in opened.messages())


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_widths(browser, address, wave, width, dark):
    browser.emulate(width, 844, dark)
    browser.open(address)
    browser.wait_for(READY)
    browser.choose("#file", wave)
    browser.wait_for(SHOWN)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    # Draft and text side by side where there is room.
    tops = browser.run(
        "return Array.from(document.querySelectorAll('#texts section'), s => s.getBoundingClientRect().top)"
    )
    assert (tops[0] == tops[1]) == (width > 600)
    # A finger hits what is to be pressed.
    assert browser.run("return document.getElementById('record').getBoundingClientRect().height") >= 44
    # No word lies over another.
    boxes = browser.run("""return Array.from(document.querySelectorAll('#spoken button'),
        b => { const r = b.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; })""")
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[1] or b[0] >= a[1] or a[2] >= b[3] or b[2] >= a[3]
    assert browser.messages() == []
