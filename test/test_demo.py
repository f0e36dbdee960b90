"""The demo page's server over HTTP: the answer is that of `Recogniser`, and what must be refused is."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import wait_for

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import demo as command
from espnet_llmvq.cli.parser import run
from espnet_llmvq.data.audio import read_audio

pytest.importorskip("starlette", reason="the extra `demo` is not installed")
pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")

from espnet_llmvq.demo.app import FILES, Limits, make_app  # noqa: E402
from espnet_llmvq.demo.guard import Guard, host_of  # noqa: E402
from espnet_llmvq.demo.serve import address_of, listen, server_of  # noqa: E402
from espnet_llmvq.demo.system import DemoSystem, differences, peaks, step_times  # noqa: E402

RATE = 16000


class Slow:
    """In place of a system: each recording takes until `go` is set; counts how many are heard at once."""

    name = label = "slow"
    bridge = "none"

    def __init__(self):
        self.go, self.now, self.most, self.heard = threading.Event(), 0, 0, []

    def hear(self, path):
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            assert self.go.wait(30)
            samples, _ = soundfile.read(path)
            self.heard.append(len(samples))
            return {"samples": len(samples)}
        finally:
            self.now -= 1


class Failing:
    name = label = "failing"
    bridge = "none"

    def hear(self, path):
        raise ZeroDivisionError("of the recogniser")


@contextlib.contextmanager
def serving(*systems, host="127.0.0.1", **limits):
    """The port of a page with these systems."""
    app = make_app({s.name: s for s in systems}, Limits(**limits), ["one", "nine nine"], host)
    server, sock = server_of(app), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def ask(port, method, path, body=None, **headers):
    """(status, headers, body) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def hear(port, data, path="/hear", **headers):
    """(status, objects of the answer)."""
    status, _, body = ask(port, "POST", path, data, **headers)
    return status, [json.loads(line) for line in body.splitlines()]


def sound(samples=RATE, rate=RATE):
    """A tone as bytes of a WAV file."""
    import io

    out = io.BytesIO()
    tone = 0.3 * np.sin(0.2 * np.arange(samples))
    soundfile.write(out, tone, rate, format="WAV", subtype="PCM_16")
    return out.getvalue()


@pytest.fixture(scope="module")
def system(packed_dir):
    return DemoSystem(packed_dir, "soft")


@pytest.fixture(scope="module")
def port(system):
    with serving(system, Failing(), max_mb=0.5, max_seconds=5.0) as found:
        yield found


def test_files_of_the_page(port):
    for address, (path, kind) in FILES.items():
        status, headers, body = ask(port, "GET", address)
        assert status == 200 and body == path.read_bytes()
        assert headers["content-type"] == f"{kind}; charset=utf-8"
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_nothing_comes_from_elsewhere():
    for path, _ in FILES.values():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(https?:)?//[\w.-]+\.\w|@import|url\(\s*['\"]?(?!#)", text), path.name
        assert "innerHTML" not in text and "style=" not in text


@pytest.mark.parametrize(
    "path",
    ["/app.py", "/../app.py", "/page.css/../app.py", "/..%2f..%2fsetup.py", "/%2e%2e/%2e%2e/setup.py", "//etc/passwd",
     "/../../../../../etc/passwd", "/page.html", "/report/page.css", "/page.css/", "/\\..\\app.py", "/%00"],
)  # fmt: skip
def test_no_other_file_can_be_asked_for(port, path):
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 30)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b'{"error":"there is nothing of that name here"}')


def test_settings(port):
    status, _, body = ask(port, "GET", "/settings")
    found = json.loads(body)
    assert status == 200 and found["systems"][0] == {
        "name": "soft", "label": "Soft-VQ", "bridge": "soft bridge, k=5",
    }  # fmt: skip
    assert (found["max_mb"], found["max_seconds"], found["words"]) == (0.5, 5.0, ["one", "nine nine"])


def test_the_answer_is_that_of_transcribe(system, port, packed_dir, corpus):
    """Text, times, draft: of the classes that transcribe and decode. Steps: those of the analysis."""
    from espnet_llmvq.analyse import collect, nearest
    from espnet_llmvq.decode.batches import Batches
    from espnet_llmvq.decode.ctc import greedy
    from espnet_llmvq.decode.generate import encoded

    names = [f"train{i:02d}" for i in range(6)]
    tokenizer = system.recogniser.tokenizer
    found = collect.collect(system.model, tokenizer, corpus.train, None, dict.fromkeys(names, " one"))
    drafts = {}
    for utts, batch in Batches(corpus.train, 1000, tokenizer, only=dict.fromkeys(names)):
        for utt, (hyp,) in zip(utts, greedy(system.model, encoded(system.model, batch))):
            drafts[utt] = tokenizer.decode(hyp.tokens, skip_special_tokens=True).strip()
    assert len(set(drafts.values())) > 3
    for i, name in enumerate(names):
        path = f"{corpus.dir}/{name}.wav"
        status, lines = hear(port, Path(path).read_bytes())
        assert status == 200 and [line["state"] for line in lines] == ["hearing", "done"]
        result = lines[-1]["result"]
        expected = system.recogniser(path, words=True)
        assert result["text"] == expected.text != ""
        assert result["duration"] == pytest.approx(expected.duration, abs=1e-3)
        (segment,), (wanted,) = result["segments"], expected.segments
        assert segment["text"] == wanted.text and segment["draft"] == " ".join(drafts[name].split())
        if wanted.words is None:
            assert segment["words"] is None
        else:
            assert segment["words"] == [[w.word, pytest.approx(w.start, abs=1e-3), pytest.approx(w.end, abs=1e-3)]
                                        for w in wanted.words]  # fmt: skip
        steps = nearest.describe(system.model, tokenizer, found, i)
        assert len(segment["steps"]) == len(steps)
        for (at, shown), step in zip(segment["steps"], steps):
            assert 0 < at < expected.duration
            assert [token for token, *_ in shown] == [token for token, *_ in step]
            assert np.array([t[1:] for t in shown]) == pytest.approx(np.array([t[1:] for t in step]), abs=2e-3)
        times = [at for at, _ in segment["steps"]]
        assert times == sorted(times)


def test_times_of_steps_by_hand(make_model):
    """Without dropping and merging, a step is `stack` frames long, and the last one what is left."""
    import torch

    model = make_model(bridge="hard", bridge_conf={"stack": 3, "hidden_size": 24})
    frames = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        z, out, middles = step_times(model, frames, torch.tensor([8]))
    second = model.speech_encoder.rate.seconds
    assert second == pytest.approx(0.04)
    assert middles.tolist() == pytest.approx([1.5 * second, 4.5 * second, 7 * second])
    assert z.shape == out.shape == (3, 32)


def test_times_of_steps_follow_what_is_left_of_the_frames():
    """Of merged frames the middle; what is dropped has no step."""
    import types

    import torch

    from espnet_llmvq.bridge.bridge import Bridge
    from espnet_llmvq.speech.frames import merge_runs

    labels, keep = (
        torch.tensor([[1, 1, 0, 2, 2, 2, 0, 0]]),
        torch.tensor([[True, True, False, *[True] * 3, False, False]]),
    )
    model = types.SimpleNamespace(
        bridge=Bridge(4, torch.eye(4), stack=1, hidden_size=8),
        speech_encoder=types.SimpleNamespace(rate=types.SimpleNamespace(seconds=0.1)),
        shorten=lambda frames, lengths, values: merge_runs(values, lengths, labels, keep),
    )
    _, _, middles = step_times(model, torch.zeros(1, 8, 4), torch.tensor([8]))
    assert middles.tolist() == pytest.approx([0.1, 0.45])


def test_peaks_and_differences():
    x = np.array([0.5, -0.25, 0, 0, 1, -1, 0.125, 0.25])
    assert peaks(x, 4) == [(-0.25, 0.5), (0.0, 0.0), (-1.0, 1.0), (0.125, 0.25)]
    assert len(peaks(x, 100)) == 8 and len(peaks(np.zeros(10001), 1500)) == 1500
    found = differences("a b c", "a x c d")
    assert list(found) == [("=", "a", "a"), ("S", "b", "x"), ("=", "c", "c"), ("I", "", "d")]


def test_silence_has_no_text_and_no_steps(port):
    import io

    out = io.BytesIO()
    soundfile.write(out, np.zeros(RATE), RATE, format="WAV", subtype="PCM_16")
    _, lines = hear(port, out.getvalue())
    result = lines[-1]["result"]
    assert result["text"] == "" and result["segments"][0]["steps"] == [] and result["segments"][0]["draft"] == ""


def test_a_system_without_an_llm(trained_soft, tmp_path, corpus):
    from espnet_llmvq.bundle.model import pack

    search = {"num_beams": 1, "length_penalty": 0.0, "ctc_weight": 0.0}
    pack(trained_soft[0], str(tmp_path / "ctc"), system="ctc", label="", decode="ctc", search=search)
    system = DemoSystem(tmp_path / "ctc", "ctc")
    assert (system.label, system.bridge) == ("ctc", "no LLM")
    (segment,) = system.hear(f"{corpus.dir}/valid00.wav")["segments"]
    assert segment["text"] == segment["draft"] != "" and segment["steps"] is None
    assert {op for op, *_ in segment["differences"]} == {"="}


def bad_sounds(wave):
    """{name: (bytes, status, part of the message)}; status 200: it is found only in hearing it."""
    import io

    def written(x, rate=RATE, **options):
        out = io.BytesIO()
        soundfile.write(out, x, rate, **{"format": "WAV", "subtype": "PCM_16", **options})
        return out.getvalue()

    whole = written(wave)
    nan = written(np.full(9000, np.nan), subtype="FLOAT")
    return {
        "empty": (b"", 400, "no sound was sent"),
        "text": (b"this is no sound\n" * 100, 422, "cannot be read as audio"),
        "cut": (whole[: len(whole) // 2], 422, "truncated"),
        "webm": (b"\x1aE\xdf\xa3" + bytes(400), 422, r"a codec of Matroska.*\(try ffmpeg -i FILE FILE.wav\)"),
        "nan": (nan, 200, "samples that are no numbers"),
        "long": (written(np.zeros(5 * 8000 + 800), 8000), 413, "has 5.1 s, and this page takes up to 5 s.*transcribe"),
        "large": (bytes(500001), 413, "larger than 0.5 MB"),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["empty", "text", "cut", "webm", "nan", "long", "large"])
def test_a_bad_file_is_told_and_the_page_goes_on(port, corpus, name):
    wave = read_audio(f"{corpus.dir}/train00.wav")
    data, status, message = bad_sounds(wave)[name]
    found, lines = hear(port, data)
    assert found == status
    assert re.search(message, lines[-1]["error"]), lines[-1]["error"]
    assert "/proc" not in lines[-1]["error"] and "Traceback" not in lines[-1]["error"]
    assert (lines[-1].get("state") == "failed") == (status == 200)
    status, lines = hear(port, Path(f"{corpus.dir}/train00.wav").read_bytes())
    assert status == 200 and lines[-1]["state"] == "done"


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(port):
    status, (answer,) = hear(port, iter([bytes(300000), bytes(300000)]))
    assert status == 413 and "larger than 0.5 MB" in answer["error"]


def test_a_fault_of_the_recogniser_is_told_and_the_page_goes_on(port, corpus, capfd):
    status, lines = hear(port, sound(), "/hear?system=failing")
    assert status == 200 and lines[-1]["state"] == "failed"
    assert "the recogniser failed on this recording" in lines[-1]["error"] and "Zero" not in lines[-1]["error"]
    assert "ZeroDivisionError: of the recogniser" in capfd.readouterr().err
    assert hear(port, sound())[1][-1]["state"] == "done"


def test_a_system_that_is_not_there(port):
    status, (answer,) = hear(port, sound(), "/hear?system=sotf")
    assert status == 404 and answer["error"].startswith("there is no system 'sotf' (did you mean 'soft'?)")
    assert hear(port, sound(), "/hear?system=../../etc")[0] == 404
    assert ask(port, "GET", "/hear")[0] == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.0.7", "", "[::2]"]
)
def test_another_host_is_refused(port, host):
    """A site whose name was made to lead here would else read the page's answers."""
    for method, path in (("GET", "/"), ("GET", "/settings"), ("POST", "/hear")):
        status, headers, body = ask(port, method, path, Host=host)
        assert status == 403 and "does not answer to that name" in json.loads(body)["error"]
        assert "content-security-policy" in headers


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "[::1]:80"])
def test_this_host_is_answered(port, host):
    assert ask(port, "GET", "/", Host=host)[0] == 200


def test_other_sites_may_not_send(port):
    assert hear(port, sound(), Origin="https://evil.example")[0] == 403
    assert hear(port, sound(), Origin="null")[0] == 403
    assert hear(port, sound(), Origin=f"http://127.0.0.1:{port}")[0] == 200


def test_names_of_a_page_for_other_machines():
    """Its own name and any address; no name of others, which may be made to lead here."""
    guard = Guard(None, "0.0.0.0")
    for host in ("192.168.0.7:7860", "[2001:db8::1]:7860", f"{socket.gethostname()}:1", "localhost"):
        assert guard.refusal({"host": host}) is None
    assert "does not answer" in guard.refusal({"host": "evil.example:7860"})
    assert Guard(None, "box.example").refusal({"host": "BOX.example:1"}) is None
    assert [host_of(h) for h in ("a:1", "A", "[::1]:2", "[::1]", "")] == ["a", "a", "::1", "::1", ""]


class Visitor(threading.Thread):
    """Sends a sound of `samples`, and keeps what it is told."""

    def __init__(self, port, samples):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.samples, self.told, self.status = samples, [], None
        self.start()

    def run(self):
        with contextlib.suppress(OSError, ValueError, AttributeError, http.client.HTTPException):
            self.connection.request("POST", "/hear", sound(self.samples))
            answer = self.connection.getresponse()
            self.status = answer.status
            while line := answer.readline():
                self.told.append(json.loads(line))

    def leave(self):
        self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.connection.sock.close()

    @property
    def ahead(self):
        return [line["ahead"] for line in self.told if line["state"] == "waiting"]


def test_twelve_at_once_in_their_order_one_at_a_time():
    slow = Slow()
    with serving(slow) as port:
        visitors = []
        for i in range(12):
            visitors.append(Visitor(port, 1000 + i))
            wait_for(lambda: visitors[-1].told)
        assert visitors[0].told == [{"state": "hearing"}]
        assert [v.ahead for v in visitors[1:]] == [[i] for i in range(1, 12)]
        status, (answer,) = hear(port, sound())
        assert status == 503 and "12 recordings are waiting already" in answer["error"]
        assert ask(port, "GET", "/")[0] == 200  # the page itself is there for all
        slow.go.set()
        for visitor in visitors:
            visitor.join(30)
        assert [v.told[-1] for v in visitors] == [{"state": "done", "result": {"samples": 1000 + i}} for i in range(12)]
        assert slow.heard == [1000 + i for i in range(12)] and slow.most == 1
        # Told again when it changes; of two that end quickly one after the other, once.
        assert visitors[11].ahead == sorted(set(visitors[11].ahead), reverse=True)
        assert hear(port, sound())[0] == 200


def test_two_users_at_once_get_their_own_answers():
    slow = Slow()
    with serving(slow) as port:
        one = Visitor(port, 2000)
        wait_for(lambda: one.told)
        two = Visitor(port, 3000)
        wait_for(lambda: two.ahead == [1])
        slow.go.set()
        one.join(30), two.join(30)
        assert one.told[-1]["result"] == {"samples": 2000} and two.told[-1]["result"] == {"samples": 3000}


def test_who_leaves_is_no_longer_waited_for():
    slow = Slow()
    with serving(slow, most=3) as port:
        first = Visitor(port, 1000)
        wait_for(lambda: first.told)
        second = Visitor(port, 2000)
        wait_for(lambda: second.ahead == [1])
        third = Visitor(port, 3000)
        wait_for(lambda: third.ahead == [2])
        assert hear(port, sound())[0] == 503
        second.leave()
        wait_for(lambda: third.ahead == [2, 1])
        # One that is being heard cannot be stopped: its place is free when that has ended, and not before.
        first.leave()
        time.sleep(0.3)
        assert third.ahead[-1] == 1 and slow.now == 1
        slow.go.set()
        third.join(30)
        assert third.told[-1]["result"] == {"samples": 3000}
        assert slow.heard == [1000, 3000] and slow.most == 1
        assert hear(port, sound())[0] == 200


def open_sounds():
    """Sounds that this process holds in memory."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += [fd] if "memfd:sound" in os.readlink(f"/proc/self/fd/{fd}") else []
    return found


def test_no_sound_is_kept(port, corpus, tmp_path, monkeypatch):
    """Neither in temporary files nor in memory, whether it was good, bad, too large or left."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    hear(port, Path(f"{corpus.dir}/train00.wav").read_bytes())
    hear(port, b"no sound")
    hear(port, sound(), "/hear?system=failing")
    hear(port, iter([bytes(300000), bytes(300000)]))
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 30)) as raw:
        raw.sendall(b"POST /hear HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000\r\n\r\nRIFF")
        wait_for(open_sounds)
    wait_for(lambda: not open_sounds())
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_does_not_end(port, monkeypatch):
    monkeypatch.setattr("espnet_llmvq.demo.app.UPLOAD", 0.3)
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 30)) as raw:
        raw.sendall(b"POST /hear HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000\r\n\r\nRIFF")
        assert b"408" in raw.recv(65536).splitlines()[0]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--max_mb", "0"], "--max_mb 0.0: expected at least 0.01"),
        (["--max_seconds", "nan"], "--max_seconds nan: expected at least 1.0"),
        (["--port", "70000"], "--port 70000: expected 0 to 65535"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: no such name or address"),
        (["--word_list", "none.txt"], "none.txt: cannot read it"),
    ],
)
def test_options_out_of_range(packed_dir, options, message, capsys):
    with pytest.raises(SystemExit) as status:
        run(command.main, [packed_dir, *options])
    assert status.value.code == 1 and f"error: {message}" in capsys.readouterr().err


def test_a_port_that_is_taken(packed_dir, capsys):
    with contextlib.closing(listen("127.0.0.1", 0)) as sock:
        taken = sock.getsockname()[1]
        with pytest.raises(UserError, match=f"port {taken} of 127.0.0.1 cannot be had .*--port 0 for any"):
            listen("127.0.0.1", taken)


def test_a_directory_that_is_no_pack(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(command.main, [str(tmp_path)])
    assert "manifest.json does not exist; pack the system" in capsys.readouterr().err


def test_without_the_extra(packed_dir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        run(command.main, [packed_dir, "--port", "0"])
    err = capsys.readouterr().err
    assert (
        "this needs uvicorn, which is not installed: pip install 'espnet_llmvq[demo]'" in err and "loading" not in err
    )


def test_addresses():
    with contextlib.closing(listen("127.0.0.1", 0)) as sock:
        number = sock.getsockname()[1]
        assert address_of(sock, "127.0.0.1") == f"http://127.0.0.1:{number}/"
        assert address_of(sock, "::1") == f"http://[::1]:{number}/"
        assert address_of(sock, "0.0.0.0") == f"http://{socket.gethostname()}:{number}/"


def test_names_of_systems_with_equal_directories(monkeypatch):
    from espnet_llmvq.demo import system

    monkeypatch.setattr(system, "DemoSystem", lambda directory, name, **options: directory)
    assert system.load_systems(["a/soft", "b/soft/", "hard", "c/soft"]) == {
        "soft": "a/soft", "soft (2)": "b/soft/", "hard": "hard", "soft (3)": "c/soft",
    }  # fmt: skip


def test_the_command(packed_dir, corpus, tmp_path):
    """From the command line to an answer, with its word list; Ctrl-C ends it without a traceback."""
    (tmp_path / "words.txt").write_text("metformin\n\nheart   failure\nmetformin\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "espnet_llmvq", "demo", packed_dir, "--port", "0", "--word_list", "words.txt"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/ in a browser; Ctrl-C ends it\n", line)
        assert found, line + process.stderr.read()
        port = int(found[1])
        assert json.loads(ask(port, "GET", "/settings")[2])["words"] == ["metformin", "heart failure"]
        assert hear(port, Path(f"{corpus.dir}/train00.wav").read_bytes())[1][-1]["result"]["text"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=180)  # on a busy machine the end of Python takes long
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in err and out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["words.txt"]
