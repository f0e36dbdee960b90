"""What a run would do: every result of its stages, and why it is not what its inputs and options make."""

import contextlib
import io

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import asking
from espnet_llmvq.experiment.options import pairs
from espnet_llmvq.stages import analyse, data, decode, encoder, language, sequences, train


def steps(experiment):
    """(stage, function) of everything that makes results, in the order of the stages."""
    sets = decode.decoded_sets(experiment)
    yield 2, lambda: data.perturb(experiment, 1)
    yield 3, lambda: data.format_sets(experiment, 1)
    yield 4, lambda: data.filter_sets(experiment)
    yield 5, lambda: language.tokenizer(experiment)
    yield 6, lambda: language.language_model(experiment)
    yield 7, lambda: encoder.prepare(experiment)
    yield 7, lambda: train.train(experiment, encoder=True)
    yield 8, lambda: encoder.align(experiment, 1)
    yield 9, lambda: sequences.make_all(experiment)
    yield 10, lambda: encoder.encode(experiment, 1)
    yield 10, lambda: sequences.count_all(experiment)
    yield 10, lambda: sequences.make_mixtures(experiment)
    yield 11, lambda: train.train(experiment)
    yield 12, lambda: decode.decode(experiment, experiment.systems)
    yield 12, lambda: decode.rescore(experiment, experiment.systems, sets)
    for kind, path in pairs(experiment.options.questions, "questions"):
        yield 12, lambda kind=kind, path=path: decode.ask(experiment, experiment.systems, kind, path)
    yield 14, lambda: analyse.analyse(experiment, experiment.systems)


def status(experiment):
    """[(result, difference in words, "" where it is up to date)], in the order of the stages.

    What is made of something that is not up to date is compared with that as it is now. Where a stage cannot go on,
    its message is the last that is told: ("stage N", message).
    """
    with asking() as answers, contextlib.redirect_stdout(io.StringIO()):
        for stage, step in steps(experiment):
            try:
                step()
            except UserError as err:
                answers.append((f"stage {stage}", str(err)))
                break
    return list(dict(answers).items())  # of what is asked for twice the last says how it will be
