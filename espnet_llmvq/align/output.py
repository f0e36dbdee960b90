"""The files of an alignment, however it was made."""

from espnet_llmvq.align.ctm import ctm_lines
from espnet_llmvq.align.quality import Quality, case_hint
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import one_line, write_text, writing


def alignment_files(out):
    """What `write_alignment` writes."""
    return [f"{out}.failed", f"{out}.report.tsv", f"{out}.report.png", out]


def write_alignment(out, aligned, failed, seconds, reference=None, counts=None):
    """`write_aligned` of {utterance: [Word]} and {utterance: seconds}."""
    rows = ((utt, aligned[utt], seconds[utt]) for utt in sorted(aligned))
    write_aligned(out, rows, failed, reference, counts)


def write_aligned(out, rows, failed, reference=None, counts=None):
    """Write OUT (CTM), OUT.failed, OUT.report.tsv and OUT.report.png, and print what they say.

    rows: (utterance, [`Word`], seconds of it), in C-locale order of utterances; they are gone through once, and
    written as they come. Other arguments as of `Quality`; `failed` may be filled meanwhile. Raises UserError when
    nothing is aligned, or nothing can be compared with the reference; in both cases OUT.failed is there.
    """
    quality = Quality(failed, reference, counts)
    # The CTM appears last, so that it is not up to date before the others are.
    with writing(out) as f:
        for utt, words, seconds in rows:
            quality.add(utt, words, seconds)
            f.writelines(ctm_lines(utt, words))
        write_text(f"{out}.failed", "".join(f"{utt} {one_line(failed[utt])}\n" for utt in sorted(failed)))
        if not quality.aligned:
            first = f", such as {min(failed)}: {failed[min(failed)]}" if failed else ""
            hint = "".join(f"; {hint}" for hint in case_hint(counts))
            raise UserError(f"{out}: no utterance could be aligned; {out}.failed has the reasons{first}{hint}")
        write_text(f"{out}.report.tsv", quality.table())
        quality.draw(f"{out}.report.png")
    print(f"{out}: {quality.summary()}")
    if failed:
        print(f"{out}.failed has the reasons")
    if reference is not None and not quality.compared:
        raise UserError(f"{out}: no utterance has the words of the reference; is it of the same set?")
