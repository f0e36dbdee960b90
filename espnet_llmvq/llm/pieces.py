"""The pieces of a fast tokenizer: which are needed for others, and the tokenizer that has only some of them.

A text whose tokens are all kept is cut into the same ones as before: of BPE, the pieces on the way to a token are kept
with it, so that each merge is still the first that can be made; of a unigram model, the best path is still there.
Any other text is cut into smaller pieces, down to letters, which are all kept: bytes, or, of a tokenizer without them,
characters. So it is written and read as before.
"""

import copy
import json
import math
import re

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.tokenizer import PRINTABLE, SPACE
from espnet_llmvq.sequence.prompt import in_chat

UNUSED = re.compile("unused|reserved", re.IGNORECASE)  # in names of special tokens that stand for nothing yet
NOT_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


class Pieces:
    """Of a Hugging Face tokenizer. Raises UserError, with the reason, for one that cannot be trimmed.

    ids: {piece: id}, without added tokens that the model of the tokenizer does not know; names: {id: piece};
    added: {id: entry of tokenizer.json}; letters: ids of what any text can be spelled with, and of ASCII characters;
    in_bytes: ids of bytes that spell a character that is no piece of its own.
    """

    def __init__(self, tokenizer):
        def refuse(reason):
            raise UserError(f"{tokenizer.name_or_path}: its tokenizer cannot be trimmed: {reason}; take the whole LLM")

        if not tokenizer.is_fast:
            refuse(f"{type(tokenizer).__name__} is none of the library tokenizers (a fast one)")
        self.state = json.loads(tokenizer.backend_tokenizer.to_str())
        self.model = model = self.state["model"]
        if model["type"] not in ("BPE", "Unigram"):
            refuse(f"it is a {model['type']} model; BPE and Unigram can be")
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            refuse("its pieces are marked by their place in a word")
        self.unigram = model["type"] == "Unigram"
        self.ids = {piece: i for i, (piece, _) in enumerate(model["vocab"])} if self.unigram else model["vocab"]
        self.names = {i: piece for piece, i in self.ids.items()}
        self.added = {token["id"]: token for token in self.state["added_tokens"]}
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model.get("merges", ()))}

        bytes_ = bytes_of(self.state)
        lacking = [byte for byte, piece in bytes_.items() if piece not in self.ids and byte not in NOT_IN_UTF8]
        if lacking:
            refuse(f"it has no piece for byte {lacking[0]:#04x}")
        # A space that is spelled in bytes would be read as its mark.
        letters = [*bytes_.values(), SPACE, *PRINTABLE] if bytes_ else [p for p in self.ids if len(p) == 1]
        self.letters = {self.ids[letter] for letter in letters if letter in self.ids}
        spelling = [piece for byte, piece in bytes_.items() if byte > 127 or len(piece) > 1]
        self.in_bytes = {self.ids[piece] for piece in spelling if piece in self.ids}
        if not bytes_:
            known = set(letters)
            for piece, i in self.ids.items():
                if i not in self.added and i != model.get("unk_id") and not known.issuperset(piece):
                    refuse(f"it has neither bytes nor pieces for the single characters of its piece {piece!r}")

    def always(self, tokenizer):
        """Ids that are kept whatever texts need: letters, special tokens that are used, what the chat format writes."""
        found = self.letters | set(tokenizer.all_special_ids)
        found |= {i for i, token in self.added.items() if token["special"] and not UNUSED.search(token["content"])}
        found |= {self.ids[piece] for piece in named(self.state) if piece in self.ids}
        if self.unigram:
            # What is unknown costs more than the piece with the lowest score.
            scores = [score for _, score in self.model["vocab"]]
            found |= {self.model["unk_id"], scores.index(min(scores))} - {None}
        if tokenizer.chat_template:
            found |= set(tokenizer.encode(in_chat("", tokenizer), add_special_tokens=False))
            found |= {i for i, token in self.added.items() if token["content"] in str(tokenizer.chat_template)}
        return found.union(*map(self.way, found))

    def way(self, token):
        """Ids of a token and of the pieces on the way to it."""
        if self.unigram or token in self.added:
            return {token}
        parts, found = list(self.names[token]), {token}
        while True:
            found.update(self.ids[part] for part in parts if part in self.ids)
            ranks = [self.ranks.get(pair, math.inf) for pair in zip(parts, parts[1:])]
            if min(ranks, default=math.inf) == math.inf:
                return found
            at = ranks.index(min(ranks))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]

    def made_at(self):
        """{id: how late a piece is made}: the rank of its merge, 0 for letters; of a unigram model, its cost."""
        if self.unigram:
            return {self.ids[piece]: -score for piece, score in self.model["vocab"]}
        found = {}
        for (a, b), rank in self.ranks.items():
            found.setdefault(self.ids[a + b], rank + 1)
        return {i: found.get(i, 0) for i in self.names}

    def cut(self, new):
        """The content of tokenizer.json with the tokens of `new`, {id: new id}: the pieces first, in their order."""
        state, model = copy.deepcopy({**self.state, "model": {}}), dict(self.model)
        state["model"], kept = model, {piece: new[i] for piece, i in self.ids.items() if i in new}
        if self.unigram:
            model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
            model["unk_id"] = new.get(model["unk_id"])
        else:
            model["vocab"] = kept
            model["merges"] = [[a, b] for a, b in self.ranks if {a, b, a + b} <= kept.keys()]
        state["added_tokens"] = [{**token, "id": new[i]} for i, token in self.added.items() if i in new]
        ids = kept | {token["content"]: token["id"] for token in state["added_tokens"]}
        if state["padding"]:
            state["padding"]["pad_id"] = ids[state["padding"]["pad_token"]]
        for part in parts_of(state["post_processor"]):
            if "tokens" in part:
                part["ids"] = [ids[name] for name in part["tokens"]]
            part.update({key: [part[key][0], ids[part[key][0]]] for key in ("sep", "cls") if key in part})
        return state


def parts_of(value):
    """All dictionaries within a part of a tokenizer.json."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from parts_of(one)


def named(state):
    """Names of tokens whose ids stand in a tokenizer.json elsewhere than in the vocabulary."""
    found = [state["model"].get("unk_token"), (state["padding"] or {}).get("pad_token")]
    for part in parts_of(state["post_processor"]):
        found += [*part.get("tokens", ()), *(part[key][0] for key in ("sep", "cls") if key in part)]
    return [name for name in found if name is not None]


def bytes_of(state):
    """{byte: its piece} of a tokenizer.json; {} if it has no pieces for bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    if state["model"].get("byte_fallback"):
        return {byte: f"<0x{byte:02X}>" for byte in range(256)}
    parts = [*parts_of(state["normalizer"]), *parts_of(state["pre_tokenizer"])]
    return bytes_to_unicode() if any(part.get("type") == "ByteLevel" for part in parts) else {}
