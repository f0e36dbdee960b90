"""Build sequences: speech with transcripts, interleaved speech and text, text alone, questions (stages 7 and 9).

What cannot be used is counted, and listed with the reason in OUT.dropped.tsv.
"""

from espnet_llmvq.cli.parser import Parser, add_overwrite, positive

BUILDERS = ("asr", "interleaved", "text", "qa", "qa_text")
NEEDED = {
    "asr": ("data_dir", "prompt"),
    "interleaved": ("data_dir", "ctm", "form", "encoder_config"),
    "text": ("text",),
    "qa": ("data_dir", "prompt", "answers"),
    "qa_text": ("data_dir", "prompt", "answers"),
}


def positions(text):
    return text if text == "llm" else positive(text)


positions.__name__ = "number of positions"  # argparse puts it into its message


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--out", required=True, help="sequences to write (JSON lines)")
    parser.add_argument(
        "--builder", default="asr", choices=BUILDERS,
        help="asr: speech and transcript; interleaved: speech and text in turns; text: text alone; qa: spoken "
        "question and answer; qa_text: the same with the question in writing",
    )  # fmt: skip
    parser.add_argument("--data_dir", help="formatted data directory (16 kHz)")
    parser.add_argument(
        "--prompt",
        help='template, e.g. "USER: {speech} ASSISTANT: {text}", or in the chat format of --llm: "chat: {speech} '
        'Transcribe." (asr, qa)',
    )
    parser.add_argument("--ctm", help="word times of DATA_DIR (interleaved)")
    parser.add_argument("--cards", default="conf/systems.yaml", help="file of --form (interleaved)")
    parser.add_argument("--form", help="how to interleave, an entry of the section interleave of --cards (interleaved)")
    parser.add_argument(
        "--override", action="append", default=[], help="key=value laid over --form, repeated (interleaved)"
    )
    parser.add_argument("--text", help="plain text, a document a line (text)")
    parser.add_argument("--answers", help="file of lines `<utt> <answer>` (qa)")
    parser.add_argument(
        "--context", type=positions, help="drop what has more LLM positions than this number, or `llm`: than --llm has"
    )
    parser.add_argument(
        "--too_long", default="drop", choices=("drop", "refuse"), help="what has more is left out, or an error"
    )
    parser.add_argument("--llm", help="Hugging Face directory or hub id, for its tokenizer (--context, chat prompts)")
    parser.add_argument("--encoder_config", help="config that shapes the encoder, YAML (interleaved, --context)")
    parser.add_argument(
        "--bridge_stack", type=positive, default=1, help="encoder frames stacked by the bridge (--context)"
    )
    add_overwrite(parser)
    return parser


def build(args, dropped, step, units):
    """The sequences that the arguments ask for."""
    from espnet_llmvq.data.tables import read_scp
    from espnet_llmvq.sequence.asr import asr_sequence, text_question, text_sequence
    from espnet_llmvq.sequence.corpus import documents, joined, utterances
    from espnet_llmvq.sequence.units import Dropped

    if args.builder == "text":
        for key, text in documents(args.text, dropped):
            yield text_sequence(key, text)
        return
    if args.builder == "interleaved":
        from espnet_llmvq.align.ctm import open_ctm
        from espnet_llmvq.experiment.cards import read_cards
        from espnet_llmvq.experiment.systems import read_interleaving
        from espnet_llmvq.stages.sequences import interleaved

        how = read_interleaving(read_cards(args.cards), args.form, args.override)
        yield from interleaved(args.data_dir, open_ctm(args.ctm), how, step, dropped, units)
        return
    if args.builder == "asr":
        for utt, audio, samples, text in utterances(args.data_dir, dropped, step):
            yield asr_sequence(utt, audio, samples, text, args.prompt)
        return
    rows = joined(args.data_dir, read_scp(args.answers), "no answer", dropped, step)
    for utt, audio, samples, question, answer in rows:
        if args.builder == "qa":
            yield asr_sequence(utt, audio, samples, answer, args.prompt)
        elif question.strip():
            yield text_question(utt, question, answer, args.prompt)
        else:
            dropped[utt] = Dropped("no question in writing")


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.base.config import read_config
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.base.files import check_outputs, locked
    from espnet_llmvq.sequence.prompt import is_plain, resolved
    from espnet_llmvq.stages.sequences import Units, print_units, within_context, write

    inputs = (args.text, args.ctm, args.answers, args.cards, args.encoder_config)
    check_outputs([args.out, f"{args.out}.dropped.tsv"], inputs)
    needed = NEEDED[args.builder]
    if args.prompt and not is_plain(args.prompt) and args.builder in ("asr", "qa", "qa_text"):
        from espnet_llmvq.llm.directory import load_tokenizer

        if args.llm is None:
            raise UserError(f"--prompt {args.prompt!r} needs --llm, whose tokenizer has its marks")
        args.prompt = resolved(args.prompt, load_tokenizer(args.llm))
    if args.context is not None:
        needed += ("llm",) if args.builder in ("text", "qa_text") else ("llm", "encoder_config")
    for name in needed:
        if getattr(args, name) is None:
            raise UserError(f"--builder {args.builder} needs --{name}" + " with --context" * (name == "llm"))
    dropped, units, step, config = {}, Units(), 1, {}
    if args.encoder_config:
        from espnet_llmvq.speech.frame_rate import FrameRate

        config = read_config(args.encoder_config)
        step = FrameRate(config).step
    sequences = build(args, dropped, step, units)
    if args.context is not None:
        sequences = within_context(sequences, dropped, args.context, args.llm, config, args.bridge_stack, args.too_long)
    with locked(args.out):
        write(args.out, sequences, dropped, args.text or args.data_dir)
    if units:
        print_units(args.out, units)
