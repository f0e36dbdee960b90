"""Spelling pieces: a few hundred tokens of an LLM, with which any text can be spelled, as the labels of a CTC head.

Most tokens of a large vocabulary are words that a few hours of speech have once or never, and CTC does not learn them.
Pieces are tokens of the same LLM, so their rows of its table are what a bridge can write: the LLM reads pieces, and
writes its normal tokens.
"""

import os
from pathlib import Path

from espnet_llmvq.base.errors import UserError, reading
from espnet_llmvq.base.files import check_path, locked, share
from espnet_llmvq.base.made import Made
from espnet_llmvq.llm.directory import load_llm, load_tokenizer
from espnet_llmvq.llm.ends import token_inputs
from espnet_llmvq.llm.pieces import Pieces
from espnet_llmvq.llm.trim import count, in_order, save_tokenizer

ROWS = "rows.safetensors"  # beside the tokenizer: `rows` (P, W) of the LLM's input table, `ids` (P,) in the LLM
REMEDY = "delete {out}, and all that was trained with it, to choose pieces again"


def write_spelling(llm, text, out, size):
    """Write a tokenizer of the spelling pieces of an LLM to the directory `out`, with their rows.

    llm: directory or hub id. text: Kaldi table of transcripts. size: see `choose`. Returns how many pieces there are,
    None if they are there already. Raises UserError for a tokenizer that cannot be cut, and where `out` is of other
    texts.
    """
    from espnet_llmvq.data.tables import read_scp

    local = check_path(llm)
    made = Made(out, {"text": text} | ({"llm": llm} if local else {}), size=size, hub=None if local else llm)
    with locked(out):
        if made.done(REMEDY):
            return None
        whole = load_tokenizer(llm)
        pieces = Pieces(whole)
        rows = token_inputs(load_llm(llm)).detach().float()
        kept = [i for i in choose(pieces, whole, list(read_scp(text).values()), size) if i < len(rows)]
        with made.rebuilding() as building:
            save_tokenizer(whole, pieces, {i: n for n, i in enumerate(kept)}, building)
            import torch

            ids = torch.tensor(kept)
            save_rows(rows[ids], ids, building)
            share(building)
            made.note(sorted(os.listdir(building)), at=building)
    return len(kept)


def choose(pieces, tokenizer, lines, size):
    """Ids of spelling pieces, in the order that `in_order` gives them.

    They are all that spells any text (letters, and bytes where there are such), special tokens, and of what the lines
    need, with the pieces on its way, the `size` that come first: in the merges of a BPE, by the scores of a unigram
    model. pieces: `Pieces` of the tokenizer.
    """
    always = pieces.always(tokenizer)
    needed = set().union(*map(pieces.way, count(tokenizer, lines))) - always - pieces.added.keys()
    rank = pieces.made_at()
    first = sorted(needed, key=lambda i: (rank[i], i))[:size]
    return in_order(pieces, always.union(*map(pieces.way, first)))


def save_rows(rows, ids, directory):
    """Write the rows (P, W) of pieces and their ids (P,) to a directory."""
    from safetensors.torch import save_file

    save_file({"rows": rows.contiguous(), "ids": ids}, Path(directory, ROWS))


def read_rows(directory):
    """(rows (P, W) float32, ids (P,)) of the pieces in a directory that `write_spelling` wrote. Raises UserError."""
    from safetensors.torch import load_file

    path = os.path.join(directory, ROWS)
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; run stage 5")
    with reading(path, "remove its directory and run stage 5"):
        found = load_file(path)
        return found["rows"], found["ids"]
