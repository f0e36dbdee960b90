"""Cards: the file that says what a recipe trains, `conf/systems.yaml`, with the file of a paper below it.

    base: template/paper_a.yaml
    phases:
      common: {bridge_conf: {dropout_rate: 0.2}}
      soft_k30: {base: soft_k10, bridge_conf: {top_k: 30}}
    systems:
      soft_k30: {label: Soft-VQ stage 2 soft k=30, phases: [start, hard, soft_k30]}

`base: FILE` is read first. A phase that both files name is merged key by key, keyword arguments (`*_conf`) one level
deep, unless the upper file says what its base is (a name, or null for none): then it begins from that alone. Of the
other sections the upper file's entry counts. An entry that is null is taken away: a phase out of all systems, a system
out of all groups. The base of a phase is a name, looked up when all files are merged: what a recipe changes
in `common` changes all phases that begin with it.
"""

import os
import re
from dataclasses import dataclass

from espnet_llmvq.base.config import merged, read_based
from espnet_llmvq.base.errors import UserError, check_name, nearest

SECTIONS = {"phases": "phase", "systems": "system", "mixtures": "mixture", "interleave": "form of interleaving"}
FILE = "systems.yaml"
NAME = re.compile(r"\w[\w.+-]*")  # part of paths, and one word of --systems
# Names of other things where the first phase of a system has its directory, a form its file or a system its row.
TAKEN = {
    "phases": (
        "encoder", "encoder_stats", "tokenizer", "llm", "llm_alone", "perplexity", "align", "stats", "mixtures", "log",
        "analysis", "report", "packed", "pack", "recogniser", "curves", "preferred", "heard", "frames", "pieces",
    ),
    "systems": ("llm",),  # the LLM alone, in tables of answers
    "interleave": ("asr", "text", "heard", "plain", "sequences"),
}  # fmt: skip


@dataclass(frozen=True)
class Cards:
    """The entries of a card file and of those below it.

    path: the file. sections: {section: {name: (mapping, or None where a file takes it away; the uppermost file that has
    it)}}.
    """

    path: str
    sections: dict

    def names(self, section):
        """Names of a section, sorted."""
        return sorted(name for name, (entry, _) in self.sections[section].items() if entry is not None)

    def has_dropped(self, section, name):
        """Whether a file takes the entry away that another has below it."""
        return self.sections[section].get(name, ("",))[0] is None

    def where(self, section, name):
        """An entry in messages: file, kind and name."""
        _, file = self.sections[section].get(name, (None, self.path))
        return f"{file}, {SECTIONS[section]} {name}"

    def entry(self, section, name):
        """The mapping of an entry. Raises UserError, with the nearest name, for one that is not there."""
        check_name(f"{SECTIONS[section]} in {self.path}:", name, self.names(section))
        return self.sections[section][name][0]

    def phase(self, name, above=()):
        """The training config of a phase with those below it merged. above: phases that led here.

        Raises UserError for an unknown base, and for one that leads back to the phase itself.
        """
        config, where = dict(self.entry("phases", name)), self.where("phases", name)
        base = config.pop("base", None)
        if base is None:
            return config
        check_name(f"base in {where}:", base, self.names("phases"))
        if base in (*above, name):
            raise UserError(
                f"{where}: its base {base} has this phase as its base; one of them must have another or none"
            )
        return merged(self.phase(base, (*above, name)), config)


def read_cards(path):
    """The `Cards` of a file, or of the file systems.yaml of a directory.

    Raises UserError for a file that cannot be read or leads back to itself, for unknown sections, for entries that are
    no mappings, for names that could not be part of a path, and for a null that takes nothing away.
    """
    path = os.path.join(path, FILE) if os.path.isdir(path) else str(path)
    sections = read_based(path, _merge_files)
    return Cards(path, {section: sections.get(section, {}) for section in SECTIONS})


def _merge_files(below, data, path):
    """{section: {name: (entry, file)}} of the files below, with those of the file `path` laid over them."""
    found = {section: dict(entries) for section, entries in below.items()}
    for section, entries in data.items():
        check_name(f"section in {path}:", section, [*SECTIONS, "base"])
        if not isinstance(entries, dict | None):
            raise UserError(f"{path}: {section} must be `name: {{key: value}}` entries")
        known = found.setdefault(section, {})
        for name, entry in (entries or {}).items():
            where = f"{path}, {SECTIONS[section]} {name}"
            _check_new_name(section, name, where)
            old, _ = known.get(name, (None, None))
            if entry is None and old is None:
                hint = nearest(name, [n for n, (e, _) in known.items() if e is not None])
                raise UserError(
                    f"{where}: null takes it away, but no file below has it{hint}; {{}} is one without keys"
                )
            if not isinstance(entry, dict | None):
                raise UserError(f"{where}: expected keys and values, not {entry!r}")
            if section == "phases" and None not in (old, entry) and "base" not in entry:
                entry = merged(old, entry)
            known[name] = entry, path
    return found


def _check_new_name(section, name, where):
    """Raise UserError for a name that could not be part of a path or of a list of names."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        hint = "; put quotes around it" if not isinstance(name, str) else ""
        raise UserError(f"{where}: a name has letters, digits, _ . + -, and begins with none of the last three{hint}")
    if name in TAKEN.get(section, ()) or (section == "phases" and re.fullmatch(r"seeds|seed\d+", name)):
        raise UserError(f"{where}: this name is taken by a file, directory or row of each run; choose another")
    if section == "phases" and "-" in name:
        raise UserError(f"{where}: the name of a phase has no -, which joins phases in the names of directories")
