"""Sequences, their LLM positions, and mixtures of them (stages 7, 9 and 10)."""

import array
import collections
import functools
import itertools
import os
import random

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import locked, one_line, remove, write_text, writing
from espnet_llmvq.base.made import Made, origin
from espnet_llmvq.score.files import some
from espnet_llmvq.stages.report import elsewhere, up_to_date

OF_DATA = ("text", "utt2num_samples", "wav.scp")  # what sequences of a data directory hold
# Of an LLM: what tokens are counted by, and what a chat prompt is written by.
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt",
)  # fmt: skip
CHAT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def tables(experiment, name):
    """Inputs of what is made of a formatted set: its tables."""
    return {f"{name}: {table}": os.path.join(experiment.dump_dir(name), table) for table in OF_DATA}


def audio(experiment, name):
    """Option of what is made of a formatted set: where its audio is from, which the tables do not say."""
    return {"audio": origin(experiment.dump_dir(name))}


def of_prompt(experiment):
    """(inputs, options) of what is made in the prompt."""
    from espnet_llmvq.sequence.prompt import is_plain

    inputs, options = {}, {"prompt": experiment.options.prompt}
    if not is_plain(experiment.options.prompt):  # written in the format of the LLM
        options |= elsewhere("chat_format", experiment.tokenizer)
        inputs |= files_of(experiment.tokenizer, *CHAT_FILES)
    return inputs, options


def sequences_made(experiment, name):
    """The `Made` of the sequences of a set."""
    inputs, options = of_prompt(experiment)
    if bound := asr_context(experiment, name):
        options, inputs = options | bound, inputs | files_of(experiment.tokenizer, *TOKENIZER)
    return Made(experiment.sequences(name), tables(experiment, name) | inputs, **options, **audio(experiment, name))


def check_sequences(experiment, names):
    """Raise UserError for sequences of sets that are another run's, as recipes may share dump/; pass those from
    elsewhere, without a record."""
    for name in dict.fromkeys(names):
        sequences_made(experiment, name).check("{out} is not what this run makes ({found}); run again from stage 9")


def template_of(experiment):
    """The prompt, in the chat format of the LLM where it is in one."""
    from espnet_llmvq.sequence.prompt import is_plain, resolved

    prompt = experiment.options.prompt
    if is_plain(prompt):
        return prompt
    from espnet_llmvq.llm.directory import load_tokenizer

    return resolved(prompt, load_tokenizer(experiment.tokenizer))


def make_sequences(experiment, names):
    """The sequences of transcribed speech of sets."""
    for name in names:
        made = sequences_made(experiment, name)
        if up_to_date(made):
            continue
        from espnet_llmvq.sequence.asr import asr_sequence
        from espnet_llmvq.sequence.corpus import utterances

        dropped, template = {}, template_of(experiment)
        sequences = (asr_sequence(*row, template) for row in utterances(experiment.dump_dir(name), dropped))
        if bound := asr_context(experiment, name):
            sequences = within_context(sequences, dropped, **bound, llm=experiment.tokenizer)
        write_made(made, sequences, dropped, experiment.dump_dir(name))


def files_of(llm, *names):
    """Files of an LLM as inputs of a `Made`, none of one from the hub."""
    return {f"LLM: {name}": os.path.join(llm, name) for name in names if os.path.exists(os.path.join(llm, name))}


def dropped_ids(path):
    """Ids of what was left out of a file of sequences."""
    try:
        with open(f"{path}.dropped.tsv", encoding="utf-8") as f:
            return {line.split("\t")[0] for line in f}
    except FileNotFoundError:
        return set()


def write_made(made, sequences, dropped, source):
    """`write` what is made, one process at a time, as recipes may share dump/: what another made meanwhile is taken."""
    with locked(made.out):
        if made.fresh():
            return
        made.forget()
        write(made.out, sequences, dropped, source)
        made.note()


def write(out, sequences, dropped, source):
    """Write sequences, and list beside them what could not be used: OUT.dropped.tsv.

    dropped: {id: `Dropped`}, complete when the sequences are gone through. source: what they are from, in messages.
    Raises UserError if none is left.
    """
    from espnet_llmvq.sequence.interleaved import ONE_SEGMENT
    from espnet_llmvq.sequence.sequence import write_sequences

    n = write_sequences(out, sequences)
    listing = f"{out}.dropped.tsv"
    if dropped:
        write_text(listing, "".join(f"{key}\t{dropped[key]}\n" for key in sorted(dropped)))
    else:
        remove(listing)
    print(f"{out}: {n} sequences from {source}, {len(dropped)} dropped")
    for reason, times in collections.Counter(why.reason for why in dropped.values()).most_common():
        print(f"  dropped, {reason}: {times}")
    if dropped:
        print(f"  all are listed in {listing}")
    if not n:
        for path in (out, f"{out}.idx"):
            os.remove(path)
        pauses = any(why.reason == ONE_SEGMENT for why in dropped.values())
        remedy = "; are there pauses in the word times? `silence` says how long one is" if pauses else ""
        raise UserError(f"{out}: no sequence is left{remedy}")


def make_all(experiment):
    """The sequences of all sets, and of the sources of mixtures."""
    sources = [source.split("/") for source in experiment.sources]
    spoken = [name for name, form in sources if form == "asr"]
    make_sequences(experiment, list(dict.fromkeys([*experiment.set_names, *spoken])))
    for name, form in sources:
        if form == "text":
            make_text(experiment, name)
        elif form == "heard":
            from espnet_llmvq.stages.heard import make_heard

            make_heard(experiment, name)
        elif form != "asr":
            make_interleaved(experiment, name, form)


def context_options(experiment):
    """What decides how long a sequence may be, as `within_context` takes it."""
    return {
        "context": experiment.options.context, "llm": experiment.llm, "encoder": experiment.encoder,
        "stack": experiment.stack, **refusing(experiment),
    }  # fmt: skip


def refusing(experiment):
    return {"too_long": "refuse"} if experiment.options.too_long == "refuse" else {}


def context_limit(experiment):
    """LLM positions that a sequence may have, None for any; also before the language model is trained."""
    options = experiment.options
    if options.context != "llm":
        return int(options.context)
    if experiment.trains_llm:
        from espnet_llmvq.llm.pretrain import load_config

        return load_config(options.lm_config).model.max_position_embeddings
    from espnet_llmvq.llm.directory import context_of

    return context_of(experiment.llm)


def asr_context(experiment, name):
    """What decides which transcribed utterances of a set are too long to be trained on, as `within_context` takes it.

    {} where none can be, by the longest text and the longest audio, and for sets that are only decoded: so runs with
    other LLMs share the sequences of most corpora.
    """
    from espnet_llmvq.sequence.prompt import is_plain
    from espnet_llmvq.speech.frame_rate import FrameRate

    options = experiment.options
    trained = {options.train_set, options.valid_set}
    trained |= {source.partition("/")[0] for source in experiment.sources if source.endswith("/asr")}
    files = [experiment.dump_dir(os.path.join(name, table)) for table in ("text", "utt2num_samples")]
    if name not in trained or not all(map(os.path.isfile, files)) or (limit := context_limit(experiment)) is None:
        return {}
    with open(files[0], "rb") as f:  # a token is a byte or more
        longest = max(map(len, f), default=0)
    with open(files[1], "rb") as f:
        counts = (line.split()[-1] for line in f if line.strip())
        samples = max((int(count) for count in counts if count.isdigit()), default=0)
    steps = -(-FrameRate(experiment.encoder).frames(samples) // experiment.stack)
    prompt = len(options.prompt.encode()) if is_plain(options.prompt) else limit
    if longest + steps + prompt + 8 <= limit:
        return {}
    return {"context": limit, "encoder": experiment.encoder, "stack": experiment.stack, **refusing(experiment)}


def bounded(experiment, out, inputs, **options):
    """The `Made` of sequences of a mixture: of inputs, options and what decides how long a sequence may be."""
    limit = ("config.json",) if experiment.options.context == "llm" else ()
    context = context_options(experiment)
    context |= elsewhere("llm", context.pop("llm"))
    return Made(out, inputs | files_of(experiment.llm, *TOKENIZER, *limit), **options, **context)


def within_context(sequences, dropped, context, llm, encoder, stack, too_long="drop"):
    """The sequences of at most `context` LLM positions ("llm": as many as the LLM has); the others are `dropped`.

    too_long: "refuse" raises UserError for them at the end. encoder: keys of a config that shape the encoder; stack:
    its frames in an LLM position.
    """
    from espnet_llmvq.llm.directory import context_of, load_tokenizer
    from espnet_llmvq.model.positions import Positions
    from espnet_llmvq.sequence.corpus import within

    limit = context_of(llm) if context == "llm" else int(context)
    if limit is None:
        return sequences

    @functools.cache
    def exact():  # a tokenizer takes seconds to load, and few sequences come near the limit
        return Positions(load_tokenizer(llm), encoder, stack)

    return within(
        sequences,
        lambda seq: exact()(seq),
        Positions(None, encoder, stack).upper_bound,
        limit,
        dropped,
        too_long == "refuse",
    )


def text_of(experiment, name):
    """The file of a plain text; of a set, that of its transcripts, made if need be."""
    text = experiment.texts.get(name)
    if text is None:
        text = experiment.dump_dir(os.path.join(name, "plain.txt"))
        transcripts = Made(text, {"transcripts": experiment.dump_dir(os.path.join(name, "text"))})
        if not transcripts.fresh():
            from espnet_llmvq.data.tables import read_scp

            lines = read_scp(experiment.dump_dir(os.path.join(name, "text"))).values()
            write_text(text, "".join(f"{one_line(line)}\n" for line in lines))
            transcripts.note()
    return text


def make_text(experiment, name):
    """Sequences of a plain text, or of the transcripts of a set as plain text."""
    from espnet_llmvq.sequence.asr import text_sequence
    from espnet_llmvq.sequence.corpus import documents

    text = text_of(experiment, name)
    made = bounded(experiment, experiment.sequences(f"{name}/text"), {"text": text})
    if up_to_date(made):
        return
    dropped = {}
    sequences = (text_sequence(key, line) for key, line in documents(text, dropped))
    write_made(made, within_context(sequences, dropped, **context_options(experiment)), dropped, text)


def make_interleaved(experiment, name, form):
    """Sequences of the aligned utterances of a set, speech and text in turns."""
    from espnet_llmvq.align.ctm import open_ctm
    from espnet_llmvq.base.config import from_mapping
    from espnet_llmvq.sequence.interleaved import Interleaving
    from espnet_llmvq.speech.frame_rate import FrameRate

    inputs = tables(experiment, name) | {"word times": experiment.ctm(name)}
    keys, out = experiment.interleave[form], experiment.sequences(f"{name}/{form}")
    made = bounded(experiment, out, inputs, interleave=keys, **audio(experiment, name))
    if up_to_date(made):
        return
    directory, dropped, units = experiment.dump_dir(name), {}, Units()
    how, step = from_mapping(Interleaving, keys, form), FrameRate(experiment.encoder).step
    sequences = interleaved(directory, open_ctm(experiment.ctm(name)), how, step, dropped, units)
    write_made(made, within_context(sequences, dropped, **context_options(experiment)), dropped, directory)
    if units:  # none where another run made it
        print_units(made.out, units)


def interleaved(data_dir, ctm, how, step, dropped, units):
    """Yield the sequences of the aligned utterances of a data directory.

    ctm: {utterance: [Word]}; how: `Interleaving`; step: samples of an encoder step. dropped: {id: `Dropped`} and
    units (`Units`) are filled.
    """
    from espnet_llmvq.sequence.corpus import NO_ALIGNMENT, joined
    from espnet_llmvq.sequence.interleaved import interleave
    from espnet_llmvq.sequence.units import Dropped

    for utt, path, samples, text, timed in joined(data_dir, ctm, NO_ALIGNMENT, dropped, step):
        try:
            done = interleave(utt, path, samples, text, timed, how)
        except Dropped as why:
            dropped[utt] = why
            continue
        units.add(utt, done.level, [len(unit.words) for unit in done.units])
        yield done.sequence


class Units:
    """What interleaved sequences were made of, in the order in which they were made: 24 bytes each."""

    def __init__(self):
        self.levels, self.keys, self.counts = [], array.array("q"), array.array("I")

    def __len__(self):
        return len(self.keys)

    def add(self, key, level, lengths):
        """The next sequence: its id, its level and the words of each unit."""
        if level not in self.levels:
            self.levels.append(level)
        heard = sum(n for i, n in enumerate(lengths) if (len(lengths) - i) % 2 == 0)
        self.keys.append(hash(key))
        self.counts.extend((self.levels.index(level), len(lengths), sum(lengths), heard))

    def of(self, keys):
        """Yield (level, units, words, words as speech) of ids, which are some of those added, in their order."""
        at = 0
        for key in keys:
            while self.keys[at] != hash(key):
                at += 1
            level, *counts = self.counts[4 * at : 4 * at + 4]
            at += 1
            yield self.levels[level], *counts


def print_units(path, units):
    """Print what interleaved sequences hold. units: the `Units` of these, and of others that were dropped."""
    from espnet_llmvq.data.audio import SAMPLE_RATE
    from espnet_llmvq.sequence.sequence import read_sequences

    rows = {}
    found = units.of(seq.id for seq in read_sequences(path))
    for seq, (level, *counts) in zip(read_sequences(path), found, strict=True):
        row = rows.setdefault(level, [0] * 5)
        samples = sum(s.samples for s in seq.spans if s.is_speech)
        for i, n in enumerate((1, *counts, samples)):
            row[i] += n
    for level, (n, parts, spoken, heard, samples) in sorted(rows.items()):
        print(
            f"  {level} level: {n} sequences, {parts / n:.1f} units each, {spoken / parts:.2f} words a unit, "
            f"{100 * heard / spoken:.1f} % of {spoken} words as speech ({samples / SAMPLE_RATE / 60:.1f} min)"
        )


def count_positions(pairs, llm, encoder, stack, ctc=False):
    """The LLM positions of files of sequences, for ESPnet's samplers: pairs [(sequences, file to write)].

    llm: directory or hub id, of which the tokenizer is needed. encoder, stack: as `within_context` takes them. ctc: say
    how many have more text than CTC can write in their frames, as these teach an encoder nothing.
    """
    waiting = []
    for source, target in pairs:
        inputs = {"sequences": source} | files_of(llm, *TOKENIZER)
        made = Made(target, inputs, encoder=encoder, stack=stack, **elsewhere("llm", llm))
        if not up_to_date(made):
            waiting.append((source, made))
    if not waiting:
        return
    from tqdm import tqdm

    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.positions import Positions
    from espnet_llmvq.sequence.sequence import read_sequences

    count = Positions(load_tokenizer(llm), encoder, stack)
    for source, made in waiting:
        total = n = 0
        short = []
        with writing(made.out) as f:
            for seq in tqdm(read_sequences(source), desc=source, unit="seq"):
                positions = count(seq)
                short += [seq.id] if ctc and not count.lets_ctc_spell(seq) else []
                f.write(f"{seq.id} {positions}\n")
                total, n = total + positions, n + 1
        made.note()
        print(f"{made.out}: {n} sequences, {total} positions, {total / max(n, 1):.1f} each", flush=True)
        if short:
            print(
                f"  warning: {len(short)} of {n} have more tokens than frames, which CTC cannot learn ({some(short)}); "
                "look at their audio and text; if they are many, more tokens (--ctc_pieces) or frames (frame_stack)",
                flush=True,
            )


def count_all(experiment):
    """The LLM positions of training and validation set and of all sources of mixtures."""
    options = experiment.options
    names = [options.valid_set, options.train_set, *experiment.sources]
    pairs = {experiment.positions(name): experiment.sequences(name) for name in names}
    pairs = [(source, target) for target, source in pairs.items()]
    count_positions(pairs, experiment.tokenizer, experiment.encoder, experiment.stack)
    for share in sorted({training.share for training in experiment.trainings if training.share < 1}):
        write_share(experiment.share(share), experiment.positions(options.train_set), share, options.base_seed)


def write_share(out, shape, share, seed):
    """Write the lines of `shape` (sequences and their LLM positions) of a share of the sequences, drawn at random.

    Samplers take what to train on from such a file. Each sequence draws by its id, so a smaller share is a part of a
    larger one.
    """
    made = Made(out, {"positions": shape}, share=share, seed=seed)
    if up_to_date(made):
        return
    with open(shape, encoding="utf-8") as f:
        drawn = np.fromiter((random.Random(f"{seed} {line.split()[0]}").random() for line in f), float)
    kept = np.zeros(len(drawn), bool)
    kept[np.argsort(drawn, kind="stable")[: max(1, round(share * len(drawn)))]] = True
    with writing(made.out) as f, open(shape, encoding="utf-8") as lines:
        f.writelines(itertools.compress(lines, kept))
    made.note()
    print(f"{made.out}: {kept.sum()} of {len(kept)} sequences")


def make_mixtures(experiment):
    """Mixtures of the sources by their shares of LLM positions."""
    from espnet_llmvq.sequence.mixture import Source

    for name, shares in experiment.mixtures.items():
        sources = [
            Source(source.replace("/", "_"), share, experiment.sequences(source), experiment.positions(source))
            for source, share in shares.items()
        ]
        out, shape = experiment.mixture(name)
        write_mixture(out, shape, sources, experiment.options.mixture_positions or None, experiment.options.base_seed)


def write_mixture(out, shape, sources, positions=None, seed=1):
    """Write a mixture of [`Source`] to `out` and its LLM positions to `shape`, unless it is there.

    positions: LLM positions in all; None: as many as give the first source once.
    """
    from espnet_llmvq.sequence.mixture import mix
    from espnet_llmvq.sequence.sequence import build_index

    inputs = {s.name: s.path for s in sources} | {f"{s.name}: positions": s.shape for s in sources}
    # Pairs, as the order of sources counts: the first sets how many positions there are.
    shares = [(s.name, s.share) for s in sources]
    made = Made(out, inputs, shares=shares, positions=positions, seed=seed)
    if up_to_date(made):
        return
    made.forget()
    lines, held = mix(sources, positions, seed)
    with writing(shape) as g:
        with writing(out) as f:
            for key, length, line in lines:
                f.write(line + "\n")
                g.write(f"{key} {length}\n")
        build_index(out)
    made.note(files=[os.path.basename(shape)])
    total = sum(length for _, length, _ in held.values())
    print(f"{out}: {sum(n for n, _, _ in held.values())} sequences, {total} positions")
    for part, (n, length, passes) in held.items():
        share = 100 * length / total
        print(f"  {part}: {n} sequences, {length} positions, {share:.2f} %, {passes:.2f} passes", flush=True)
