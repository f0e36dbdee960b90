"use strict";
// No text is ever taken for markup: the page's policy forbids it, and all of it is set as text.

const $ = (id) => document.getElementById(id);
let settings = { systems: [], max_mb: 20, max_seconds: 60, words: [] };
let sound = null;      // {blob, name, answers: {system: result}} of the recording that is shown
let asking = null;     // AbortController of the question under way
let recording = null;  // {stream, context, parts, rate, samples} while the microphone is open
let shown = null;      // result on the page

function make(tag, text, css) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (css) element.className = css;
    return element;
}

function say(text) {
    if ($("status").textContent !== text) $("status").textContent = text;
}

function complain(text) {
    say("");
    $("problem").textContent = text;
    $("problem").hidden = false;
}

function calm() { $("problem").hidden = true; }

const seconds = (value) => value.toFixed(2);

// Sound

function chosenSystem() {
    const radio = document.querySelector("#systems input:checked");
    return radio ? radio.value : settings.systems[0].name;
}

function take(blob, name) {
    calm();
    if (blob.size > settings.max_mb * 1e6) {
        complain(name + ": larger than " + settings.max_mb + " MB; choose a shorter or compressed one.");
        return;
    }
    sound = { blob: blob, name: name, answers: {}, id: String(performance.now()) };
    ask();
}

// Send the sound, and show the answer, which comes as lines of JSON.
async function ask() {
    if (!sound) return;
    const mine = sound, system = chosenSystem();
    if (asking) asking.abort();
    if (mine.answers[system]) {
        show(mine, system);
        return;
    }
    asking = new AbortController();
    const own = asking;
    calm();
    $("result").hidden = true;
    $("result").setAttribute("aria-busy", "true");
    say("Sending " + mine.name + "…");
    try {
        const response = await fetch("hear?system=" + encodeURIComponent(system), {
            method: "POST", body: mine.blob, signal: own.signal,
            headers: { "Content-Type": "application/octet-stream" },
        });
        if (!response.ok) {
            const answer = await response.json().catch(() => ({ error: "the server answered " + response.status }));
            throw new Error(answer.error);
        }
        let last = null, rest = "";
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
            const part = await reader.read();
            if (part.done) break;
            const lines = (rest + part.value).split("\n");
            rest = lines.pop();
            for (const line of lines) {
                last = JSON.parse(line);
                if (last.state === "waiting") {
                    say(last.ahead === 1 ? "Waiting: one recording is before yours."
                        : "Waiting: " + last.ahead + " recordings are before yours.");
                }
                if (last.state === "hearing") say("Listening to " + mine.name + "…");
            }
        }
        if (!last || last.state === "waiting" || last.state === "hearing") throw new Error("the answer broke off");
        if (last.state === "failed") throw new Error(last.error);
        mine.answers[system] = last.result;
        if (own === asking) show(mine, system);
    } catch (err) {
        if (own.signal.aborted) return;
        const reason = err instanceof TypeError ? "the page's server does not answer; does `llmvq demo` still run?" : err.message;
        complain(mine.name + ": " + reason);
    }
}

// Microphone

function wav(parts, samples, rate) {
    const view = new DataView(new ArrayBuffer(44 + 2 * samples));
    const text = (at, s) => { for (let i = 0; i < s.length; i++) view.setUint8(at + i, s.charCodeAt(i)); };
    text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples, true); text(8, "WAVEfmt ");
    view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
    view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
    view.setUint16(32, 2, true); view.setUint16(34, 16, true);
    text(36, "data"); view.setUint32(40, 2 * samples, true);
    let at = 44;
    for (const part of parts) {
        for (const x of part) {
            view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(32768 * x))), true);
            at += 2;
        }
    }
    return new Blob([view.buffer], { type: "audio/wav" });
}

const REFUSED = {
    NotAllowedError: "The microphone was refused. Allow it for this page in your browser, or choose a sound file.",
    NotFoundError: "There is no microphone. Choose a sound file.",
    NotReadableError: "The microphone cannot be read; another program may have it. Choose a sound file.",
};

function buttonState(text, on) {
    $("record_text").textContent = text;
    $("record").dataset.on = on;
    $("level_box").hidden = !on;
}

async function startRecording() {
    calm();
    $("record").disabled = true;
    let stream = null;
    try {
        stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
        const context = new AudioContext();
        await context.audioWorklet.addModule("recorder.js");
        recording = { stream: stream, context: context, parts: [], rate: context.sampleRate, samples: 0 };
        const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
        node.port.onmessage = (event) => heard(event.data);
        context.createMediaStreamSource(stream).connect(node);
        await context.resume();
        buttonState("Stop", true);
        say("Recording.");
    } catch (err) {
        recording = null;
        if (stream) stream.getTracks().forEach((track) => track.stop());
        complain(REFUSED[err.name] || "The microphone cannot be used (" + err.message + "). Choose a sound file.");
    }
    $("record").disabled = false;
    $("record").focus();
}

function heard(part) {
    if (!recording) return;
    recording.parts.push(part);
    recording.samples += part.length;
    if (recording.parts.length % 16 === 0) {
        let top = 0;
        for (const x of part) top = Math.max(top, Math.abs(x));
        $("level").value = top;
        $("clock").textContent = (recording.samples / recording.rate).toFixed(1) + " of " + settings.max_seconds + " s";
    }
    if (recording.samples >= recording.rate * settings.max_seconds) stopRecording();
}

function stopRecording() {
    const done = recording;
    recording = null;
    done.stream.getTracks().forEach((track) => track.stop());
    done.context.close();
    buttonState("Record again", false);
    const samples = Math.min(done.samples, Math.floor(done.rate * settings.max_seconds));
    if (!samples) {
        complain("The microphone gave no sound.");
        return;
    }
    let left = samples;
    const parts = done.parts.map((part) => { const kept = part.subarray(0, left); left -= kept.length; return kept; });
    take(wav(parts, samples, done.rate), "your recording");
}

// Result

// A word of a text, and how it is compared with another one: letters and digits alone.
const plain = (text) => text.normalize("NFKC").toLowerCase().replace(/[^\p{L}\p{M}\p{N}']+/gu, " ").trim().split(" ").filter(Boolean);

function showTexts(result) {
    const several = result.segments.length > 1;
    const drafted = result.segments.some((s) => s.draft !== null);
    $("draft_panel").hidden = !drafted;
    $("draft").replaceChildren();
    $("text").replaceChildren();
    const said = [];
    const names = { S: "sub", D: "del", I: "ins" };
    for (const s of result.segments) {
        const lines = [["draft", 1, s.draft], ["text", 2, s.text]];
        for (const [id, column, whole] of lines) {
            if (whole === null) continue;
            const p = make("p");
            p.dir = "auto";
            if (several) p.append(make("span", seconds(s.start) + " to " + seconds(s.end) + " s", "detail"));
            if (!whole) p.append(make("em", "nothing"));
            const pairs = s.differences || whole.split(" ").map((word) => ["=", word, word]);
            for (const pair of pairs) {
                if (!pair[column] || !whole) continue;
                const tag = pair[0] === "D" ? "del" : pair[0] === "I" ? "ins" : "span";
                p.append(make(tag, pair[column], names[pair[0]]), " ");
            }
            $(id).append(p);
        }
        for (const [op, draft, text] of s.differences || []) {
            if (op === "S") said.push("“" + text + "” for “" + draft + "”");
            if (op === "D") said.push("“" + draft + "” left out");
            if (op === "I") said.push("“" + text + "” put in");
        }
    }
    $("differ").textContent = !drafted ? "" : said.length === 0 ? "Draft and text are the same."
        : (said.length === 1 ? "1 difference: " : said.length + " differences: ") + said.slice(0, 20).join("; ")
            + (said.length > 20 ? "; and more." : ".");
    $("key").hidden = !said.length;
    $("at_limit").hidden = !result.segments.some((s) => s.at_limit);
}

function showListened() {
    const wanted = $("words").value.split(/[\n,;]/).map((line) => line.trim()).filter((line) => plain(line).length);
    $("listened_box").hidden = !shown || !wanted.length;
    $("listened").replaceChildren();
    if (!shown) return;
    // [word as compared, seconds or null], over all segments
    const words = [], drafted = [];
    for (const s of shown.segments) {
        const texts = s.words ? s.words.map((w) => [w[0], w[1]]) : s.text.split(" ").map((w) => [w, null]);
        for (const [word, at] of texts) for (const part of plain(word)) words.push([part, at]);
        for (const part of plain(s.draft || "")) drafted.push([part, null]);
    }
    function places(list, parts) {
        const found = [];
        for (let i = 0; i + parts.length <= list.length; i++) {
            if (parts.every((part, j) => list[i + j][0] === part)) found.push(list[i][1]);
        }
        return found;
    }
    for (const line of new Set(wanted)) {
        const parts = plain(line), found = places(words, parts), item = make("li");
        let sign = "✗", text = "not heard", css = "missed";
        if (found.length) {
            const times = found.filter((at) => at !== null).map((at) => seconds(at) + " s");
            [sign, css, text] = ["✓", "heard", "heard" + (times.length ? " at " + times.join(", ") : "")];
        } else if (places(drafted, parts).length) {
            [sign, css, text] = ["~", "drafted", "in the CTC draft alone"];
        }
        item.className = css;
        const mark = make("span", sign, "sign");
        mark.setAttribute("aria-hidden", "true");
        item.append(mark, make("b", line), ": " + text);
        $("listened").append(item);
    }
}

function drawWave(result) {
    const n = result.peaks.length, points = [];
    const y = (value) => (100 * (1 - value)).toFixed(1);
    result.peaks.forEach((pair, i) => points.push(i + " " + y(pair[1]), (i + 1) + " " + y(pair[1])));
    // At least a line where it is quiet.
    for (let i = n - 1; i >= 0; i--) {
        const low = y(Math.min(result.peaks[i][0], result.peaks[i][1] - 0.01));
        points.push((i + 1) + " " + low, i + " " + low);
    }
    $("wave").setAttribute("viewBox", "0 0 " + n + " 200");
    $("wave").firstElementChild.setAttribute("d", "M" + points.join("L") + "Z");
    $("wave").setAttribute("aria-label", "Waveform of " + seconds(result.duration) + " seconds");
    $("wave_box").style.width = Math.round(110 * result.duration) + "px";
}

function showWords(result) {
    $("spoken").replaceChildren();
    $("no_times").hidden = result.segments.every((s) => s.words !== null);
    let first = true;
    for (const s of result.segments) {
        for (const [word, start, end] of s.words || []) {
            const button = make("button", word);
            button.type = "button";
            button.tabIndex = first ? 0 : -1;
            first = false;
            button.dataset.start = start;
            button.dataset.end = end;
            button.append(make("small", seconds(start) + "–" + seconds(end)));
            button.setAttribute("aria-label", word + ", " + seconds(start) + " to " + seconds(end) + " seconds");
            button.addEventListener("click", () => playFrom(start));
            $("spoken").append(button);
        }
    }
    $("spoken").hidden = first;
}

// Words stand under their beginnings, in as many rows as they need.
function placeWords() {
    if (!shown || $("result").hidden) return;
    const width = $("wave_box").clientWidth, ends = [];
    let height = 0;
    for (const button of $("spoken").children) {
        const wide = button.offsetWidth;
        const left = Math.max(0, Math.min(width * button.dataset.start / shown.duration, width - wide));
        let row = ends.findIndex((end) => end <= left);
        if (row < 0) row = ends.length;
        ends[row] = left + wide + 3;
        height = button.offsetHeight + 4;
        button.style.left = left + "px";
        button.style.top = row * height + "px";
    }
    $("spoken").style.height = ends.length * height + "px";
}

function showSteps(result) {
    const steps = result.segments.flatMap((s) => s.steps || []);
    const some = result.segments.some((s) => s.steps !== null);
    $("steps_box").hidden = !some;
    if (!some) return;
    const weighed = steps.some(([, tokens]) => tokens.some((t) => t[2] !== null));
    $("steps_about").textContent = steps.length + (steps.length === 1 ? " step" : " steps") + " in place of the sound. Of each the tokens "
        + "nearest to it in " + (weighed ? "the codebook, with their weight in what the LLM gets (–: none)."
            : "the LLM's table, with their cosine: a continuous bridge gives no weights.")
        + " The mark ▁ or Ġ stands for a space.";
    const body = $("steps").tBodies[0];
    body.replaceChildren();
    const most = Math.max(1, ...steps.map(([, tokens]) => tokens.length));
    Array.from($("steps").tHead.rows[0].cells).forEach((cell, i) => { cell.hidden = i > most; });
    for (const [at, tokens] of steps) {
        const row = make("tr"), head = make("th", seconds(at));
        head.scope = "row";
        row.dataset.at = at;
        row.append(head);
        for (const [token, cosine, weight] of tokens) {
            const cell = make("td"), value = weight === null ? cosine : weight;
            const name = make("span", token, "token"), bar = make("span", undefined, "bar"), inside = make("i");
            name.dir = "auto";
            inside.style.width = Math.max(0, Math.min(1, value)) * 100 + "%";
            bar.setAttribute("aria-hidden", "true");
            bar.append(inside);
            const line = make("span", undefined, "line");
            line.append(name, make("span", weight === 0 ? "–" : value.toFixed(2), "number"));
            cell.append(line, bar);
            if (weight === 0) cell.className = "none";
            row.append(cell);
        }
        body.append(row);
    }
}

function show(of, system) {
    const result = of.answers[system], other = $("player").dataset.of !== of.id;
    shown = result;
    if (other) {
        if ($("player").src) URL.revokeObjectURL($("player").src);
        $("player").dataset.of = of.id;
        $("player").src = URL.createObjectURL(of.blob);
    }
    const about = settings.systems.find((s) => s.name === system);
    $("about").textContent = of.name + ", " + seconds(result.duration) + " s, heard by " + about.label + " (" + about.bridge + ")";
    $("text_title").textContent = about.bridge === "no LLM" ? "Text: this system has no LLM" : "Text of the LLM";
    drawWave(result);
    showWords(result);
    showTexts(result);
    showListened();
    showSteps(result);
    $("result").hidden = false;
    $("result").removeAttribute("aria-busy");
    placeWords();
    follow();
    // Of a new sound the answer comes into sight; who switches systems stays where the switch is.
    if (other && $("result").getBoundingClientRect().top > 0.6 * window.innerHeight) $("result").scrollIntoView();
    say("Done: " + (result.text || "nothing was heard."));
}

// Playing

function playFrom(start) {
    $("player").currentTime = start;
    $("player").play().catch(() => complain("Your browser cannot play this kind of file; its text is right all the same."));
    follow(start);
}

function follow(at) {
    if (!shown) return;
    const now = at === undefined ? $("player").currentTime : at;
    $("head").style.left = 100 * Math.min(1, now / shown.duration) + "%";
    for (const button of $("spoken").children) {
        button.classList.toggle("now", Number(button.dataset.start) <= now && now < Number(button.dataset.end));
    }
    const rows = Array.from($("steps").tBodies[0].rows);
    let near = null;
    for (const row of rows) {
        if (!near || Math.abs(row.dataset.at - now) < Math.abs(near.dataset.at - now)) near = row;
    }
    rows.forEach((row) => row.classList.toggle("now", row === near));
    // Within its box only; the page itself stays where it is.
    if (near && (at !== undefined || !$("player").paused)) {
        $("steps_scroll").scrollTop = near.offsetTop - $("steps_scroll").clientHeight / 2;
    }
}

$("spoken").addEventListener("keydown", (event) => {
    const buttons = Array.from($("spoken").children), at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined || !buttons[to]) return;
    event.preventDefault();
    buttons[at].tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
});

// The page

async function begin() {
    try {
        settings = await (await fetch("settings")).json();
    } catch (err) {
        complain("The page's server does not answer; does `llmvq demo` still run?");
        return;
    }
    $("limits").textContent = "Up to " + settings.max_seconds + " s and " + settings.max_mb + " MB: WAV, FLAC, Ogg, MP3 and what else libsndfile reads.";
    settings.systems.forEach((system, i) => {
        const label = make("label"), radio = make("input");
        radio.type = "radio";
        radio.name = "system";
        radio.value = system.name;
        radio.checked = i === 0;
        radio.addEventListener("change", ask);
        const text = make("span", system.label + " ");
        text.append(make("span", system.name + ", " + system.bridge, "detail"));
        label.append(radio, text);
        $("systems").append(label);
    });
    $("systems").hidden = settings.systems.length < 2;
    $("words").value = settings.words.join("\n");
    $("words_box").open = settings.words.length > 0;
    if (!window.isSecureContext || !navigator.mediaDevices || !window.AudioWorkletNode) {
        $("record").disabled = true;
        $("limits").textContent += " Browsers give the microphone to pages of localhost only (or https).";
    }
    document.documentElement.dataset.ready = "yes";
}

$("record").addEventListener("click", () => (recording ? stopRecording() : startRecording()));
// So that the same file can be chosen again.
$("file").addEventListener("click", () => { $("file").value = ""; });
$("file").addEventListener("change", () => {
    const file = $("file").files[0];
    if (file) take(file, file.name);
});
$("words").addEventListener("input", showListened);
for (const name of ["timeupdate", "seeked"]) $("player").addEventListener(name, () => follow());
window.addEventListener("resize", placeWords);
begin();
