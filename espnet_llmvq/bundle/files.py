"""The files of a packed system, and whether they are what was packed. Standard library only.

    manifest.json       format, what was packed, how it searches, and size and SHA-256 of each file below
    model.safetensors   encoder, CTC head, bridge, LoRA, a trained LLM: all tensors but those of the frozen LLM
    config.yaml         what builds the model around them
    llm/                tokenizer; and the LLM, unless the manifest names one of the hub
    encoder/            config and feature extractor of a pretrained encoder, if it has one
    spelling/           tokens of the CTC head, if they are not all of the LLM's
    licences/           of what is inside; texts that no program reads
    README.md           model card, for people: it may be edited; then it is not replaced

There are no pickles and no code. A file that the manifest does not name is refused, but for those that git and
huggingface_hub leave behind.
"""

import contextlib
import json
import math
import os
import re
import shutil
from pathlib import Path

from espnet_llmvq.base.errors import UserError, reading
from espnet_llmvq.base.files import OURS, locked, sha256
from espnet_llmvq.base.hub import is_terms
from espnet_llmvq.score.files import some

FORMAT, VERSION = "espnet_llmvq packed system", 1
MANIFEST, CARD = "manifest.json", "README.md"
WEIGHTS, CONFIG, LLM, ENCODER = "model.safetensors", "config.yaml", "llm", "encoder"
SPELLING, LICENCES = "spelling", "licences"
MB = 1000**2
SUFFIXES = (".safetensors", ".json", ".yaml", ".model", ".txt", ".jinja")
LEFT_BEHIND = (".git", ".cache", ".gitattributes")  # by git and huggingface_hub
KEYS = ("system", "label", "decode", "search", "max_segment", "prompt", "llm", "files")
SEARCH = ("num_beams", "length_penalty", "ctc_weight", "tokens_per_second", "draft", "draft_accept")
LATER = {"tokens_per_second": 1, "draft": "none", "draft_accept": 1}  # earlier ones are without
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
READS = re.compile(r"(^|_)(files?|path|dir)$|^transformers_weights$")  # keys of configs that name what else is read


def _number(value, lowest=-math.inf, highest=math.inf):
    return type(value) in (int, float) and lowest <= value <= highest


# key -> function of its value: is it possible?
VALID = {
    "decode": lambda v: v in ("llm", "ctc"),
    "prompt": lambda v: v is None or isinstance(v, str),
    "max_segment": lambda v: _number(v, 1.0),
    "llm": lambda v: isinstance(v, str) and (v == LLM or HUB_ID.fullmatch(v)),
    "files": lambda v: isinstance(v, dict),
    "search": lambda v: (
        isinstance(v, dict)
        and {**LATER, **v}.keys() == set(SEARCH)
        and type(v["num_beams"]) is int
        and v["num_beams"] >= 1
        and _number(v["length_penalty"])
        and _number(v["ctc_weight"], 0, 1)
        and _number(v.get("tokens_per_second", 1), 0)
        and v.get("draft", "none") in ("none", "ctc")
        and _number(v.get("draft_accept", 1), 0, 1)
    ),
}


def check_draft(search, where):
    """Raise UserError for search options that ask for drafts and a beam."""
    if search.get("draft") == "ctc" and search["num_beams"] > 1:
        raise UserError(f"{where}: draft ctc is a greedy search, but num_beams is {search['num_beams']}; give 1")


def digest(path):
    """Size in bytes and SHA-256 of a file."""
    return {"size": os.path.getsize(path), "sha256": sha256(path)}


def check_size(directory, out, most):
    """Raise UserError if the files of a directory, to be called `out`, have more than `most` MB (None: any)."""
    sizes = {name: os.path.getsize(os.path.join(directory, name)) / MB for name in list_files(directory)}
    if most is not None and not (total := sum(sizes.values())) <= most:
        largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
        raise UserError(
            f"{out} would have {total:.1f} MB, more than --max_mb {most:g}: "
            f"{', '.join(f'{name} {sizes[name]:.1f}' for name in largest)}; allow more, store only the name of an LLM "
            "that is on the hub (--llm OWNER/NAME), or train with a smaller one (llmvq lm trim); nothing was written"
        )


def list_files(directory):
    """Relative paths, with "/", of all files and links below a directory, without what is `LEFT_BEHIND`."""
    # Links to directories are not walked into.
    found = (path for path in Path(directory).rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(directory) for path in found)
    return sorted(name.as_posix() for name in names if name.parts[0] not in LEFT_BEHIND)


def is_packed(directory):
    """Whether a directory is a packed system, intact or not."""
    try:
        with open(os.path.join(directory, MANIFEST), encoding="utf-8") as f:
            return json.load(f).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read_manifest(directory):
    """The manifest of a packed system as a dict. Raises UserError that says what is wrong with it."""
    path = os.path.join(directory, MANIFEST)
    if not os.path.isdir(directory):
        raise UserError(f"{directory} is not a directory; give the one that stage 16 wrote")
    try:
        with open(path, encoding="utf-8") as f:
            manifest = json.load(f)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; pack the system (stage 16)") from None
    except (OSError, ValueError) as err:
        raise UserError(f"{path}: cannot be read ({err}); pack the system again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not of a packed system (format {FORMAT!r})")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{path}: version {manifest.get('version')!r} of the format, this program reads {VERSION}; "
            "use the espnet_llmvq that packed it, or pack again"
        )
    missing = [key for key in KEYS if key not in manifest]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; pack the system again")
    for key, valid in VALID.items():
        if not valid(manifest[key]):
            raise UserError(f"{path}: {key} is {manifest[key]!r}, which is not possible; pack again")
    if manifest["decode"] == "llm" and manifest["prompt"] is None:
        raise UserError(f"{path}: a system with an LLM has no prompt; pack again")
    return manifest


def check_name_inside(directory, name):
    """Raise UserError unless `name` stays within the directory, links followed, and is no code and no pickle."""
    path = os.path.join(directory, MANIFEST)
    parts = name.split("/")
    if not name or "\\" in name or os.path.isabs(name) or {"", ".", ".."} & set(parts):
        raise UserError(f"{path}: the file {name!r} lies outside of the directory")
    root, real = os.path.realpath(directory), os.path.realpath(os.path.join(directory, name))
    if os.path.commonpath([root, real]) != root:
        raise UserError(f"{directory}: {name} is a link to {real}, outside of the directory; copy the files themselves")
    if not name.endswith(SUFFIXES) and not (parts[0] == LICENCES and is_terms(parts[-1])):
        raise UserError(f"{directory}: {name} is none of {', '.join(SUFFIXES)}; pickles and code are not loaded")


def check_reads_nothing(content, where):
    """Raise UserError if a config, at any depth, has a key that names a file or directory to read."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        if READS.search(str(key)) and value and isinstance(value, str | list):
            raise UserError(f"{where}: {key} reads {value}, which a packed system cannot hold; train without it")
        check_reads_nothing(value, where)


def check_description(directory, name, files):
    """Raise UserError if a JSON file of the LLM or encoder asks for code or weights from elsewhere."""
    path = os.path.join(directory, name)
    try:
        with open(path, encoding="utf-8") as f:
            content = json.load(f)
    except ValueError as err:
        raise UserError(f"{path}: not JSON ({err})") from None
    if not isinstance(content, dict):
        return
    if "auto_map" in content:
        raise UserError(f"{path}: auto_map asks for code of its own, which is not run")
    if name.endswith("/adapter_config.json"):
        raise UserError(f"{path}: stands for another LLM, which is not in the directory; pack the system again")
    if name.endswith("_config.json") or name.endswith("/config.json"):  # others hold tokens, which are called anything
        check_reads_nothing(content, path)
    if name.endswith(".index.json"):
        shards = {f"{name.split('/')[0]}/{shard}" for shard in content.get("weight_map", {}).values()}
        if outside := sorted(shards - set(files)):
            raise UserError(f"{path}: names {some(outside)}, which is not in {MANIFEST}; pack the system again")


def verify(directory):
    """The manifest of a packed system whose files are all there, unchanged, and no others.

    Raises UserError that names the file: missing, foreign, changed, outside of the directory, a pickle, code.
    """
    manifest = read_manifest(directory)
    for name in manifest["files"]:
        check_name_inside(directory, name)
    # The two are not in it, but no links out of the directory either.
    found = list_files(directory)
    for name in {MANIFEST, CARD} & set(found):
        if os.path.islink(os.path.join(directory, name)):
            raise UserError(f"{directory}: {name} is a link; copy the file itself")
    needed = {WEIGHTS, CONFIG, f"{LLM}/tokenizer_config.json"} - set(manifest["files"])
    missing = sorted(needed | (set(manifest["files"]) - set(found)))
    if missing:
        raise UserError(f"{directory} lacks {some(missing)}; copy it again or pack the system again")
    foreign = sorted(set(found) - set(manifest["files"]) - {MANIFEST, CARD})
    if foreign:
        raise UserError(f"{directory}: {some(foreign)} is not in {MANIFEST}; remove it, or copy the directory again")
    for name, recorded in manifest["files"].items():
        if digest(os.path.join(directory, name)) != recorded:
            raise UserError(f"{directory}: {name} is not what was packed (SHA-256 differs); copy it again")
        if name.startswith((f"{LLM}/", f"{ENCODER}/")) and name.endswith(".json"):
            check_description(directory, name, manifest["files"])
    return manifest


def check_packed(out):
    """Raise UserError if there is something at `out` that is not a packed system, or one with files of others in it."""
    if os.path.lexists(out) and not is_packed(out):
        raise UserError(f"{out} exists and is not a packed system; give another directory")
    if not os.path.exists(out) or os.path.islink(out):  # what a link leads to stays
        return
    with open(os.path.join(out, MANIFEST), encoding="utf-8") as f:
        manifest = json.load(f)
    packed = {**manifest.get("files", {}), CARD: manifest.get("card")}
    for path in sorted(Path(out).rglob("*")):
        name = path.relative_to(out).as_posix()
        if name != MANIFEST and (path.is_symlink() or not path.is_dir()):
            if path.is_symlink() or packed.get(name) != digest(path):
                raise UserError(
                    f"{path} is not what was packed, and would be lost; move it away, or name another place"
                )


@contextlib.contextmanager
def replacing(out):
    """In a `with`, a new directory to write into, which gets the name `out` at the end, or vanishes after an error.

    A packed system of that name keeps it until then. A link to one is replaced, and what it leads to left alone. Raises
    UserError if `out` is something else's.
    """
    check_packed(out)
    out = os.path.abspath(out)
    temporary = os.path.join(os.path.dirname(out), f".{os.path.basename(out)}{OURS}tmp")
    old = f"{temporary}.old"

    def remove_old():
        if os.path.lexists(old):
            os.unlink(old) if os.path.islink(old) else shutil.rmtree(old)

    with locked(out):
        if os.path.lexists(old) and not os.path.lexists(out):  # killed between the two steps below
            os.rename(old, out)
        remove_old()
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(temporary)
        try:
            yield temporary
            if os.path.lexists(out):
                os.rename(out, old)
            os.rename(temporary, out)
        except BaseException:
            if os.path.lexists(old):
                os.rename(old, out)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        remove_old()


def decoded_with(system):
    """Search options of the hypotheses of a `System`, {} if there are none.

    Raises UserError if sets differ in them, and for searches and numbers that packed systems do not have.
    """
    from glob import escape, glob

    from espnet_llmvq.base.environment import FILE

    found, (head, tail) = {}, map(escape, system.hypotheses.split("{set}"))
    for path in sorted(glob(os.path.join(os.path.dirname(f"{head}*{tail}"), FILE))):
        with reading(path, "decode again (stage 12)"), open(path, encoding="utf-8") as f:
            known = json.load(f)
        options = {key: known[key] for key in SEARCH if key in known}
        every = "--num_beams, --length_penalty, --ctc_weight, --tokens_per_second, --draft and --draft_accept"
        if other := [f"--{key}" for key in ("joint_ctc", "llm_dtype") if key in known]:
            have = f"decoded with {' and '.join(other)}, which packed systems do not have"
            raise UserError(f"{path}: {have}; give all of {every}")
        if found and options != found:
            raise UserError(f"{path}: decoded with {options}, another set with {found}; give {every}")
        found = options
    return found
