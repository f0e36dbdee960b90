"""Decoding, the choice from n-best lists, and questions (stage 12)."""

import itertools
import os
from dataclasses import asdict

from espnet_llmvq.base.environment import FILE
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_outputs
from espnet_llmvq.base.made import Made
from espnet_llmvq.experiment.checks import read_weight
from espnet_llmvq.experiment.options import words
from espnet_llmvq.stages.encoder import encoder_input, frames_read
from espnet_llmvq.stages.report import elsewhere, local, tools, up_to_date
from espnet_llmvq.stages.sequences import check_sequences, dropped_ids

GRID = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)  # weights tried on the validation set


def decoded_sets(experiment, names="", decode="llm"):
    """The sets in `names` (text); if it is empty, test sets, and the validation set where weights are chosen on it.

    decode: of a system. No weight is chosen for what the LLM does not write.
    """
    if names:
        return [check_name("set", name, experiment.set_names) for name in words(names, "sets")]
    chosen = experiment.options.ctc_weight == "valid" and decode == "llm"
    return [*experiment.test_names, *([experiment.options.valid_set] if chosen else [])]


def model_inputs(experiment, system):
    """A system as inputs of a `Made`: its checkpoints, and the encoder and the LLM, which these may lack.

    Raises UserError where it is not trained.
    """
    if system.decode == "recogniser":
        return local("recogniser", experiment.recogniser)
    inputs = {"model": os.path.join(system.model, system.weights)}
    if system.lm:
        inputs["trained LLM"] = os.path.join(system.lm, "model.pth")
    of_encoder = inputs["model"] if system.decode != "llm" else None
    for path in inputs.values():
        if not os.path.exists(path):
            raise UserError(f"{path} does not exist; run stage {7 if path == of_encoder else 11}")
    inputs |= encoder_input(experiment)
    return inputs if system.decode == "ctc" else inputs | local("llm", experiment.llm)


def search_options(experiment, system):
    """What decides the hypotheses of a system, beside its model and the sequences."""
    if system.decode == "ctc":
        return {}
    if system.decode == "recogniser":
        from espnet_llmvq.speech.recogniser import asked

        return asked(system.recogniser)
    options = {"num_beams": experiment.options.num_beams}
    if (dtype := experiment.options.llm_dtype) != "trained":
        if dtype == "auto":
            from espnet_llmvq.base.precision import fast_bfloat16

            dtype = "bfloat16" if fast_bfloat16(experiment.options.ngpu > 0) else "float32"
        options["llm_dtype"] = dtype
    if system.decode == "ctc_lm":
        return options | system.fusion
    if experiment.options.joint_ctc:
        return options | {"joint_ctc": experiment.options.joint_ctc}
    given = experiment.options.tokens_per_second
    return options | {"length_penalty": 0.0} | ({"tokens_per_second": given} if given else {}) | drafting(experiment)


def drafting(experiment):
    """Search options of `--draft`: none, or those of a greedy search."""
    options = experiment.options
    if options.draft == "none":
        return {}
    return {"num_beams": 1, "draft": options.draft, "draft_accept": options.draft_accept}


def nbest_made(experiment, system, name, search):
    """The `Made` of the n-best lists of a system for a set."""
    from espnet_llmvq.decode.nbest import NBEST

    inputs = model_inputs(experiment, system) | {"sequences": experiment.sequences(name)}
    if frames := frames_read(experiment, system, name):
        inputs["frames"] = os.path.dirname(frames)
    more = {"other_prompt": True} if experiment.options.other_prompt and system.decode == "llm" else {}
    if system.decode == "recogniser":
        more = elsewhere("recogniser", experiment.recogniser)
    elif system.decode != "ctc":
        more |= elsewhere("llm", experiment.llm)
    path = os.path.join(system.hyp_path(name).parent, NBEST)
    return Made(path, inputs, search=search, decode=system.decode, **more, **tools("torch", "transformers"))


def decode(experiment, systems, sets=None, *, nj=1, ngpu=0, redo=False, **batching):
    """Decode sets with systems, what is not decoded.

    sets: names; None: for each system what the run scores. batching: as `decode.system.Work` takes it.
    """
    from espnet_llmvq.decode.choose import restore
    from espnet_llmvq.decode.system import Work, decode_system

    wanted = {system.name: decoded_sets(experiment, "", system.decode) if sets is None else sets for system in systems}
    check_sequences(experiment, itertools.chain(*wanted.values()))
    jobs = {}
    for system in systems:
        search, waiting = search_options(experiment, system), []
        for name in wanted[system.name]:
            made = nbest_made(experiment, system, name, search)
            if redo or not made.fresh():
                frames = frames_read(experiment, system, name)
                check_outputs([made.out, system.hyp_path(name)])
                waiting.append(Work(name, experiment.sequences(name), frames, made, str(system.hyp_path(name))))
            else:
                restore(str(system.hyp_path(name)))
        if waiting:
            source = {"ctc_lm": experiment.llm, "recogniser": experiment.recogniser}.get(system.decode)
            jobs[system.name] = (system, waiting, search, source, experiment.options.other_prompt, ngpu, batching)
        else:
            print(f"[{system.name}] all sets are decoded, nothing to do")
    if not jobs:
        return
    print("loading libraries", flush=True)
    import espnet_llmvq.model.build  # noqa: F401  shared by forked processes
    from espnet_llmvq.base.processes import run_forked

    if ngpu or nj == 1:
        for job in jobs.values():
            decode_system(*job)
    else:
        run_forked(decode_system, jobs, nj, "decoding with")


def rescore(experiment, systems, sets, weight=None, tune_only=False, grid=GRID):
    """Choose hypotheses from n-best lists by (1 - weight) * LLM + weight * CTC score, of systems that the LLM writes.

    weight: a number as text, or "valid": for each system the one of the grid with the fewest word errors on the
    validation set; None: that of the experiment. tune_only: print the errors of each weight, and write nothing.
    """
    from espnet_llmvq.data.normalise import get_normaliser
    from espnet_llmvq.decode.choose import GIVEN, fewest_errors, write_chosen
    from espnet_llmvq.score.files import read_transcript

    valid, reference = experiment.options.valid_set, None
    weight = experiment.options.ctc_weight if weight is None else weight
    tuned = weight == "valid"
    if tuned or tune_only:
        text = os.path.join(experiment.dump_dir(valid), "text")
        left_out = dropped_ids(experiment.sequences(valid))
        reference = ({utt: words for utt, words in read_transcript(text).items() if utt not in left_out}, text)
    chosen, source = (None, f"lowest WER on {valid}") if tuned else (read_weight(weight, "--ctc_weight"), GIVEN)
    normalise = get_normaliser(experiment.options.normaliser)
    for system in systems:
        if system.decode != "llm":
            continue
        if reference:
            lowest = fewest_errors(system.name, str(system.hyp_path(valid)), reference, grid, normalise)
            chosen = lowest if tuned else chosen
        for name in () if tune_only else sets:
            write_chosen(str(system.hyp_path(name)), chosen, source)


def question_options(experiment, kind, config=None, overrides=None):
    """`MultipleChoice` or `OpenQuestions` of a section of a YAML file, and of {key: value} laid over it."""
    from espnet_llmvq.base.config import from_mapping, read_yaml
    from espnet_llmvq.sequence.questions import MultipleChoice, OpenQuestions

    sections = {"mc": ("multiple_choice", MultipleChoice), "sqa": ("spoken_qa", OpenQuestions)}
    path = config or experiment.options.questions_config
    values = read_yaml(path) if path else {}
    for name in values:
        check_name(f"section in {path}", name, [section for section, _ in sections.values()])
    section, cls = sections[kind]
    return from_mapping(cls, {**(values.get(section) or {}), **(overrides or {})}, f"{path or 'options'}: {section}")


def ask(
    experiment, systems, kind, path, options=None, *, examples=None, nj=1, ngpu=0, redo=False, forms=None, batch_size=16
):
    """Put the questions of a file to systems, in writing and spoken, and to the LLM alone in writing.

    kind: "mc" or "sqa"; options: `MultipleChoice` or `OpenQuestions`; examples: file of examples of the first; both
    of the experiment if None. forms: of the questions to systems, all if None.
    """
    from pathlib import Path

    from espnet_llmvq.base.made import files_digest
    from espnet_llmvq.data.questions import MULTIPLE_CHOICE, read_questions
    from espnet_llmvq.score.questions import ANSWERS, SPEECH, TEXT

    options = options or question_options(experiment, kind)
    if kind == MULTIPLE_CHOICE:
        examples = examples or experiment.options.question_examples or None
    questions, shown = read_questions(path, kind), []
    if kind == MULTIPLE_CHOICE:
        from espnet_llmvq.sequence.questions import split_examples

        given = read_questions(examples, kind) if examples else None
        questions, shown = split_examples(questions, given, options.shots, path)
    name, jobs = f"{kind}_{Path(path).stem}", {}
    inputs = {"questions": path, **({"examples": examples} if examples else {})}
    audio = files_digest(q.wav for q in (*questions, *shown) if q.wav)
    both = forms or (TEXT, SPEECH)
    asked = [(s.name, s.model, model_inputs(experiment, s), both) for s in systems if s.decode == "llm"]
    asked.append(("llm", None, local("llm", experiment.llm), (TEXT,)))
    for label, directory, model, wanted in asked:
        out = os.path.join(directory or experiment.exp("llm_alone"), name, ANSWERS)
        noted = Made(out).record()
        kept = SPEECH not in wanted and noted and SPEECH in noted["options"].get("forms", ())  # answers that would go
        wanted = (TEXT, SPEECH) if kept else wanted
        heard = {"audio": audio} if SPEECH in wanted else {}
        made = Made(
            out, inputs | model, options=asdict(options), forms=wanted, **elsewhere("llm", experiment.llm),
            **heard, **tools("torch", "transformers"),
        )  # fmt: skip
        if not up_to_date(made, redo):
            if kept:
                raise UserError(
                    f"{out}: has answers to spoken questions too, which --text_only would replace; leave that out, or "
                    "move them away"
                )
            check_outputs([out, os.path.join(os.path.dirname(out), FILE)])
            jobs[label] = (label, directory, wanted, made)
    if jobs:
        from espnet_llmvq.decode.ask import ask_all

        ask_all(list(jobs.values()), kind, options, questions, shown, experiment.llm, path, nj, ngpu, batch_size)
