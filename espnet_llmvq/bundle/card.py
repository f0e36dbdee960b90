"""The model card of a packed system: README.md with the metadata of the Hugging Face hub."""

import os
import re
from urllib.parse import quote

from espnet_llmvq.base.errors import UserError, reading
from espnet_llmvq.bundle.files import LLM
from espnet_llmvq.bundle.licences import PARTS, files_of


def read_about(path):
    """(metadata of the hub as a dict, Markdown) of a file with what only people know; ({}, "") without one.

    The metadata are the YAML between two lines `---` at its beginning, if it has them. Raises UserError.
    """
    if path is None:
        return {}, ""
    if not os.path.isfile(path):
        raise UserError(f"--card {path}: no such file")
    with reading(path, "--card takes a Markdown file"), open(path, encoding="utf-8") as f:
        text = f.read()
    if not text.startswith("---\n"):
        return {}, text.strip()
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        about = ModelCard(text)
    except (ValueError, TypeError, YAMLError) as err:  # TypeError: of keys that are no text
        first = str(err).splitlines()[0]
        raise UserError(
            f"{path}: what stands between its first two lines --- is no mapping in YAML ({first})"
        ) from None
    return about.data.to_dict(), about.text.strip()


def link(name):
    """Markdown of a link to a file in the directory, whatever it is called."""
    text = re.sub(r"([\\`*<\[\]])", r"\\\1", name.split("/")[-1])
    return f"[{text}]({quote(name)})"


def licences(manifest):
    """The section on licences: what is recorded of each part, and the files inside."""
    names = manifest["files"]
    lines = []
    for part, said in manifest.get("licences", {}).items():
        files = ", ".join(map(link, files_of(names, part)))
        what = f"{PARTS[part][0].upper()}{PARTS[part][1:]}"
        lines.append(f"- {what}: {'; '.join(filter(None, (said, files))) or 'no licence was found'}")
    lines += [f"- {link(name)}" for name in files_of(names)]
    return f"## Licences\n\n{chr(10).join(lines)}\n" if lines else ""


def tables(rows, system, label, labels):
    """Markdown: word error rates of a system and, below, of the others of its run; its own character error rates.

    rows: of results.json. labels: {system: label} of the others, where they have one.
    """
    from espnet_llmvq.score.results import Results
    from espnet_llmvq.score.rows import said_of
    from espnet_llmvq.score.table import markdown_table

    own = [row for row in rows if row["system"] == system]
    labels, texts = {**labels, system: f"{label} (this one)"}, []
    for metric, shown in (("wer", own + [row for row in rows if row["system"] != system]), ("cer", own)):
        results = Results(shown, labels=labels)
        if results.has(metric):
            table = results.metric_table(metric)
            texts.append(f"{table.title}, with intervals ({said_of(own)}):\n\n{markdown_table(table)}")
    return "\n".join(texts)


def card(manifest, rows=(), about=({}, ""), labels=None):
    """Text of README.md. rows: entries of results.json. about: of `read_about`. labels: {system: label} of `rows`."""
    from huggingface_hub import ModelCardData

    system, label = manifest["system"], manifest["label"] or manifest["system"]
    named = manifest["llm"] != LLM
    metadata, text = about
    known = {
        "library_name": "espnet_llmvq",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["espnet", "speech-llm"],
        "base_model": manifest["llm"] if named else None,
    }
    data = ModelCardData(**{**known, **metadata})
    search = manifest["search"]
    if manifest["decode"] == "ctc":
        parts, how = "encoder and CTC head", "greedy CTC"
    else:
        llm = f"`{manifest['llm']}`, downloaded when the system is loaded" if named else "inside"
        parts = "encoder, bridge and what was trained of the LLM"
        how = (
            f"beam {search['num_beams']}, CTC weight {search['ctc_weight']:g}, draft {search.get('draft', 'none')}, "
            f"prompt `{manifest['prompt']}`. "
            f"The LLM: {llm}"
        )
    scored = any(row["system"] == system for row in rows)
    results = tables(rows, system, label, labels or {}) if scored else "This system was packed without results.\n"
    sections = "\n".join(f"{section.strip()}\n" for section in (results, text, licences(manifest)) if section)
    return f"""---
{data.to_yaml()}
---

# {label}

A speech recognizer, the system `{manifest["system"]}` of an espnet_llmvq recipe: {parts} in
`model.safetensors`, tokenizer in `llm/`. Decoding: {how}.

## Use

    llmvq transcribe DIR audio.wav

    from espnet_llmvq import Recogniser

    print(Recogniser("DIR")("audio.wav").text)

DIR is this directory. Files other than this one are checked against `manifest.json`.

## Results

{sections}"""
