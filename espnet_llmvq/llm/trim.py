"""An LLM directory with only the tokens that given texts need: tokenizer and tables cut together, all else as it was.

Logits of the tokens that are kept are the same. `pieces` says which these are, and why any text can still be written.
"""

import json
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import beside, check_path, locked, share, write_json
from espnet_llmvq.base.hub import from_pretrained, is_terms
from espnet_llmvq.base.made import Made
from espnet_llmvq.llm.directory import REMEDIES, context, load_llm, load_tokenizer
from espnet_llmvq.llm.perplexity import negative_log_likelihood, per
from espnet_llmvq.llm.pieces import Pieces
from espnet_llmvq.llm.tokenizer import read_lines

REPORT = "trim.json"
BATCH = 1000  # lines that are cut at once
PROBE = 16  # positions on which the trimmed model is compared with the whole one
# Keys of config.json and generation_config.json whose values are ids, or lists of them.
ID_KEYS = re.compile(r".*_token_(id|ids|index)|(begin_)?suppress_tokens|bad_words_ids")


def trim(path, texts, out, size=None):
    """Write an LLM directory `out` with the tokens that `texts` (plain text files) need. False if it is there already.

    path: LLM directory or hub id. size: most rows of the new table; None: as many as the texts need. Raises UserError
    for an LLM that cannot be trimmed, and if `out` is another directory or was made of something else.
    """
    local = check_path(path)
    if local and Path(out).resolve().is_relative_to(Path(path).resolve()):
        raise UserError(f"--out {out} is in the LLM directory that is to be trimmed; name another")
    inputs = {f"text {i}": name for i, name in enumerate(texts, 1)} | ({"llm": path} if local else {})
    made = Made(out, inputs, size=size, hub=None if local else path)
    with locked(out):
        if made.done("delete {out}, and all that was trained with it, to trim again, or give the former options"):
            return False
        new_dir = beside(out, "new")
        shutil.rmtree(new_dir, ignore_errors=True)
        try:
            facts = write_trimmed(path, read_lines(texts), str(new_dir), size)
            if local and (licence := Made(path).facts().get("licence")):
                facts["licence"] = licence
            share(new_dir)
            made.note(sorted(os.listdir(new_dir)), at=new_dir, **facts)
            os.replace(new_dir, out)
        finally:
            shutil.rmtree(new_dir, ignore_errors=True)
    return True


def write_trimmed(path, lines, out, size):
    """Write the trimmed directory, and try it; what the report says of it."""
    whole = load_tokenizer(path)
    pieces = Pieces(whole)
    llm = load(path)
    check_model(llm, path)
    rows, parameters = llm.get_input_embeddings().weight.shape[0], llm.num_parameters()
    configs = llm.config, llm.generation_config
    kept = choose(pieces, pieces.always(whole) | named_ids(configs), count(whole, lines), rows, size)
    kept = in_order(pieces, kept)
    new = {i: n for n, i in enumerate(kept)}

    probe = kept[-PROBE:]
    before = logits(llm, probe)[:, kept]
    cut_model(llm, kept)
    llm.save_pretrained(out)
    save_tokenizer(whole, pieces, new, out)
    for file in Path(path).glob("*"):
        if is_terms(file.name) and file.is_file():
            shutil.copy(file, out)

    cut = load_tokenizer(out)
    if cut.get_vocab() != {name: new[i] for name, i in whole.get_vocab().items() if i in new}:
        raise UserError(f"{path}: its tokenizer cannot be trimmed: it gives other ids when loaded; take the whole LLM")
    llm = load(out)
    apart = float((logits(llm, [new[i] for i in probe]) - before).abs().max())
    if not apart < (1e-3 if llm.dtype.itemsize > 2 else 0.1) * float(before.std()):
        raise UserError(
            f"{path} cannot be trimmed: {type(llm).__name__} gives other logits then (they differ by {apart:.2g}); its "
            "family needs something that is not known here"
        )
    return {
        "rows": [rows, len(kept)],
        "parameters": [parameters, llm.num_parameters()],
        "logits_apart": apart,
        "texts": compare(whole, cut, lines, "compare texts"),
    }


def load(path):
    """The model of a directory as it is there, in its own precision."""
    from transformers import AutoModelForCausalLM

    local = check_path(path)
    return from_pretrained(AutoModelForCausalLM, path, local, REMEDIES[local], dtype="auto").eval()


def logits(llm, ids):
    import torch

    with torch.inference_mode():
        return llm(input_ids=torch.tensor([ids], device=llm.device), use_cache=False).logits[0].float()


def tables_of(llm):
    """Parameters with a row for each token; tied ones once."""
    layers = [layer for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()) if layer is not None]
    return list({id(p): p for layer in layers for p in layer.parameters()}.values())


def check_model(llm, path):
    """Raise UserError for a model that has more than input and output tables that goes by token ids."""

    def refuse(reason):
        raise UserError(f"{path}: {type(llm).__name__} cannot be trimmed: {reason}; take the whole LLM")

    if llm.config.get_text_config() is not llm.config:
        refuse("it has other parts than a language model")
    if key := next((key for key, v in llm.config.to_dict().items() if "per_layer_input" in key and v), None):
        refuse(f"it has embeddings for each layer ({key} in config.json)")
    tables = {id(p) for p in tables_of(llm)}
    rows = llm.get_input_embeddings().weight.shape[0]
    for name, tensor in [*llm.named_parameters(), *llm.named_buffers()]:
        if id(tensor) not in tables and tensor.dim() and tensor.shape[0] == rows:
            refuse(f"{name} has as many rows as the embedding table ({rows}) and may go by token ids too")


def cut_model(llm, kept):
    """Leave a model only the rows `kept` (list of ids) of its tables, in this order, and their ids in its configs."""
    import torch

    new = {i: n for n, i in enumerate(kept)}
    for config in (llm.config, llm.generation_config):
        for key, value in config.to_dict().items():
            if ID_KEYS.fullmatch(key):
                setattr(config, key, renumbered(value, new))
    with torch.no_grad():
        for table in tables_of(llm):
            table[: len(kept)] = table[kept]
    llm.resize_token_embeddings(len(kept), mean_resizing=False)


def named_ids(configs):
    """Ids that configs name, such as those of begin and end tokens."""

    def of(value):
        return {i for one in value for i in of(one)} if isinstance(value, list) else {value}

    values = [value for config in configs for key, value in config.to_dict().items() if ID_KEYS.fullmatch(key)]
    return {i for i in of(values) if type(i) is int and i >= 0}


def renumbered(value, new):
    if isinstance(value, list):
        return [renumbered(one, new) for one in value]
    return new.get(value, value)


def save_tokenizer(whole, pieces, new, out):
    """Write the files of the whole tokenizer, without tokens that are gone."""
    whole.save_pretrained(out)
    write_json(Path(out, "tokenizer.json"), pieces.cut(new))
    gone = {token["content"] for i, token in pieces.added.items() if i not in new}

    def rest(value):
        if isinstance(value, dict):
            return {key: rest(v) for key, v in value.items() if not (isinstance(v, str) and v in gone)}
        return [v for v in value if v not in gone] if isinstance(value, list) else value

    file = Path(out, "tokenizer_config.json")
    config = rest(json.loads(file.read_text(encoding="utf-8")))
    write_json(file, {key: v for key, v in config.items() if key not in ("is_local", "local_files_only")})


def in_batches(lines, said):
    """Lists of lines, with a progress bar."""
    from tqdm import tqdm

    with tqdm(total=len(lines), desc=said, unit="line", mininterval=1) as bar:
        for at in range(0, len(lines), BATCH):
            yield lines[at : at + BATCH]
            bar.update(len(lines[at : at + BATCH]))


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


def in_order(pieces, kept):
    """List of ids in the order that they have in a cut tokenizer."""
    # Pieces keep their order, added or not: a unigram model counts them. A tokenizer counts what is added beside them
    # from their end on; last are rows of no token.
    return sorted(kept, key=lambda i: (i not in pieces.names, i not in pieces.names and i not in pieces.added, i))


def choose(pieces, always, counts, rows, size=None):
    """Ids below `rows` that are kept, at most `size`: `always`, then the most frequent ones with those on their way."""
    kept = {i for i in always if i < rows}
    if size and len(kept) > size:
        raise UserError(f"--size {size}: letters, special tokens and the chat format alone are {len(kept)}; give more")
    for token in sorted((i for i in counts if i < rows), key=lambda i: (-counts[i], i)):
        way = pieces.way(token) - kept
        if not size or len(kept) + len(way) <= size:
            kept |= way
    return kept


def compare(whole, cut, lines, said):
    """How the trimmed tokenizer cuts lines.

    {lines, as_before: lines cut as before, tokens: [before, after], others: tokens of lines that are not cut as before,
    in_bytes: lines of which more is spelled in bytes than before, first_in_bytes: how the first of them begins}. Raises
    UserError if a line whose tokens are all kept is cut otherwise, or one is read as another text than before.
    """
    ids, in_bytes, in_bytes_now = cut.get_vocab(), Pieces(whole).in_bytes, Pieces(cut).in_bytes
    new = {i: ids[name] for name, i in whole.get_vocab().items() if name in ids}
    tokens, others, as_before, spelled = Counter(), Counter(), 0, []
    for part in in_batches(lines, said):
        for line, old, now in zip(part, encode(whole, part), encode(cut, part)):
            lengths = {"before": len(old), "after": len(now)}
            tokens.update(lengths)
            if [new.get(i) for i in old] == now:
                as_before += 1
                continue
            others.update(lengths)
            if sum(i in in_bytes_now for i in now) > sum(i in in_bytes for i in old):
                spelled.append(line)
            if new.keys() >= set(old) or whole.decode(old) != cut.decode(now):
                raise UserError(
                    f"{whole.name_or_path}: its tokenizer cannot be trimmed: {line[:60]!r} would be cut otherwise "
                    f"({' '.join(cut.convert_ids_to_tokens(now))[:200]})"
                )
    return {
        "lines": len(lines),
        "as_before": as_before,
        "tokens": [tokens["before"], tokens["after"]],
        "others": [others["before"], others["after"]],
        "in_bytes": len(spelled),
        "first_in_bytes": spelled[0][:100] if spelled else None,
    }


def report(path, out, held_out=()):
    """What trimming cost, and on `held_out` (plain text files) what it does to text that was not seen.

    A dict, which is also OUT/trim.json: rows, parameters and `texts` as [before, after], and for each held-out file
    what `compare` says, and `perplexity`.
    """
    file = Path(out, REPORT)
    inputs = {f"held-out text {i}": name for i, name in enumerate(held_out, 1)}
    made = Made(file, {"llm": out, **inputs}, whole=path)
    if made.fresh():
        return json.loads(file.read_text(encoding="utf-8"))
    found = {}
    if held_out:
        lines, tokenizers = {name: read_lines([name]) for name in held_out}, [load_tokenizer(path), load_tokenizer(out)]
        found = {name: compare(*tokenizers, lines[name], f"compare {name}") for name in held_out}
        before, after = (perplexity(llm, tokenizer, lines) for llm, tokenizer in zip((path, out), tokenizers))
        for name, row in found.items():
            row["perplexity"] = {unit: [before[name][unit], after[name][unit]] for unit in before[name]}
    said = {**Made(out).facts(), "held_out": found}
    write_json(file, said)
    made.note()
    return said


def perplexity(path, tokenizer, lines):
    """{name: {per_word, per_character}} of an LLM on {name: lines}: figures that compare between tokenizers.

    A line stands alone behind the begin token (the end token where there is none), and its end is not predicted. Lines
    longer than the context of the LLM are left out.
    """
    llm = load_llm(path).eval()
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    limit, found = context(llm.config) or math.inf, {}
    for name, of_file in lines.items():
        examples = [(line, [begin, *ids]) for line, ids in zip(of_file, encode(tokenizer, of_file)) if len(ids) < limit]
        if not examples:
            raise UserError(f"{name}: every line is longer than the LLM's context of {limit} tokens; cut them")
        nats = negative_log_likelihood(llm, [(ids, len(ids) - 1) for _, ids in examples])
        units = {
            "per_word": sum(len(line.split()) for line, _ in examples),
            "per_character": sum(len(line) for line, _ in examples),
        }
        found[name] = {unit: per(n, nats) for unit, n in units.items()}
    return found


def table(said):
    """The report as lines of text."""
    (rows, rows_now), millions = said["rows"], [f"{n / 1e6:.1f}" for n in said["parameters"]]
    shown = [f"{rows_now} of {rows} rows, {millions[1]} of {millions[0]} million parameters"]
    for name, row in {"texts": said["texts"], **said["held_out"]}.items():
        (tokens, tokens_now), (others, others_now) = row["tokens"], row["others"]
        more = f", the others with {100 * (others_now / others - 1):.1f} % more tokens" if others else ""
        shown.append(f"{name}: {row['as_before']} of {row['lines']} lines are cut as before{more}")
        shown.append(f"  {tokens} tokens before, {tokens_now} after")
        if row["in_bytes"]:
            shown.append(f"  {row['in_bytes']} lines spelled in bytes in part, such as {row['first_in_bytes'][:60]!r}")
        for unit, values in row.get("perplexity", {}).items():
            before, after = ("-" if value is None else f"{value:.4g}" for value in values)
            shown.append(f"  perplexity {unit.replace('_', ' ')}: {before} before, {after} after")
    return "\n".join(shown)
