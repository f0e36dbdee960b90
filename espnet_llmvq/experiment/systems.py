"""Systems and phases: what a row of the results table is made of.

A system is a row: a label, the phases that train it in order, and how it decodes. Those of `decode: ctc_lm` train the
LLM that it fuses; without any it is the LLM as it is. A phase is a training config; it starts from the phase before it.
Systems that begin with the same phases share them, because a phase is stored under the names of all phases up to it.
Both are entries of a card file (`cards`).

So are mixtures, `SET/FORM: SHARE`: a phase that names one (`mixture: NAME`) trains on that, another one on the
transcribed speech of the training set, or on a part of it (`train_share: 0.25`).

An entry among the systems with the one key `systems` is a group: its name stands for those systems.
"""

import os

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.experiment.table import System
from espnet_llmvq.experiment.training import Training
from espnet_llmvq.speech.recogniser import TASKS, TRANSCRIBE

DECODERS = ("llm", "ctc", "ctc_lm", "recogniser")
# Keys that only systems of one decoder have, with what they are without.
OWN_KEYS = {
    "ctc_lm": {"lm_weight": None, "length_bonus": 0.0, "num_beams": None},
    "recogniser": {"num_beams": 1, "language": "", "task": TRANSCRIBE, "prompt_words": ""},
}
SYSTEM_KEYS = ("label", "phases", "decode", "note", *(key for keys in OWN_KEYS.values() for key in keys))
GROUP_KEY = "systems"
MIXTURE_KEY, SHARE_KEY = "mixture", "train_share"
FORMS = ("asr", "text", "heard")  # of a source, beside the names in the section interleave


def is_group(cards, name):
    """Whether the name of a system stands for several."""
    return GROUP_KEY in cards.entry("systems", name)


def expand(cards, wanted):
    """The names of systems that `wanted` stands for, groups replaced by their members, each once.

    Raises UserError for unknown names, also within a group, and for a group that is not a list of systems.
    """
    known, found = cards.names("systems"), {}
    for name in wanted:
        check_name("system", name, known)
        if not is_group(cards, name):
            found[name] = None
            continue
        where, members = cards.where("systems", name), cards.entry("systems", name)[GROUP_KEY]
        for key in cards.entry("systems", name):
            check_name(f"key in {where}, a group,", key, [GROUP_KEY])
        if not (isinstance(members, list) and members):
            raise UserError(f"{where}: {GROUP_KEY} must be a list of names of systems")
        for member in members:
            if cards.has_dropped("systems", str(member)):
                continue
            check_name(f"system in {where}:", member, known)
            if is_group(cards, member):
                raise UserError(f"{where}: {member} is a group too; name its systems instead")
            found[member] = None
    return list(found)


def phases_of(cards, name, seed=1):
    """The phases of a system in their order, as `Training`s with the configs of the cards.

    seed: other than 1 it becomes part of the tags. Raises UserError for unknown phases and mixtures.
    """
    where, names = cards.where("systems", name), cards.entry("systems", name).get("phases", [])
    if not isinstance(names, list):
        raise UserError(f"{where}: phases must be a list of names; leave the key out if there are none")
    phases, parent, suffix = [], "", "" if seed == 1 else f"_seed{seed}"
    for phase in names:
        if cards.has_dropped("phases", str(phase)):
            continue
        check_name(f"phase in {where}:", phase, cards.names("phases"))
        tag = (f"{parent.removesuffix(suffix)}-{phase}" if parent else phase) + suffix
        config, place = cards.phase(phase), cards.where("phases", phase)
        mixture = config.pop(MIXTURE_KEY, None)
        if mixture is not None:
            check_name(f"mixture in {place}:", mixture, cards.names("mixtures"))
        share = read_share(config.pop(SHARE_KEY, 1.0), config, mixture, place)
        phases.append(Training(tag, place, config, parent, mixture or "", share=share))
        parent = tag
    return phases


def read_share(share, config, mixture, where):
    """The share of the training set that a phase trains on. Raises UserError for what is none, or changes its steps."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise UserError(f"{where}: {SHARE_KEY} is {share!r}; it must be a number above 0, at most 1")
    if share < 1 and mixture is not None:
        raise UserError(f"{where}: {SHARE_KEY} is of the training set, and a mixture is another; leave one out")
    if share < 1 and not config.get("num_iters_per_epoch"):
        raise UserError(f"{where}: {SHARE_KEY} needs num_iters_per_epoch, or less data would also mean fewer steps")
    return float(share)


def read_phases(cards, wanted, seed=1):
    """All phases of the systems named in `wanted`, each once, parents first."""
    found = {}
    for name in expand(cards, wanted):
        for phase in phases_of(cards, name, seed):
            found.setdefault(phase.tag, phase)
    return list(found.values())


def read_systems(cards, wanted, expdir="exp", encoder_dir="exp/encoder", seed=1):
    """The systems named in `wanted` (list; systems and groups), in its order, as `System`s.

    encoder_dir: where the encoder is; its hypotheses are in EXPDIR/encoder in any case. Raises UserError for unknown
    names, keys, phases and mixtures.
    """
    systems = []
    for name in expand(cards, wanted):
        where, data = cards.where("systems", name), cards.entry("systems", name)
        for key in data:
            check_name(f"key in {where}:", key, SYSTEM_KEYS)
        decode = check_name(f"decode in {where}:", data.get("decode", "llm"), DECODERS)
        phases = phases_of(cards, name, seed)
        expected = bool(data.get("phases")) if decode == "ctc_lm" else decode == "llm"
        if expected != bool(phases):
            raise UserError(f"{where}: a system that decodes with {decode} has {len(phases)} phases")
        own = read_own_keys(where, data, decode)
        label, note = data.get("label", name), data.get("note", "")
        for key, value in (("label", label), ("note", note)):
            if not isinstance(value, str):
                raise UserError(f"{where}: {key} is {value!r}; it must be text; put quotes around it")
        # Systems that are the encoder share a directory.
        prefix = {"llm": "decode", "ctc": "decode_ctc"}.get(decode, f"decode_{name}")
        model, home, lm = encoder_dir, os.path.join(expdir, "encoder"), ""
        if decode == "recogniser":
            model, home = "", os.path.join(expdir, "recogniser")
        elif phases:
            home = os.path.join(expdir, phases[-1].tag)
            model, lm = (home, "") if decode == "llm" else (model, home)
        hypotheses = os.path.join(home, prefix + "_{set}", "hyp.jsonl")
        tags = tuple(phase.tag for phase in phases)
        fusion, recogniser = (own if decode == kind else None for kind in ("ctc_lm", "recogniser"))
        systems.append(System(name, label, hypotheses, note, decode, tags, model, fusion, recogniser, lm=lm))
    return tuple(systems)


def read_own_keys(where, data, decode):
    """The keys that only systems with this decoder have, None if there are none.

    Raises UserError for those of another decoder, and for bad values.
    """
    for other, keys in OWN_KEYS.items():
        given = [key for key in keys if key in data and key not in OWN_KEYS.get(decode, ())]
        if given:
            raise UserError(f"{where}: {given[0]} is read only with decode: {other}, not {decode}")
    own = {key: data.get(key, value) for key, value in OWN_KEYS.get(decode, {}).items()}
    readers = {"ctc_lm": read_fusion, "recogniser": read_recogniser}
    return readers[decode](where, own) if decode in readers else None


def read_fusion(where, own):
    """The weights of a system that decodes with ctc_lm, and its beam where it has one of its own.

    Raises UserError for bad ones.
    """
    beam = own.pop("num_beams")
    if beam is not None and (type(beam) is not int or beam < 1):
        raise UserError(f"{where}: num_beams is {beam!r}; it must be a whole number of 1 or more")
    for key, value in own.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (key == "lm_weight" and value < 0):
            wanted = "a number of at least 0" if key == "lm_weight" else "a number"
            raise UserError(f"{where}: {key} is {value!r}; decode: ctc_lm needs {wanted}")
    return {key: float(value) for key, value in own.items()} | ({"num_beams": beam} if beam else {})


def read_recogniser(where, own):
    """What a system asks of the recogniser itself. Raises UserError for what cannot be, whatever the model is."""
    if type(own["num_beams"]) is not int or own["num_beams"] < 1:
        raise UserError(f"{where}: num_beams is {own['num_beams']!r}; it must be a whole number of 1 or more")
    if not isinstance(own["language"], str):
        raise UserError(f"{where}: language is {own['language']!r}; it must be a code; put quotes around it")
    check_name(f"task in {where}:", own["task"], TASKS)
    words = own["prompt_words"]
    if not isinstance(words, str | list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: prompt_words is {words!r}; it must be a file with a word a line, or a list of words")
    return own


def read_mixture(cards, name, sets, texts=()):
    """The shares of a mixture: {(set, form): share}, in its order.

    A source is `SET/FORM`: one of `sets` as `asr`, as `text` (its transcripts), `heard` (these as if heard) or
    interleaved as the section interleave says; or one of `texts` as `text` or `heard`. Raises UserError for unknown
    sets and forms, and for bad shares.
    """
    where, forms, shares = cards.where("mixtures", name), [*FORMS, *cards.names("interleave")], {}
    for source, share in cards.entry("mixtures", name).items():
        data, _, form = str(source).partition("/")
        check_name(f"form in {where}, {source}:", form, forms)
        check_name(f"set in {where}, {source}:", data, [*sets, *texts] if form in ("text", "heard") else sets)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
            raise UserError(f"{where}: the share of {source} is {share!r}; it must be a number above 0")
        shares[data, form] = share
    if not shares:
        raise UserError(f"{where}: no source; write some such as `train/asr: 1`")
    return shares


def read_interleaving(cards, form, overrides=()):
    """How a form interleaves, with ["key=value", ...] laid over it. Raises UserError."""
    from espnet_llmvq.sequence.interleaved import Interleaving

    return Interleaving.read(cards.entry("interleave", form), overrides, cards.where("interleave", form))
