"""`Experiment`: what a run is about, checked once, before anything costs time: sets, systems, sources, where all is.

`llmvq plan` makes it of the options of run.sh and the recipe's cards and writes it as EXPDIR/experiment.json; every
later command reads that file (`read_experiment`). A run of another seed has its own, in EXPDIR/seedN.
"""

import contextlib
import dataclasses
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property

from espnet_llmvq.base.config import from_mapping
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import write_json
from espnet_llmvq.base.made import Made, accept_versions
from espnet_llmvq.experiment.options import Options, pairs, unique, words
from espnet_llmvq.experiment.table import METRICS, Answers, EvalSet, ResultTable, System, run_commands
from espnet_llmvq.experiment.training import Training

FILE = "experiment.json"
TTS = "tts"  # the set that --tts_text becomes
# Settings of a training that a run adds to its config.
OF_RUN = ("seed", "ngpu", "multiprocessing_distributed", "unused_parameters")
NAME = re.compile(r"\w[\w.+-]*")  # of a set: a directory and a part of file names


@dataclass(frozen=True)
class TestSet:
    """A test set as the options name it; `Experiment.eval_set` says where its files are."""

    name: str
    domain: str
    normaliser: str = ""
    metrics: tuple[str, ...] = ()
    word_list: str = ""


@dataclass(frozen=True)
class Experiment:
    """A run: its options, and what follows from them and the cards.

    mixtures: {name: {source: share}}; a source is "SET/FORM", form asr, text, heard or one of interleave, {form:
    options}.
    encoder: keys of a training config that shape the speech encoder. stack: encoder frames of an LLM position.
    pieces: tokens of the LLM that the CTC head spells with, beside letters (`llm.spelling`); 0: it has all tokens.
    """

    options: Options
    sets: tuple[TestSet, ...]
    systems: tuple[System, ...]
    trainings: tuple[Training, ...]
    mixtures: dict
    interleave: dict
    encoder: dict
    stack: int = 1
    pieces: int = 0

    # --- Sets -----------------------------------------------------------------------------------------------------

    @property
    def test_names(self):
        return [s.name for s in self.sets]

    @property
    def set_names(self):
        """Training, validation and test sets."""
        return [self.options.train_set, self.options.valid_set, *self.test_names]

    @property
    def encoder_sets(self):
        """Sets that the encoder, or what stands on a pretrained one, is trained on."""
        return [self.options.train_set] + [TTS] * self.options.encoder_tts

    @property
    def perturbed_set(self):
        """The training set with its copies at other speeds, if there are any."""
        return self.options.train_set + "_sp" * bool(self.options.speed_perturb_factors)

    def scored_set(self, name):
        """The `TestSet` of that name; training and validation set are in the domain."""
        return next((s for s in self.sets if s.name == name), TestSet(name, "id"))

    def eval_set(self, s):
        """The `EvalSet` of a `TestSet`, with the files that its formatted directory has."""
        directory = self.dump_dir(s.name)
        entities = os.path.join(directory, "entities")
        times = (self.ctms.get(s.name, ""), os.path.join(directory, "words.ctm"), self.exp("align", f"{s.name}.ctm"))
        return EvalSet(
            s.name, s.domain, os.path.join(directory, "text"), os.path.join(directory, "utt2spk"),
            entities if os.path.exists(entities) else "", s.word_list, s.normaliser, s.metrics,
            next(filter(os.path.exists, times), ""),
        )  # fmt: skip

    # --- Sources of mixtures --------------------------------------------------------------------------------------

    @cached_property
    def texts(self):
        """{name: file} of plain texts."""
        return dict(pairs(self.options.texts, "texts"))

    @cached_property
    def sources(self):
        """All sources of the mixtures, each once."""
        return list(dict.fromkeys(source for shares in self.mixtures.values() for source in shares))

    def whole_files(self, mixture):
        """Whether the speech of a mixture, if any, is whole files of the training set, whose frames may be cached."""
        sources, train = self.mixtures.get(mixture, ()), f"{self.options.train_set}/asr"
        return bool(sources) and all(s == train or s.endswith(("/text", "/heard")) for s in sources)

    @cached_property
    def interleaved_sets(self):
        """Sets whose word times mixtures need."""
        forms = [source.split("/") for source in self.sources]
        return list(dict.fromkeys(name for name, form in forms if form in self.interleave))

    @cached_property
    def ctms(self):
        """{set: file of word times from elsewhere}."""
        return dict(pairs(self.options.ctms, "ctms"))

    @property
    def sets_to_align(self):
        wanted = [*words(self.options.align_sets, "align_sets"), *self.interleaved_sets]
        return [name for name in dict.fromkeys(wanted) if name not in self.ctms]

    # --- Where things are -----------------------------------------------------------------------------------------

    def data_dir(self, name):
        return os.path.join(self.options.datadir, name)

    def dump_dir(self, name):
        return os.path.join(self.options.dumpdir, name)

    def exp(self, *names):
        return os.path.join(self.options.expdir, *names)

    def sequences(self, source):
        """File of the sequences of a set, or of a source "SET/FORM"."""
        name, _, form = source.partition("/")
        # "text" alone would be a table of the data directory.
        file = {"": "sequences", "asr": "sequences", "text": "plain"}.get(form, form)
        return self.dump_dir(os.path.join(name, f"{file}.jsonl"))

    @property
    def encoder_sequences(self):
        """File of the sequences of `encoder_sets`."""
        several = len(self.encoder_sets) > 1
        return self.exp("encoder_stats", "train.jsonl") if several else self.sequences(self.options.train_set)

    def positions(self, source):
        """File of the LLM positions of a set's sequences, or of those of a source."""
        short = {self.options.train_set: "train", self.options.valid_set: "valid"}
        return self.exp("stats", f"{short.get(source, source).replace('/', '_')}_shape")

    def share(self, share):
        """File of the LLM positions of a share of the training set."""
        return f"{self.positions(self.options.train_set)}.{share:g}"

    def mixture(self, name):
        """(sequences, positions) of a mixture."""
        return self.exp("mixtures", f"{name}.jsonl"), self.exp("mixtures", f"{name}_shape")

    def ctm(self, name):
        """File of the word times of a set."""
        return self.ctms.get(name) or self.exp("align", f"{name}.ctm")

    def frames(self, name):
        """Directory of the cached encoder frames of a set, the run's own also where the encoder is from elsewhere.

        Those of a pretrained encoder are there before the layers that are trained on it.
        """
        return self.exp("frames", name) if self.on_pretrained else self.exp("encoder", "frames", name)

    @property
    def trains_encoder(self):
        return trains_encoder(self.options)

    @property
    def uses_encoder(self):
        """Whether anything is trained or decoded with the encoder, and not with the recogniser that it is part of."""
        return self.trains_encoder or any(system.decode != "recogniser" for system in self.systems)

    @property
    def on_pretrained(self):
        """Whether the encoder that is trained stands on a pretrained one, whose frames are cached."""
        return self.trains_encoder and bool(self.options.pretrained_encoder)

    @property
    def recogniser(self):
        """Directory or hub id of the recogniser that the encoder comes from, also of an encoder from elsewhere."""
        return self.options.pretrained_encoder or pretrained_below(self.encoder)

    @property
    def encoder_dir(self):
        """Directory of the encoder: config.yaml, model.pth."""
        given = self.options.encoder_file
        return os.path.dirname(given) or "." if given else self.exp("encoder")

    @property
    def encoder_file(self):
        return self.options.encoder_file or os.path.join(self.encoder_dir, "model.pth")

    @property
    def caches_frames(self):
        """Whether encoder frames are cached: not those of an encoder whose layers are weighted in training."""
        return self.options.cache_encoder and (self.encoder.get("encoder_conf") or {}).get("layer") != "weighted"

    @property
    def trains_llm(self):
        return not self.options.llm

    @property
    def llm(self):
        """Directory or hub id of the LLM."""
        return self.options.llm or self.exp("llm")

    @property
    def tokenizer(self):
        """Directory or hub id of the LLM's tokenizer, which is there before a trained LLM."""
        return self.options.llm or self.exp("tokenizer")

    @property
    def spelling(self):
        """Directory of the tokens of the CTC head, None if it has those of the LLM."""
        return self.exp("pieces") if self.pieces else None

    @property
    def lm_train_text(self):
        """Text files of the language model."""
        return words(self.options.lm_train_text, "lm_train_text") or [
            os.path.join(self.options.datadir, "lm/train.txt")
        ]

    @property
    def lm_valid_text(self):
        """{name: held-out text file}."""
        return dict(pairs(self.options.lm_valid_text, "lm_valid_text"))

    @property
    def results_dir(self):
        """Where tables and reports of its seed go."""
        return self.options.expdir if self.options.seed == 1 else self.exp(f"seed{self.options.seed}")

    def table(self):
        """The `ResultTable` of its systems and test sets."""
        options = self.options
        published, home = (), options.published
        if os.path.isdir(home):
            published = tuple(os.path.join(home, f) for f in sorted(os.listdir(home)) if f.endswith(".yaml"))
        alone = self.exp("llm_alone")
        answers = (Answers("llm", "LLM alone, in writing", alone),) if os.path.isdir(alone) else ()
        return ResultTable(
            self.systems, tuple(map(self.eval_set, self.sets)), options.baseline, options.normaliser,
            os.path.join(self.dump_dir(options.train_set), "text"), published, answers, options.seed,
            run_commands(os.path.join(self.results_dir, "commands.log")), self.differences(),
        )  # fmt: skip

    def differences(self):
        """{system: {key: value}} of what the last training of a system has otherwise than that of the baseline.

        As it was trained: its record says more than the plan, which may have changed since.
        """
        flat = {}
        for training in self.trainings:
            noted = Made(self.exp(training.tag)).record() or {"options": {"settings": training.config}}
            settings = noted["options"].get("settings", training.config).items()
            flat[training.tag] = flatten({k: v for k, v in settings if k in training.config or k not in OF_RUN})
        last = {s.name: flat[s.phases[-1]] for s in self.systems if s.phases}
        base = last.get(self.options.baseline)
        if base is None:
            return {}
        found = {}
        for name, config in last.items():
            keys = [key for key in sorted(config.keys() | base.keys()) if config.get(key) != base.get(key)]
            found[name] = {key: config.get(key) for key in keys}
        return found

    # --- Writing --------------------------------------------------------------------------------------------------

    def write(self, path=None):
        """Write it as JSON to `path`, or where commands find it."""
        path = path or os.path.join(self.results_dir, FILE)
        write_json(path, dataclasses.asdict(self), known=is_plan(path))

    def select(self, names):
        """The systems named in `names` (text), all if it is empty. Raises UserError for one that is not planned."""
        if not names:
            return self.systems
        return tuple(self.system(name) for name in words(names, "systems"))

    def system(self, name):
        """The system of that name. Raises UserError for one that is not planned."""
        known = {system.name: system for system in self.systems}
        return known[check_name("system", name, known)]


def trains_encoder(options):
    """Whether `Options` ask for an encoder, or its upper part, that is trained here."""
    return not options.encoder_file and (options.ctc_head or not options.pretrained_encoder)


def pretrained_below(encoder):
    """Directory or hub id of the pretrained encoder that an encoder stands on, "" if none.

    encoder: keys of a training config that shape it.
    """
    from espnet_llmvq.speech.frame_rate import is_frontend

    return (encoder.get("frontend_conf") or {}).get("path", "") if is_frontend(encoder) else ""


def flatten(config, prefix=""):
    """{"key.inner": value} of a mapping of mappings."""
    found = {}
    for key, value in config.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def is_plan(path):
    """Whether a file is what `Experiment.write` writes, or did in another version."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(path, encoding="utf-8") as f:
        return {"options", "sets", "systems", "trainings"} <= json.load(f).keys()
    return False


def read_experiment(directory):
    """The `Experiment` whose file is in `directory`. Raises UserError where there is none, or a damaged one."""
    path = os.path.join(directory, FILE) if os.path.isdir(directory) else directory
    remedy = "run ./run.sh of the recipe, which writes it (llmvq plan)"
    try:
        with open(path, encoding="utf-8") as f:
            experiment = from_mapping(Experiment, json.load(f), path)
    except OSError as err:
        raise UserError(f"{path}: {err.strerror}; {remedy}") from None
    except ValueError as err:
        raise UserError(f"{path} is damaged ({err}); {remedy}") from None
    accept_versions(experiment.options.accept_versions)
    return experiment


def read_sets(options):
    """The `TestSet`s that the options name. Raises UserError for names and domains that cannot be."""
    found = []
    for word in words(options.test_sets, "test_sets"):
        name, _, domain = word.rpartition(":")
        if domain not in ("id", "ood") or not name:
            raise UserError(f"--test_sets {word}: expected NAME:id or NAME:ood")
        found.append((name, domain))
    if not found:
        raise UserError("--test_sets is empty; call ./run.sh, which names them")
    domains = unique(found, "test_sets")
    texts = unique(pairs(options.texts, "texts"), "texts")
    for name in (options.train_set, options.valid_set, *domains, *texts):
        if not NAME.fullmatch(name):
            raise UserError(
                f"set {name!r}: a name has letters, digits and . _ + - only, and begins with one of the first"
            )
        if name.endswith(".unfiltered") or (name == "lm" and name not in texts):
            raise UserError(f"set {name!r}: this name is taken by a directory of each run; choose another")
    ours = [options.train_set, options.valid_set, *texts, *([TTS] if options.tts_text else [])]
    if options.speed_perturb_factors:
        ours.append(f"{options.train_set}_sp")
    for name in [*domains, *ours[1:]]:
        if ours.count(name) + (name in domains) > 1:
            raise UserError(f"the set {name} has two meanings; give one of them another name")
    more = {where: pairs(getattr(options, where), where) for where in ("set_normalisers", "set_metrics", "word_lists")}
    for where, given in more.items():
        for name, _ in given:
            check_name(f"set in --{where}", name, domains)
    for _, name in more["set_metrics"]:
        check_name("metric in --set_metrics", name, METRICS)
    spoken = [options.train_set, options.valid_set, *domains, *([TTS] if options.tts_text else [])]
    for name in words(options.align_sets, "align_sets"):
        check_name("set in --align_sets", name, spoken)
    normalisers, lists = unique(more["set_normalisers"], "set_normalisers"), unique(more["word_lists"], "word_lists")
    return tuple(
        TestSet(
            name, domain, normalisers.get(name, ""),
            tuple(value for of, value in more["set_metrics"] if of == name), lists.get(name, ""),
        )
        for name, domain in domains.items()
    )  # fmt: skip
