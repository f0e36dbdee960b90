"""The picture of README.md, bridge.svg: how speech reaches the LLM.

python docs/images/bridge.py
"""

import math
from pathlib import Path

INK, BLUE, PALE, GREY = "#1c1e26", "#0b4f9e", "#eaf1fa", "#596170"
# Illustrative, not measured: the tokens nearest to one step, with weights.
NEAREST = [("three", 0.64), ("tree", 0.21), ("free", 0.15)]


def text(x, y, words, size=15, colour=INK, anchor="middle", weight="normal"):
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
        f' font-weight="{weight}">{words}</text>'
    )


def box(x, y, width, height, title, lines=(), fill=PALE):
    found = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{BLUE}"/>']
    found.append(text(x + width / 2, y + 26, title, 16, weight="bold"))
    return found + [text(x + width / 2, y + 50 + 20 * i, line, 13, GREY) for i, line in enumerate(lines)]


def arrow(x1, y1, x2, y2):
    return [f'<path d="M{x1} {y1} L{x2} {y2}" stroke="{INK}" stroke-width="1.6" marker-end="url(#tip)"/>']


def wave(x, y, width):
    """Bars of a waveform, drawn from sines."""
    found = []
    for i in range(width // 4):
        height = 4 + 26 * abs(math.sin(i / 3.1) * math.sin(i / 11 + 0.4))
        found.append(f'<rect x="{x + 4 * i}" y="{y - height:.1f}" width="2" height="{2 * height:.1f}" fill="{BLUE}"/>')
    return found


def picture():
    """The SVG, as text."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 300" role="img" font-family="sans-serif"'
        ' aria-label="Speech goes through an encoder, a bridge and an LLM. The bridge is none, hard or soft.">',
        f'<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
        f' orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker></defs>',
        '<rect width="960" height="300" fill="#ffffff"/>',
        *wave(20, 110, 120),
        text(80, 166, "speech", 14, GREY),
        *arrow(148, 110, 176, 110),
        *box(180, 60, 170, 100, "speech encoder", ("WavLM, Whisper,", "or trained here; frozen")),
        *arrow(350, 110, 378, 110),
        *box(382, 20, 310, 214, "bridge, for each step"),
    ]
    rows = [("none", "a vector, anywhere (SLAM-ASR)"), ("hard", "the nearest row of the LLM's table")]
    for i, (name, what) in enumerate([*rows, ("soft", "a few near rows, weighted:")]):
        y = 78 + 32 * i
        parts += [text(402, y, name, 14, BLUE, "start", "bold"), text(448, y, what, 13, INK, "start")]
    for i, (token, weight) in enumerate(NEAREST):
        y = 170 + 22 * i
        parts.append(text(500, y, token, 13, INK, "end"))
        parts.append(f'<rect x="510" y="{y - 10}" width="{round(160 * weight)}" height="11" fill="{BLUE}"/>')
        parts.append(text(516 + round(160 * weight), y, f"{weight:.2f}", 12, GREY, "start"))
    parts += [
        *arrow(692, 110, 720, 110),
        *box(724, 60, 150, 100, "causal LLM", ("with LoRA;", "prompt before it")),
        *arrow(874, 110, 900, 110),
        text(930, 115, "text", 15, INK, weight="bold"),
        *arrow(265, 160, 265, 250),
        text(265, 274, "CTC head: a baseline beside every LLM row", 13, GREY),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
