"""Text as if heard: what was heard of spoken words, and the sequences that are made of text with it (stage 9)."""

import random

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made
from espnet_llmvq.experiment.phases import hearing
from espnet_llmvq.speech.frame_rate import is_frontend
from espnet_llmvq.stages.encoder import encoder_input, frames_of
from espnet_llmvq.stages.report import tools, up_to_date
from espnet_llmvq.stages.sequences import (
    audio,
    bounded,
    context_options,
    make_sequences,
    of_prompt,
    template_of,
    text_of,
    within_context,
    write_made,
)

MOST = 2000  # utterances that are listened to


def spoken_words(experiment):
    """The file of what is heard of spoken words."""
    return experiment.exp("heard", "spoken.jsonl")


def spoken_made(experiment):
    """(set that is listened to, `Made` of its spoken words).

    The training set where it is masked: the encoder then errs as on other speech. Else the validation set, as it makes
    too few errors on what it was trained on.
    """
    options, how = experiment.options, hearing(experiment.trainings, experiment.mixtures)
    masked = how.pop("mask_frames") and is_frontend(experiment.encoder)
    name = options.train_set if masked else options.valid_set
    inputs = {"sequences": experiment.sequences(name)} | encoder_input(experiment)
    how |= {"masked": masked, "seed": options.base_seed, **audio(experiment, name)}
    return name, Made(spoken_words(experiment), inputs, set=name, **how, **tools("torch"))


def spelling_of(experiment):
    """Directory of the tokens of the CTC head, None if it has those of the LLM; also of an encoder from elsewhere."""
    if not experiment.options.encoder_file:
        return experiment.spelling
    from espnet_llmvq.model.build import encoder_config

    return encoder_config(experiment.encoder_file).get("ctc_tokens")


def listen(experiment):
    """Write what the LLM gets of spoken words, and return the file."""
    name, made = spoken_made(experiment)
    if up_to_date(made):
        return made.out
    import torch

    from espnet_llmvq.decode.heard import spoken, write_spoken
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.sequence.sequence import SequenceReader

    make_sequences(experiment, [name])
    path, masked, failed = experiment.sequences(name), made.options["masked"], {}
    model, config = load_model(experiment.encoder_dir)
    if model.ctc is None:
        raise UserError(f"{experiment.encoder_file} has no CTC head (ctc: false); text as if heard needs one")
    model.drop_blank, model.merge_runs = made.options["drop_blank"], made.options["merge_runs"]
    ids = sorted(SequenceReader(path))
    chosen = random.Random(made.options["seed"]).sample(ids, min(MOST, len(ids)))
    torch.manual_seed(made.options["seed"])  # of the masks
    found = spoken(
        model, load_tokenizer(config["llm"]), path, only=set(chosen), cache=frames_of(experiment, name), masked=masked,
        failed=failed,
    )  # fmt: skip
    made.forget()
    n = write_spoken(made.out, found)
    if not n:
        reason = next(iter(failed.values()), "there are no words")
        raise UserError(f"{path}: nothing was heard of {name} ({reason})")
    made.note()
    print(f"{made.out}: {n} words of {len(chosen) - len(failed)} utterances of {name}, {len(failed)} not aligned")
    return made.out


def make_heard(experiment, name):
    """Sequences of a plain text, or of the transcripts of a set, as if heard."""
    text, spoken, seed = text_of(experiment, name), listen(experiment), experiment.options.base_seed
    inputs, how = of_prompt(experiment)
    inputs |= {"text": text, "spoken words": spoken}
    spelling = spelling_of(experiment)
    inputs |= {"spelling": spelling} if spelling else {}
    made = bounded(experiment, experiment.sequences(f"{name}/heard"), inputs, seed=seed, **how)
    if up_to_date(made):
        return
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.sequence.heard import read_confusions

    dropped, template, tokens = {}, template_of(experiment), load_tokenizer(spelling or experiment.tokenizer)
    sequences = heard(text, tokens, read_confusions(spoken), template, seed, dropped)
    write_made(made, within_context(sequences, dropped, **context_options(experiment)), dropped, text)


def heard(text, tokenizer, confusions, template, seed, dropped):
    """Yield the sequences of a plain text as if heard.

    tokenizer: of the spelling; confusions: `Confusions`; draws depend on the seed and the line. dropped: {id:
    `Dropped`} is filled.
    """
    from espnet_llmvq.decode.align import word_tokens
    from espnet_llmvq.sequence import prompt
    from espnet_llmvq.sequence.asr import heard_sequence
    from espnet_llmvq.sequence.corpus import documents
    from espnet_llmvq.sequence.units import Dropped

    before = prompt.separator(template, prompt.TRANSCRIPT)
    for key, line in documents(text, dropped):
        try:
            words, ids, owners = word_tokens(tokenizer, before + line, first=False)
        except (ValueError, UserError) as err:
            dropped[key] = Dropped("cannot be spelled", str(err))
            continue
        pieces = [[] for _ in words]
        for piece, owner in zip(tokenizer.convert_ids_to_tokens(ids), owners):
            pieces[owner].append(piece)
        steps = confusions(map(tuple, pieces), random.Random(f"{seed} {key}"))
        if steps:
            yield heard_sequence(key, line, steps, template)
        else:
            dropped[key] = Dropped("nothing was heard")
