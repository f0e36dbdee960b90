"""The numbers of the analysis (stage 14) as tables; what the report and ANALYSIS.md show of them."""

import json
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.table import markdown_table

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
}


def cell(row, chance=None):
    """Value, interval and what chance gives, three significant digits; "" if there is no value."""
    if row is None or row["value"] is None:
        return ""
    low, high = row.get("low"), row.get("high")
    text = f"{row['value']:.3g}"
    text += "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return text if chance is None or chance["value"] is None else f"{text}, chance {chance['value']:.3g}"


def grids(rows, labels=None):
    """[(title, header, rows of strings)]: for each metric systems by sets. labels: {system: text}."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    found = {(row["system"], row["set"], row["metric"]): row for row in rows}
    made = []
    for metric, title in METRICS.items():
        lines = []
        for system in systems:
            keys = [(system, name, metric) for name in sets]
            cells = [cell(found.get(key), found.get((*key[:2], metric + CHANCE))) for key in keys]
            if any(cells):
                lines.append([(labels or {}).get(system, system), *cells])
        if lines:
            made.append((title, ["system", *sets], lines))
    return made


def markdown(made):
    """ANALYSIS.md: what `read` returns, as text."""
    labels = made["labels"]
    text = "# Analysis\n\n"
    text += f"Up to {made['utterances']} utterances of each set, drawn with seed {made['draw_seed']}. "
    text += "Intervals are of 95 %. docs/analysis.md says what the numbers mean.\n"
    if made["warnings"]:
        text += "\n## Warnings\n\n" + "".join(f"- {warning}\n" for warning in made["warnings"])
    for title, header, lines in grids(made["rows"], labels):
        text += f"\n## {title}\n\n{markdown_table(header, lines)}"
    return text


def read(path):
    """The content of analysis.json (rows, warnings, labels, utterances, draw_seed), or None if it is absent.

    Raises UserError if it is not what stage 14 writes.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        grids(made["rows"], made["labels"])
        if all(isinstance(text, str) for text in made["warnings"]):
            return made
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path}: not the numbers of an analysis; run stage 14 again")
