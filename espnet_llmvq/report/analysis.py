"""The numbers of the analysis as tables; what the report and ANALYSIS.md show of them."""

import json
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.table import Column, Row, Table, cell_of, markdown_table

FILE = "analysis.json"
CHANCE = "_by_chance"  # ending of a metric's value where speech and text are paired at random
METRICS = {
    "centroid_distance": "Distance of the centroids of speech and text (0 to 2)",
    "cka": "Linear CKA of speech and text (0 to 1)",
    "r1": "Transcript retrieved by the mean of the speech (R@1, %)",
    "bridge_norm_ratio": "Length of LLM inputs from speech over that of text embeddings",
    "output_cosine": "Mean cosine between LLM inputs of different steps",
    "top_cosine": "Cosine to the nearest codebook row",
    "codebook_perplexity": "Perplexity of the codebook rows in use",
    "codebook_share": "Share of the codebook rows in use",
    "weights_entropy": "Entropy of the weights (nats)",
    "codebook_drift": "Drift of the codebook from the LLM's table",
    "temperature": "Learned temperature",
    "steps_spoken": "Steps a piece of the spelling, of speech",
    "steps_heard": "Steps a piece of the spelling, of text as if heard",
    "right_spoken": "Pieces that are heard as themselves, of speech (%)",
    "right_heard": "Pieces that are heard as themselves, of text as if heard (%)",
    "overlap_heard": "Overlap of the steps of speech and of its text as if heard (0 to 1)",
    "overlap_clear": "Overlap of the steps of speech and of its text spelled clearly (0 to 1)",
    "loss_spoken": "Loss of the LLM a token after speech (nats)",
    "loss_retold": "Loss of the LLM a token after the CTC head's steps of speech (nats)",
    "loss_heard": "Loss of the LLM a token after text as if heard (nats)",
    "loss_clear": "Loss of the LLM a token after text spelled clearly (nats)",
}


def cell(row, chance=None):
    """Cell of value, interval and what chance gives, three significant digits; empty if there is no value."""
    note = f"chance {chance['value']:.3g}" if row and chance and chance["value"] is not None else ""
    return cell_of(row, form=".3g", none="", note=note if row and row["value"] is not None else "")


def tables(rows, labels=None):
    """For each metric a Table of systems by sets. labels: {system: text}."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    index = {(row["system"], row["set"], row["metric"]): row for row in rows}
    drawn = []
    for metric, title in METRICS.items():
        lines = []
        for system in systems:
            keys = [(system, name, metric) for name in sets]
            cells = [cell(index.get(key), index.get((*key[:2], metric + CHANCE))) for key in keys]
            if any(one.is_number for one in cells):
                lines.append(Row((labels or {}).get(system, system), cells, system))
        if lines:
            drawn.append(Table(title, [Column(name, kind="set", name=name) for name in sets], lines))
    return drawn


def markdown(content):
    """ANALYSIS.md: what `read` returns, as text."""
    text = "# Analysis\n\n"
    text += f"Up to {content['utterances']} utterances of each set, drawn with seed {content['draw_seed']}. "
    text += "Intervals are of 95 %. docs/analysis.md says what the numbers mean.\n"
    if content["warnings"]:
        text += "\n## Warnings\n\n" + "".join(f"- {warning}\n" for warning in content["warnings"])
    for table in tables(content["rows"], content["labels"]):
        text += f"\n## {table.title}\n\n{markdown_table(table)}"
    return text


def read(path):
    """The content of analysis.json (rows, warnings, labels, utterances, draw_seed), or None if it is absent.

    Raises UserError if it is not what the analysis writes.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tables(content["rows"], content["labels"])
        if all(isinstance(text, str) for text in content["warnings"]):
            return content
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path}: not the numbers of an analysis; run `llmvq analyse` again")
