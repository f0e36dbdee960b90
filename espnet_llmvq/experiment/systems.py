"""Systems and phases: what a row of the results table is made of.

A system, `conf/systems/NAME.yaml`, is a row: a label, the phases that train it in order, and how it decodes.
A phase, `conf/phases/NAME.yaml`, is a training config; it starts from the phase before it. Systems that begin with
the same phases share them, because a phase is stored under the names of all phases up to it.

A file of the same directory with the one key `systems` is a group: its name stands for those systems.

A phase trains on the transcribed speech of the training set, or on a mixture that its config names (`mixture: NAME`):
`conf/mixtures/NAME.yaml`, lines `SET/FORM: SHARE`.
"""

import os
from dataclasses import dataclass

from espnet_llmvq.base.config import read_yaml
from espnet_llmvq.base.errors import UserError, check_name

SYSTEM_KEYS = ("label", "phases", "decode", "note", "lm_weight", "length_bonus")
GROUP_KEY = "systems"
DECODERS = ("llm", "ctc", "ctc_lm")
MIXTURE_KEY = "mixture"
FORMS = ("asr", "text")  # of a source, beside the names under conf/interleave


@dataclass(frozen=True)
class Phase:
    """tag: directory name under expdir; config: path of its YAML; parent: tag of the phase before or None."""

    tag: str
    config: str
    parent: str


@dataclass(frozen=True)
class System:
    """A row of the table.

    decode: "llm"; "ctc", the encoder alone; or "ctc_lm", the encoder with the LLM as shallow-fusion LM, with its
    weights `fusion`. The last two have no phases.
    """

    name: str
    label: str
    phases: tuple
    decode: str
    note: str = ""
    fusion: tuple = ()  # (name, value) pairs of lm_weight, length_bonus


def system_dir(system, expdir, encoder_dir):
    """Where the trained system is: the directory of its last phase, or of the encoder."""
    return os.path.join(expdir, system.phases[-1].tag) if system.phases else encoder_dir


def hypothesis_file(system, expdir, encoder_dir, name):
    """The hypotheses of a system for the set `name`."""
    # Systems that are the encoder share its directory.
    prefix = {"llm": "decode", "ctc": "decode_ctc", "ctc_lm": f"decode_{system.name}"}[system.decode]
    return os.path.join(system_dir(system, expdir, encoder_dir), f"{prefix}_{name}", "hyp.jsonl")


def names(directory):
    """Names of the YAML files of a directory."""
    if not os.path.isdir(directory):
        raise UserError(f"{directory} does not exist")
    return sorted(f[:-5] for f in os.listdir(directory) if f.endswith(".yaml"))


def is_group(conf_dir, name):
    """Whether the name under conf_dir/systems stands for several systems."""
    return GROUP_KEY in read_yaml(os.path.join(conf_dir, "systems", f"{name}.yaml"))


def expand(systems_dir, wanted):
    """The files of the systems named in `wanted`, groups replaced by their members, each once: {name: (path, YAML)}.

    Raises UserError for unknown names, also within a group, and for a group that is not a list of systems.
    """
    known, found = names(systems_dir) if wanted else [], {}

    def read(name):
        path = os.path.join(systems_dir, f"{name}.yaml")
        return path, read_yaml(path)

    for name in wanted:
        check_name("system", name, known)
        path, data = read(name)
        if GROUP_KEY not in data:
            found.setdefault(name, (path, data))
            continue
        members = data.pop(GROUP_KEY)
        for key in data:
            check_name(f"key in {path}, a group of systems,", key, [GROUP_KEY])
        if not (isinstance(members, list) and members):
            raise UserError(f"{path}: {GROUP_KEY} must be a list of names of systems")
        for member in members:
            check_name(f"system in {path}", member, known)
            member_path, data = read(member)
            if GROUP_KEY in data:
                raise UserError(f"{path}: {member} is a group too; name its systems instead")
            found.setdefault(member, (member_path, data))
    return found


def read_systems(conf_dir, wanted, seed=1):
    """Read the systems named in `wanted` (list; systems and groups), in its order, as `System`s.

    seed: other than 1 it becomes part of the tags. Raises UserError for unknown names, keys and phases.
    """
    systems_dir, phases_dir = os.path.join(conf_dir, "systems"), os.path.join(conf_dir, "phases")
    systems, suffix = [], "" if seed == 1 else f"_seed{seed}"
    for name, (path, data) in expand(systems_dir, wanted).items():
        for key in data:
            check_name(f"key in {path}", key, SYSTEM_KEYS)
        decode = check_name(f"decode in {path}", data.get("decode", "llm"), DECODERS)
        phases, parent = [], None
        if not isinstance(data.get("phases", []), list):
            raise UserError(f"{path}: phases must be a list of names; leave the key out if there are none")
        for phase in data.get("phases", []):
            check_name(f"phase in {path}", phase, names(phases_dir))
            tag = f"{parent.removesuffix(suffix) if suffix else parent}-{phase}" if parent else phase
            tag += suffix
            phases.append(Phase(tag, os.path.join(phases_dir, f"{phase}.yaml"), parent))
            parent = tag
        if (decode == "llm") != bool(phases):
            raise UserError(f"{path}: a system that decodes with {decode} has {len(phases)} phases")
        fusion = read_fusion(path, data, decode)
        label, note = data.get("label", name), data.get("note", "")
        systems.append(System(name, label, tuple(phases), decode, note, fusion))
    return systems


def read_fusion(path, data, decode):
    """Weights of a system that decodes with ctc_lm, () of another. Raises UserError for bad ones."""
    fusion = {key: data[key] for key in ("lm_weight", "length_bonus") if key in data}
    if decode != "ctc_lm":
        if fusion:
            raise UserError(f"{path}: {next(iter(fusion))} is read only with decode: ctc_lm, not {decode}")
        return ()
    fusion = {"lm_weight": None, "length_bonus": 0.0, **fusion}
    for key, value in fusion.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (key == "lm_weight" and value < 0):
            wanted = "a number of at least 0" if key == "lm_weight" else "a number"
            raise UserError(f"{path}: {key} is {value!r}; decode: ctc_lm needs {wanted}")
    return tuple((key, float(value)) for key, value in fusion.items())


def split_mixture(config, path, conf_dir):
    """(training config without its mixture, name of the mixture or None). Raises UserError for an unknown one."""
    rest = {key: value for key, value in config.items() if key != MIXTURE_KEY}
    name = config.get(MIXTURE_KEY)
    if name is not None:
        check_name(f"mixture in {path}", name, names(os.path.join(conf_dir, "mixtures")))
    return rest, name


def read_mixture(conf_dir, name, sets, texts=()):
    """The shares of a mixture: {(set, form): share}, in its order.

    A source is `SET/FORM`: one of `sets` as `asr`, as `text` (its transcripts) or interleaved as conf/interleave/FORM
    says; or one of `texts` as `text`. Raises UserError for unknown sets and forms and for shares that are none.
    """
    path = os.path.join(conf_dir, "mixtures", f"{name}.yaml")
    interleave = os.path.join(conf_dir, "interleave")
    forms = [*FORMS, *(names(interleave) if os.path.isdir(interleave) else ())]
    shares = {}
    for source, share in read_yaml(path).items():
        data, _, form = str(source).partition("/")
        check_name(f"form in {path}, {source}:", form, forms)
        check_name(f"set in {path}, {source}:", data, [*sets, *texts] if form == "text" else sets)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
            raise UserError(f"{path}: the share of {source} is {share!r}; it must be a number above 0")
        shares[data, form] = share
    if not shares:
        raise UserError(f"{path}: no source; write lines such as `train/asr: 1`")
    return shares


def plan(systems):
    """All phases of the systems, each once, parents first."""
    phases = {}
    for system in systems:
        for phase in system.phases:
            phases.setdefault(phase.tag, phase)
    return list(phases.values())
