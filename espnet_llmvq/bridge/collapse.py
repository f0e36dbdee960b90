"""Collapse of a bridge: the limits, the warnings, and the file in which training leaves them beside a model.

Standard library only: training, scoring and the report all use it.
"""

import json
import math
import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_json

FILE = "diagnostics.json"
MARK = "bridge collapse"  # begins each warning of the training log

# When numbers mean a collapse. Each limit is far outside of what bridges that work were seen to do.
NORM_FACTOR = 10.0  # outputs this much longer or shorter than embeddings; quantizers that work have 0.5 to 1
FEW_ROWS = 5.0  # perplexity of the rows in use; a few words of speech already need more tokens
ENOUGH_STEPS = 50  # below this, a batch has too few steps to tell few rows from few words
SAME_OUTPUT = 0.98  # mean cosine between outputs of different steps; unrelated embeddings have far less
FLAT_SHARE = 0.9  # entropy of weights over all V rows, as a share of log V, its most: the mean of the table


def collapse_warnings(means, all_rows=0):
    """Sentences on what has collapsed, none for a healthy bridge.

    means: statistics of `Bridge.statistics`, of a set or averaged over the batches of an epoch (floats).
    all_rows: rows of the codebook if the bridge weights all of them, else 0.
    """
    nan, found = math.nan, []
    ratio = means.get("bridge_norm_ratio", nan)
    if ratio > NORM_FACTOR or ratio < 1 / NORM_FACTOR:
        found.append(
            f"LLM inputs from speech are {ratio:.3g} times as long as text embeddings (bridge_norm_ratio); "
            "set output_scale, renormalise (quantizers) or match_norm (none)"
        )
    perplexity = means.get("codebook_perplexity", nan)
    if perplexity < FEW_ROWS and means.get("bridge_steps", 0) >= ENOUGH_STEPS:
        found.append(
            f"steps use a handful of codebook rows (codebook_perplexity {perplexity:.2g}); "
            "look at the aligned start, the learning rate and layer_norm"
        )
    entropy = means.get("weights_entropy", nan)
    if all_rows > 1 and entropy > FLAT_SHARE * math.log(all_rows):
        found.append(
            f"the weights are nearly equal over all {all_rows} rows (weights_entropy {entropy:.3g} of at most "
            f"{math.log(all_rows):.3g}), so each step is the mean of the table; lower temperature or top_k"
        )
    cosine = means.get("output_cosine", nan)
    if cosine > SAME_OUTPUT:
        found.append(f"all steps get nearly the same LLM input (output_cosine {cosine:.4f}); what was said is lost")
    return found


def write_diagnostics(directory, epoch, means, found):
    """Leave the means of the validation set after `epoch`, and the warnings, in a phase's directory."""
    write_json(os.path.join(directory, FILE), {"epoch": epoch, "means": means, "warnings": found}, known=True)


def read_warnings(directory):
    """Sentences on what had collapsed when the phase in `directory` ended; none without the file.

    Raises UserError if it is not what `write_diagnostics` writes.
    """
    path = os.path.join(directory, FILE)
    try:
        with open(path, encoding="utf-8") as f:
            made = json.load(f)
        return [f"epoch {made['epoch']}: {text}" for text in made["warnings"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the diagnostics of a training; delete it, or train again") from None
