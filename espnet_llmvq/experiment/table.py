"""Rows and columns of a results table: systems and the sets they are scored on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class EvalSet:
    """A set that systems are scored on, a column of the table.

    domain: in or out of the domain of training. text: its reference (Kaldi). utt2spk, entities, word_list: further
    files, "" for none. normaliser: "" for the table's. metrics: beside WER, CER and TER (bleu, chrf).
    """

    name: str
    domain: Literal["id", "ood"]
    text: str
    utt2spk: str = ""
    entities: str = ""
    word_list: str = ""
    normaliser: str = ""
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class System:
    """A system, a row of the table.

    hypotheses: path of its hypothesis file, "{set}" standing for the name of the set. note: a remark under the table.
    decode: "llm"; "ctc", the encoder alone; or "ctc_lm", the encoder with the LLM as shallow-fusion LM. phases: names
    of the trainings that make it, in order; none for the last two, and for hypotheses from elsewhere. model: directory
    of the trained model, "" if from elsewhere. fusion: weights of ctc_lm (lm_weight, length_bonus), None for others.
    """

    name: str
    label: str
    hypotheses: str
    note: str = ""
    decode: Literal["llm", "ctc", "ctc_lm"] = "llm"
    phases: tuple[str, ...] = ()
    model: str = ""
    fusion: dict | None = None

    def hyp_path(self, name):
        """`Path` of its hypotheses for the set `name`."""
        return Path(self.hypotheses.replace("{set}", name))
