"""Words that the LLM preferred: of wrong words, how many it finds likelier in their text than the right ones."""

from pathlib import Path

import numpy as np

from espnet_llmvq.base.files import check_outputs, file_name, write_json, write_text
from espnet_llmvq.base.made import Made
from espnet_llmvq.score.results import PREFERRED, preferred_table
from espnet_llmvq.score.rows import bounded
from espnet_llmvq.score.table import markdown_table, tsv_text
from espnet_llmvq.stages.report import elsewhere, local, tools, up_to_date

FILES = ("PREFERRED.md", PREFERRED)


def preferred(experiment, systems, sets, *, ngpu=0):
    """Count on sets what is not counted, write FILES to RESULTS_DIR/preferred and return that directory.

    Of each system and set SYSTEM/SET.tsv has the counts of utterances; derailed ones have none.
    """
    from espnet_llmvq.score import stats
    from espnet_llmvq.score.files import Rules
    from espnet_llmvq.score.measure import evaluate, load_reference, ratio
    from espnet_llmvq.score.options import Statistics

    home, options, rows, llm = Path(experiment.results_dir, "preferred"), experiment.options, [], None
    rules, statistics = Rules(empty_hyp="keep"), Statistics(options.resample)
    check_outputs([home / name for name in FILES])
    for name in sets:
        s = experiment.eval_set(experiment.scored_set(name))
        normaliser = s.normaliser or options.normaliser
        reference = load_reference(s.text, normaliser, utt2spk=s.utt2spk, resample=options.resample, rules=rules)
        for system in systems:
            path, out = str(system.hyp_path(name)), home / file_name(system.name) / f"{file_name(name)}.tsv"
            one = evaluate(reference, path, (), rules, options.prompt)
            inputs = {"hypotheses": path, "reference": s.text} | local("llm", experiment.llm)
            told = {"normaliser": normaliser, "prompt": options.prompt, **elsewhere("llm", experiment.llm)}
            made = Made(str(out), inputs, **told, **tools("torch", "transformers"))
            if not up_to_date(made):
                check_outputs([out])
                llm = llm or load(experiment, ngpu)
                write_counts(out, one, *llm)
                made.note()
            lines = [line.split("\t")[1:] for line in out.read_text(encoding="utf-8").splitlines()[1:]]
            counts = np.array(lines, dtype=np.float64)
            sums = stats.sums(stats.group(counts, reference.units()), statistics.replicates, statistics.draw_seed, name)
            values = bounded(stats.combine(ratio, sums), statistics.confidence)
            count, of = counts.sum(axis=0).astype(int).tolist()
            rows.append({"system": system.name, "set": name, **values, "count": count, "of": of})
    write_json(home / FILES[1], rows)
    table = preferred_table(rows, {system.name: system.label for system in systems})
    write_text(home / FILES[0], f"# {table.title}\n\nLLM: {experiment.llm}\n\n{markdown_table(table)}")
    return home


def load(experiment, ngpu):
    """(LLM, its tokenizer) of the experiment, as it was before the systems."""
    from espnet_llmvq.llm.directory import load_llm, load_tokenizer

    return load_llm(experiment.llm).to("cuda" if ngpu else "cpu").eval(), load_tokenizer(experiment.llm)


def write_counts(out, evaluation, llm, tokenizer):
    """Write the counts of an Evaluation by utterance."""
    from tqdm import tqdm

    from espnet_llmvq.decode.preferred import count_preferred

    derailed = set().union(*evaluation.derailed.values())
    alignments = [() if score.utt in derailed else score.pairs for score in evaluation.scores]
    counts = tqdm(count_preferred(llm, tokenizer, alignments), str(out), len(alignments), disable=None)
    rows = [(score.utt, *count) for score, count in zip(evaluation.scores, counts)]
    write_text(out, tsv_text(("utterance", "preferred", "substitutions"), rows))
