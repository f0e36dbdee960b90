"""Rows and columns of a results table: systems and the sets they are scored on, and a file that says them.

sets:
  test: {domain: id, text: data/test/text, normaliser: whisper_english}
  bank: {domain: ood, text: data/bank/text, entities: data/bank/entities}
systems:
  theirs: {label: Their system, hypotheses: "hyps/theirs/{set}/hyp.txt"}
  mine: {label: My system, hypotheses: "hyps/mine/{set}/hyp.jsonl", note: 1200 steps}
baseline: theirs
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from espnet_llmvq.base.config import from_mapping, read_yaml
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.data.normalise import NORMALISERS

METRICS = ("wer", "cer", "ter", "bleu", "chrf")  # that may be asked for


@dataclass(frozen=True)
class EvalSet:
    """A set that systems are scored on, a column of the table.

    domain: in or out of the domain of training. text: its reference (Kaldi). utt2spk, entities, word_list: further
    files, "" for none. normaliser: "" for the table's. metrics: beside WER, CER and TER (bleu, chrf). word_times: a CTM
    of the reference, for the audio of the report.
    """

    name: str
    domain: Literal["id", "ood"]
    text: str
    utt2spk: str = ""
    entities: str = ""
    word_list: str = ""
    normaliser: str = ""
    metrics: tuple[str, ...] = ()
    word_times: str = ""


@dataclass(frozen=True)
class System:
    """A system, a row of the table.

    hypotheses: path of its hypothesis file, "{set}" standing for the name of the set. note: a remark under the table.
    decode: "llm"; "ctc", the encoder alone; "ctc_lm", the encoder with the LLM as shallow-fusion LM; or "recogniser",
    the pretrained encoder with its own decoder. phases: names of the trainings that make it, in order, of ctc_lm those
    of its LLM, where it is not as it was; none for "ctc", "recogniser", and hypotheses from elsewhere. model: directory
    of the trained model, "" if from elsewhere; weights: its checkpoint there. fusion: weights of ctc_lm (lm_weight,
    length_bonus), None for others. recogniser: what the recogniser is asked for (num_beams, language, task,
    prompt_words), None for others. lm: directory of the phase that trained the LLM of ctc_lm, "" for that of the run.
    """

    name: str
    label: str
    hypotheses: str
    note: str = ""
    decode: Literal["llm", "ctc", "ctc_lm", "recogniser"] = "llm"
    phases: tuple[str, ...] = ()
    model: str = ""
    fusion: dict | None = None
    recogniser: dict | None = None
    weights: str = "model.pth"
    lm: str = ""

    def hyp_path(self, name):
        """`Path` of its hypotheses for the set `name`."""
        return Path(self.hypotheses.replace("{set}", name))


@dataclass(frozen=True)
class Answers:
    """Answers to questions that are not of a system, a row of their tables: its label, and where they are."""

    name: str
    label: str
    directory: str


@dataclass(frozen=True)
class ResultTable:
    """What is scored: systems, the rows, on sets, the columns.

    baseline: system the others are compared with, "" for the first. normaliser: of sets without their own.
    train_text: transcript of the training set, for the rate of words that it lacks. published: YAML files of papers'
    figures. answers: of others than the systems. seed: of the trainings. commands: lines that made it.
    differences: {system: {key: value}}, its settings that are not the baseline's.

    Raises UserError for names that are used twice or not known, and for what cannot stand in a table.
    """

    systems: tuple[System, ...]
    sets: tuple[EvalSet, ...]
    baseline: str = ""
    normaliser: str = "basic"
    train_text: str = ""
    published: tuple[str, ...] = ()
    answers: tuple[Answers, ...] = ()
    seed: int = 0
    commands: tuple[str, ...] = ()
    differences: dict = field(default_factory=dict)

    def __post_init__(self):
        for kind, items in (("system", (*self.systems, *self.answers)), ("set", self.sets)):
            names = [item.name for item in items]
            for name in names:
                if names.count(name) > 1:
                    raise UserError(f"{kind} {name!r} is given twice; give each one its own name")
            for text in (*names, *(getattr(item, "label", "-") for item in items)):
                if not text.strip() or not text.isprintable():
                    raise UserError(f"{kind} {text!r}: a name or label must be text in one line")
        for kind in ("systems", "sets"):
            if not getattr(self, kind):
                raise UserError(f"no {kind}")
        for system in self.systems:
            if len(self.sets) > 1 and "{set}" not in system.hypotheses:
                raise UserError(
                    f"system {system.name!r}: its hypotheses {system.hypotheses!r} are one file for all sets; write "
                    '{set} where the name of the set stands, such as "exp/lora/decode_{set}/hyp.jsonl"'
                )
        if self.baseline:
            check_name("baseline", self.baseline, [system.name for system in self.systems])
        else:
            object.__setattr__(self, "baseline", self.systems[0].name)
        for item in (self, *self.sets):
            if item.normaliser:
                check_name("normaliser", item.normaliser, NORMALISERS)

    @property
    def labels(self):
        """{name: label} of systems and answers."""
        return {item.name: item.label for item in (*self.systems, *self.answers)}


def read_table(path):
    """The ResultTable of a YAML file: `systems`, `sets` and `answers` are mappings by name, all else as in ResultTable.

    Paths start at the working directory. Raises UserError with file and key.
    """
    data = read_yaml(path)
    for key, cls in (("systems", System), ("sets", EvalSet), ("answers", Answers)):
        items = data.get(key, {})
        if not isinstance(items, dict):
            raise UserError(f"{path}: {key} is {items!r}; write a line `NAME: {{...}}` for each")
        for name, values in items.items():
            if not isinstance(values, dict):
                raise UserError(f"{path}: {key}: {name} is {values!r}; write its keys and values")
            from_mapping(cls, {"name": name, **values}, f"{path}: {key}: {name}")
        data[key] = [{"name": name, **values} for name, values in items.items()]
    return from_mapping(ResultTable, data, str(path))


def run_commands(log):
    """Lines of a commands.log, each once: the last that runs all stages, and those after it; () without the file."""
    if not Path(log).exists():
        return ()
    lines = Path(log).read_text(encoding="utf-8").splitlines()
    whole = [i for i, line in enumerate(lines) if "--stage" not in line.replace("=", " ").split()]
    return tuple(dict.fromkeys(lines[whole[-1] if whole else 0 :]))
