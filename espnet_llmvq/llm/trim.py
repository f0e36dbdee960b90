"""An LLM directory with only the tokens that given texts need: tokenizer, embedding table and output layer cut together.

A text whose tokens are all kept is cut into the same ones as before, as the trimmed tokenizer takes the same way to
them: of BPE every piece on the way to a kept one is kept, of a unigram model the best path stays the best. Any other
text is cut into more and smaller pieces, down to bytes (or, of tokenizers without bytes, characters), which are all
kept, so that it is still written and read exactly. The rest of the model stays as it is, and so do logits of kept tokens.
"""

import json
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path

from espnet_llmvq.base.errors import UserError, reading
from espnet_llmvq.base.files import beside, check_path, locked, write_json
from espnet_llmvq.base.made import Made
from espnet_llmvq.llm.directory import REMEDIES, context, load_llm, load_tokenizer
from espnet_llmvq.llm.tokenizer import SPACE, read_lines

REPORT = "trim.json"
BATCH = 1000  # lines that are cut at once
PROBE = 16  # positions on which the trimmed model is compared with the whole one
# Keys of config.json and generation_config.json whose values are ids, or lists of them.
ID_KEYS = re.compile(r".*_token_(id|ids|index)|(begin_)?suppress_tokens|bad_words_ids")
NOT_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


class Pieces:
    """The pieces of a fast tokenizer, and which of them are needed for others.

    state: the content of tokenizer.json; path: the LLM directory, for messages. Raises UserError for a tokenizer that
    cannot be trimmed.
    """

    def __init__(self, tokenizer, path):
        def refuse(reason):
            raise UserError(f"{path}: its tokenizer cannot be trimmed: {reason}; take the whole model")

        if not tokenizer.is_fast:
            refuse(f"{type(tokenizer).__name__} is not a fast one (of the library tokenizers)")
        self.state = json.loads(tokenizer.backend_tokenizer.to_str())
        model = self.state["model"]
        kind = model.get("type")
        if kind not in ("BPE", "Unigram"):
            refuse(f"it is {kind}; BPE and unigram can be")
        if any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")):
            refuse("its pieces are marked by their place in a word")
        vocab = model["vocab"]
        self.ids = vocab if kind == "BPE" else {piece: i for i, (piece, _) in enumerate(vocab)}
        self.names = {i: piece for piece, i in self.ids.items()}
        self.added = {token["id"]: token for token in self.state["added_tokens"]}
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model.get("merges", ()))}
        self.unigram = kind == "Unigram"

        self.in_bytes = set()  # ids of pieces that spell what is no piece of its own
        by_byte = _bytes_of(self.state)
        if by_byte:
            lacking = [byte for byte, piece in by_byte.items() if piece not in self.ids and byte not in NOT_IN_UTF8]
            if lacking:
                refuse(f"it has no piece for byte {lacking[0]:#04x}")
            letters = [piece for piece in by_byte.values() if piece in self.ids]
            self.in_bytes = {self.ids[piece] for piece in letters if len(piece) > 1 or not piece.isascii()}
        else:
            letters = [piece for piece in self.ids if len(piece) == 1]
            known, ordinary = set(letters), [piece for piece, i in self.ids.items() if i not in self.added]
            if lacking := next((piece for piece in ordinary if not known.issuperset(piece)), None):
                refuse(f"it has neither bytes nor a piece for each character of its piece {lacking!r}")
        self.letters = {self.ids[piece] for piece in letters}
        if SPACE in self.ids:  # spelled in bytes it would be read as itself, not as a space
            self.letters.add(self.ids[SPACE])

    def always(self, tokenizer):
        """Ids that are kept whatever texts need: letters, special tokens, and what the chat format writes."""
        found = self.letters | set(tokenizer.all_special_ids)
        found |= {i for i, token in self.added.items() if token["special"]}
        found |= {self.ids[piece] for piece in _named(self.state) if piece in self.ids}
        if self.unigram:
            found.add(self.state["model"]["unk_id"])
            # What is unknown costs more than this piece does.
            found.add(min(self.names, key=lambda i: self.state["model"]["vocab"][i][1]))
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": ""}]
            chat = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            found |= {i for i, token in self.added.items() if token["content"] in str(tokenizer.chat_template)}
            found |= set(tokenizer.encode(chat, add_special_tokens=False))
        return found.union(*map(self.way, found)) - {None}

    def way(self, i):
        """Ids of a token and of all pieces that BPE makes on the way to it."""
        piece = self.names.get(i)
        if piece is None or i in self.added or self.unigram:
            return {i}
        parts, found = list(piece), {i}
        while True:
            found.update(self.ids[part] for part in parts if part in self.ids)
            ranks = [self.ranks.get(pair, math.inf) for pair in zip(parts, parts[1:])]
            if not ranks or min(ranks) == math.inf:
                return found
            at = ranks.index(min(ranks))
            parts[at : at + 2] = ["".join(parts[at : at + 2])]

    def cut(self, new):
        """The content of tokenizer.json with the tokens of `new`, {id: new id}."""
        state = json.loads(json.dumps(self.state))
        model = state["model"]
        if self.unigram:
            kept = sorted((new[i], entry) for i, entry in enumerate(model["vocab"]) if i in new)
            model["vocab"], model["unk_id"] = [entry for _, entry in kept], new[model["unk_id"]]
        else:
            vocab = {piece: new[i] for piece, i in self.ids.items() if i in new}
            model["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
            model["merges"] = [[a, b] for a, b in self.ranks if {a, b, a + b} <= vocab.keys()]
        tokens = [{**token, "id": new[i]} for i, token in self.added.items() if i in new]
        state["added_tokens"] = sorted(tokens, key=lambda token: token["id"])
        ids = {token["content"]: token["id"] for token in tokens} | {p: new[i] for p, i in self.ids.items() if i in new}
        _renumber_named(state, ids)
        return state


def _parts(state):
    """All dictionaries within a part of tokenizer.json."""
    if isinstance(state, dict):
        yield state
    for value in state.values() if isinstance(state, dict) else state if isinstance(state, list) else ():
        yield from _parts(value)


def _bytes_of(state):
    """{byte: its piece} of a tokenizer.json, {} if it has no bytes."""
    from tokenizers import pre_tokenizers

    if state["model"].get("byte_fallback"):
        return {byte: f"<0x{byte:02X}>" for byte in range(256)}
    if any(part.get("type") == "ByteLevel" for name in ("normalizer", "pre_tokenizer") for part in _parts(state[name])):
        # Printable bytes stand for themselves, the others for letters from 256 on, in order.
        alphabet = set(pre_tokenizers.ByteLevel.alphabet())
        own = {ord(letter) for letter in alphabet if ord(letter) < 256}
        rest = iter(sorted(letter for letter in alphabet if ord(letter) >= 256))
        return {byte: chr(byte) if byte in own else next(rest) for byte in range(256)}
    return {}


def _named(state):
    """Names of tokens that other parts of tokenizer.json than the vocabulary give with their ids."""
    found = [state["model"].get("unk_token"), (state.get("padding") or {}).get("pad_token")]
    for part in _parts(state["post_processor"]):
        found += part.get("tokens", [])
        found += [part[key][0] for key in ("sep", "cls") if key in part]
    return [name for name in found if name is not None]


def _renumber_named(state, ids):
    """Give these tokens their new ids."""
    if state.get("padding"):
        state["padding"]["pad_id"] = ids[state["padding"]["pad_token"]]
    for part in _parts(state["post_processor"]):
        if "tokens" in part:
            part["ids"] = [ids[name] for name in part["tokens"]]
        part.update({key: [part[key][0], ids[part[key][0]]] for key in ("sep", "cls") if key in part})


def _ids_in(value):
    """All ids of a value of config.json: a number, or lists of them."""
    if isinstance(value, list):
        return [i for one in value for i in _ids_in(one)]
    return [value] if type(value) is int and value >= 0 else []


def named_ids(*configs):
    """Ids that configs (of model and generation) name, such as those of the begin and end tokens."""
    values = [(key, value) for config in configs for key, value in config.to_dict().items()]
    return {i for key, value in values if ID_KEYS.fullmatch(key) for i in _ids_in(value)}


def renumber(config, new):
    """Give a config the new ids."""

    def of(value):
        if isinstance(value, list):
            return [of(one) for one in value]
        return new.get(value, value) if type(value) is int else value

    for key, value in config.to_dict().items():
        if ID_KEYS.fullmatch(key):
            setattr(config, key, of(value))


def in_batches(lines, said):
    from tqdm import tqdm

    with tqdm(total=len(lines), desc=said, unit="line", mininterval=1) as bar:
        for at in range(0, len(lines), BATCH):
            part = lines[at : at + BATCH]
            yield part
            bar.update(len(part))


def encode(tokenizer, lines):
    """Ids of each line, without special tokens."""
    return tokenizer(lines, add_special_tokens=False)["input_ids"]


def count(tokenizer, lines):
    """How often each token occurs in lines as they stand, and behind a space, as text follows a prompt."""
    counts = Counter()
    for part in in_batches(lines, "count tokens"):
        for ids in encode(tokenizer, part + [f" {line}" for line in part]):
            counts.update(ids)
    return counts


def choose(pieces, always, counts, rows, size=None):
    """Ids that are kept, all below `rows`: those of `always`, then the most frequent ones with the pieces on their way
    to them, as long as there are at most `size`.
    """
    kept = {i for i in always if i < rows}
    if size and len(kept) > size:
        raise UserError(
            f"--size {size}: bytes or characters, special tokens and the chat format are {len(kept)} tokens already; "
            f"give more"
        )
    for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        way = {i for i in pieces.way(token) if i < rows} - kept if token < rows else set()
        if not size or len(kept) + len(way) <= size:
            kept |= way
    return kept


def check_model(llm, path):
    """Raise UserError for a model of which other parts than input and output table go by token ids."""
    config = llm.config
    reason = None
    if config.get_text_config() is not config:
        reason = f"{type(llm).__name__} has other parts than text"
    if key := next((key for key, v in config.to_dict().items() if "per_layer_input" in key and v), None):
        reason = f"it has embeddings for each layer ({key} of config.json)"
    tables = {id(p) for p in tables_of(llm)}
    rows = llm.get_input_embeddings().weight.shape[0]
    for name, tensor in [*llm.named_parameters(), *llm.named_buffers()]:
        if id(tensor) not in tables and tensor.dim() and tensor.shape[0] == rows:
            reason = reason or f"its {name} has {rows} rows too, and may go by token ids"
    if reason:
        raise UserError(f"{path} cannot be trimmed: {reason}; take the whole model")


def tables_of(llm):
    """Parameters that have a row for each token; a tied one once."""
    layers = [layer for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()) if layer is not None]
    return list({id(p): p for layer in layers for p in layer.parameters()}.values())


def cut_tables(llm, kept):
    """Leave a model the rows `kept` (list of ids) of its tables, in this order."""
    import torch

    with torch.no_grad():
        for table in tables_of(llm):
            table[: len(kept)] = table[kept]
    llm.resize_token_embeddings(len(kept), mean_resizing=False)


def load(path):
    """The model of a directory as it is there, in its own precision."""
    from transformers import AutoModelForCausalLM

    local = check_path(path)
    with reading(path, REMEDIES[local]):
        return AutoModelForCausalLM.from_pretrained(path, dtype="auto", local_files_only=local).eval()


def logits(llm, ids):
    import torch

    with torch.inference_mode():
        return llm(input_ids=torch.tensor([ids], device=llm.device), use_cache=False).logits[0].float()


def trim(path, texts, out, size=None):
    """Write an LLM directory `out` with the tokens that `texts` (plain text files) need. False if that is up to date.

    Args:
        path: LLM directory or hub id, of a causal LM with a fast tokenizer.
        size: rows of the new table; None: as many as the texts need.
    Tokens keep their order. Raises UserError for what cannot be trimmed, and if `out` was made of something else.
    """
    if Path(out).resolve().is_relative_to(Path(path).resolve()):
        raise UserError(f"--out {out} is in the LLM directory that is to be trimmed; name another")
    local = check_path(path)
    inputs = {f"text {i}": name for i, name in enumerate(texts, 1)} | ({"llm": path} if local else {})
    made = Made(out, inputs, size=size, hub=None if local else path)
    remedy = "delete {out}, and all that was trained with it, to trim again, or give the former options"
    if made.done(remedy):
        return False
    with locked(out):
        if made.done(remedy):
            return False
        new_dir = beside(out, "new")
        shutil.rmtree(new_dir, ignore_errors=True)
        try:
            facts = _trim(path, texts, str(new_dir), size)
            made.note(sorted(os.listdir(new_dir)), at=new_dir, **facts)
            os.replace(new_dir, out)
        finally:
            shutil.rmtree(new_dir, ignore_errors=True)
    return True


def _trim(path, texts, out, size):
    """Write the trimmed directory; facts for the report."""
    whole, lines = load_tokenizer(path), read_lines(texts)
    pieces = Pieces(whole, path)
    llm = load(path)
    check_model(llm, path)
    rows, parameters = llm.get_input_embeddings().weight.shape[0], llm.num_parameters()
    configs = llm.config, llm.generation_config
    kept = choose(pieces, pieces.always(whole) | named_ids(*configs), count(whole, lines), rows, size)
    # Added tokens that the model of the tokenizer does not know follow its pieces; last are rows of no token.
    kept = sorted(kept, key=lambda i: (i not in pieces.names, i not in pieces.added, i))
    new = {i: n for n, i in enumerate(kept)}

    probe = kept[-PROBE:]
    before = logits(llm, probe)[:, kept]
    for config in configs:
        renumber(config, new)
    cut_tables(llm, kept)
    llm.save_pretrained(out)
    save_tokenizer(whole, pieces, new, out)

    llm = load(out)
    after = logits(llm, [new[i] for i in probe])
    apart = float((after - before).abs().max())
    if after.shape != before.shape or not apart < (1e-3 if llm.dtype.itemsize > 2 else 0.1) * float(before.std()):
        raise UserError(
            f"{path} cannot be trimmed: {type(llm).__name__} gives other logits then (they differ by {apart:.2g}); its "
            "family needs something that is not known here"
        )
    return {
        "rows": [rows, len(kept)],
        "parameters": [parameters, llm.num_parameters()],
        "logits_apart": apart,
        "texts": compare(whole, load_tokenizer(out), lines, "compare texts"),
    }


def save_tokenizer(whole, pieces, new, out):
    """Write the files of the trimmed tokenizer: those of the whole one, without tokens that are gone."""
    whole.save_pretrained(out)
    write_json(os.path.join(out, "tokenizer.json"), pieces.cut(new))
    gone = {token["content"] for i, token in pieces.added.items() if i not in new}

    def rest(value):
        if isinstance(value, dict):
            return {key: rest(v) for key, v in value.items() if not (isinstance(v, str) and v in gone)}
        return [v for v in value if v not in gone] if isinstance(value, list) else value

    file = Path(out, "tokenizer_config.json")
    config = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, {key: v for key, v in rest(config).items() if key not in ("is_local", "local_files_only")})


def compare(whole, cut, lines, said):
    """How the trimmed tokenizer cuts lines.

    {lines, as_before: lines cut as before, tokens: [before, after], others: the same of lines that are not cut as
    before, in_bytes: lines of which more is spelled in bytes than before, first_in_bytes: the first one}. Raises
    UserError if a line whose tokens are all kept is cut otherwise, or one is read as another text than before.
    """
    ids = cut.get_vocab()
    new = {i: ids[name] for name, i in whole.get_vocab().items() if name in ids}
    in_bytes = Pieces(whole, whole.name_or_path).in_bytes
    in_bytes_now = {new[i] for i in in_bytes}
    tokens, others, as_before, spelled = [0, 0], [0, 0], 0, []
    for part in in_batches(lines, said):
        for line, old, now in zip(part, encode(whole, part), encode(cut, part)):
            tokens = [tokens[0] + len(old), tokens[1] + len(now)]
            if [new.get(i) for i in old] == now:
                as_before += 1
                continue
            others = [others[0] + len(old), others[1] + len(now)]
            if sum(i in in_bytes_now for i in now) > sum(i in in_bytes for i in old):
                spelled.append(line)
            if all(i in new for i in old) or read(whole, old) != read(cut, now):
                raise UserError(
                    f"{whole.name_or_path}: its tokenizer cannot be trimmed: it would cut {line[:60]!r} otherwise "
                    f"({' '.join(cut.convert_ids_to_tokens(now))[:200]}); take the whole model"
                )
    found = {"lines": len(lines), "as_before": as_before, "tokens": tokens, "others": others, "in_bytes": len(spelled)}
    return {**found, "first_in_bytes": spelled[0]} if spelled else found


def read(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def report(path, out, held_out=()):
    """What trimming cost, and on `held_out` (plain text files) what it does to text that was not seen.

    A dict, which is also OUT/trim.json: rows, parameters and tokens of the texts before and after, and for each file
    `compare` and the perplexity per word and character, which compare between tokenizers. Each line stands alone behind
    the begin token (the end token, where there is none); its end is not predicted. Lines longer than the context of
    the model are left out of it.
    """
    file = os.path.join(out, REPORT)
    inputs = {f"held-out text {i}": name for i, name in enumerate(held_out, 1)}
    made, directory = Made(file, {"llm": out, **inputs}, whole=path), Made(out)
    if made.fresh():
        return json.loads(Path(file).read_text(encoding="utf-8"))
    said = {**directory.facts(), "held_out": {}}
    if held_out:
        tokenizers = load_tokenizer(path), load_tokenizer(out)
        lines = {name: read_lines([name]) for name in held_out}
        for name, of_file in lines.items():
            said["held_out"][name] = compare(*tokenizers, of_file, f"compare {name}")
        found = [perplexity(one, tokenizer, lines) for one, tokenizer in zip((path, out), tokenizers)]
        for name, row in said["held_out"].items():
            row["perplexity"] = {key: [of_model[name][key] for of_model in found] for key in found[0][name]}
    write_json(file, said)
    made.note()
    return said


def perplexity(path, tokenizer, lines):
    """{name: {per_word, per_character}} of a model on {name: lines}."""
    from espnet_llmvq.llm.perplexity import negative_log_likelihood

    llm = load_llm(path).eval()
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    limit, found = context(llm.config) or math.inf, {}
    for name, of_file in lines.items():
        examples = [([begin, *ids], len(ids)) for ids in encode(tokenizer, of_file)]
        fitting = [i for i, (ids, _) in enumerate(examples) if len(ids) <= limit]
        nats = negative_log_likelihood(llm, [examples[i] for i in fitting])
        words = sum(len(of_file[i].split()) for i in fitting)
        characters = sum(len(of_file[i]) for i in fitting)
        found[name] = {"per_word": math.exp(nats / words), "per_character": math.exp(nats / characters)}
    return found


def table(said):
    """The report as lines of text."""
    rows, parameters = said["rows"], [n / 1e6 for n in said["parameters"]]
    shown = [f"rows {rows[0]} -> {rows[1]}, million parameters {parameters[0]:.1f} -> {parameters[1]:.1f}"]
    for name, row in {"texts": said["texts"], **said["held_out"]}.items():
        tokens, others = row["tokens"], row["others"]
        shown.append(
            f"{name}: {row['as_before']} of {row['lines']} lines are cut as before; tokens {tokens[0]} -> {tokens[1]}"
        )
        if others[0]:
            shown.append(f"  the other lines take {100 * (others[1] / others[0] - 1):.1f} % more tokens")
        if row["in_bytes"]:
            shown.append(
                f"  {row['in_bytes']} lines are spelled in bytes in part, the first: {row['first_in_bytes'][:60]}"
            )
        for per, (before, after) in row.get("perplexity", {}).items():
            shown.append(f"  perplexity {per.replace('_', ' ')} {before:.4g} -> {after:.4g}")
    return "\n".join(shown)
