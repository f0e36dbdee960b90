"""N-best files: one JSON line an utterance, {"id", "nbest": [{"text", "tokens", "llm", "ctc"}]}, best first.

llm and ctc are natural-log probabilities of the whole text; null is an impossible one, and "llm" where no LLM wrote it.
Without a CTC head there is no "ctc". "at_limit": true marks a text that the length limit cut off; "passes" and
"accepted" are of drafts. Standard library only, so that rescoring starts at once.
"""

import json
import math
import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import beside, write_text

NBEST = "nbest.jsonl"  # beside hyp.jsonl


def nbest_line(utt, hypotheses, texts):
    """One line. hypotheses: list of `decode.generate.Hypothesis`; texts: their texts."""

    def score(value):
        return value if value is not None and math.isfinite(value) else None

    entries = []
    for h, text in zip(hypotheses, texts):
        entry = {"text": text, "tokens": h.tokens, "llm": score(h.llm)}
        if h.ctc is not None:
            entry["ctc"] = score(h.ctc)
        if h.passes is not None:
            entry.update(passes=h.passes, accepted=h.accepted)
        entries.append({**entry, "at_limit": True} if h.at_limit else entry)
    return json.dumps({"id": utt, "nbest": entries}, ensure_ascii=False) + "\n"


def read_nbest(path):
    """{utterance: list of entries}, in the order of the file. Raises UserError with file and line."""
    found = {}
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                try:
                    entry = json.loads(line)
                    found[entry["id"]] = entry["nbest"]
                    if not all({"text", "llm"} <= set(h) for h in entry["nbest"]):
                        raise KeyError("text and llm")
                except (ValueError, KeyError, TypeError) as err:
                    raise UserError(f"{path}:{number}: not an n-best list ({err}); decode again") from None
    except OSError as err:
        raise UserError(f"{path}: cannot read it: {err.strerror}; decode first (stage 12)") from None
    return found


def best(entries, weight):
    """Index of the entry with the highest (1 - weight) * llm + weight * ctc; of equals, the first.

    With weight 0 it is the first, in the order of the search: the CTC score is not looked at. If CTC can spell none of
    the texts, the LLM's order decides.
    """

    if not weight:
        return 0

    def score(entry):
        llm, ctc = (-math.inf if entry.get(key) is None else entry[key] for key in ("llm", "ctc"))
        return ctc if weight == 1 else (1 - weight) * llm + weight * ctc

    scores = [score(entry) for entry in entries]
    return scores.index(max(scores))


def write_hypotheses(path, chosen):
    """Write hyp.jsonl from {utterance: entry of its n-best list, or None if the list is empty}."""
    lines = []
    for utt, entry in chosen.items():
        line = {"id": utt, "text": entry["text"] if entry else ""}
        line.update({"at_limit": True} if entry and entry.get("at_limit") else {})
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def whole_lines(lines):
    """{utterance: line} up to the first line that is cut off or damaged, as a kill or a full disk leaves it."""
    found = {}
    for line in lines:
        try:
            entry = json.loads(line)
            if not line.endswith("\n") or not isinstance(entry["nbest"], list):
                break
            found[entry["id"]] = line
        except (ValueError, KeyError, TypeError):
            break
    return found


class Partial:
    """Lines of an n-best file as they come, so that a decoding that was killed goes on where it was.

    path: of the n-best file; the partial one lies beside it. made: what the lines depend on, as JSON can hold it; a
    partial file made otherwise is begun again. done: {utterance: line}.
    """

    def __init__(self, path, made):
        self.path, self.done = beside(path, "part"), {}
        head = json.dumps(made, sort_keys=True) + "\n"
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8", errors="replace") as f:
                if f.readline() == head:
                    self.done = whole_lines(f)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        write_text(self.path, head + "".join(self.done.values()))
        self.file = open(self.path, "a", encoding="utf-8")

    def add(self, lines):
        """Add {utterance: line} of a batch."""
        self.file.write("".join(lines.values()))
        self.file.flush()
        self.done.update(lines)

    def finish(self, path, order):
        """Write the n-best file in the order of utterances, and remove the partial one."""
        self.file.close()
        write_text(path, "".join(self.done[utt] for utt in order))
        os.remove(self.path)
