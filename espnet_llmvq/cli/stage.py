"""Do the work of a stage of a recipe: what is not made, or was made otherwise, is made (stages 1 to 10)."""

from espnet_llmvq.cli.parser import add_nj, experiment_parser

# {name: (module of espnet_llmvq.stages, function, arguments it takes, help)}
STAGES = {
    "cut": ("data", "cut", (), "leave a handful of utterances and lines, for a smoke run"),
    "check": ("data", "check", ("nj",), "find every defect of the data directories"),
    "perturb": ("data", "perturb", ("nj",), "speech for --tts_text, and speed perturbation of the training set"),
    "format": ("data", "format_sets", ("nj",), "16 kHz mono, one file an utterance"),
    "filter": ("data", "filter_sets", (), "drop training and validation utterances that are too short or too long"),
    "tokenizer": ("language", "tokenizer", (), "train the tokenizer"),
    "lm": ("language", "language_model", ("threads", "ngpu"), "train the language model, and measure its perplexity"),
    "encoder": (
        "encoder",
        "prepare",
        ("threads", "ngpu"),
        "what the encoder's training needs, or a pretrained one described",
    ),
    "align": ("encoder", "align", ("threads", "ngpu"), "word times by the encoder's CTC head"),
    "sequences": ("sequences", "make_all", (), "sequences of all sets and of what mixtures are made of"),
    "positions": ("sequences", "count_all", (), "LLM positions of sequences, for batches"),
    "mixtures": ("sequences", "make_mixtures", (), "mixtures by shares of LLM positions"),
    "encode": ("encoder", "encode", ("threads", "ngpu"), "frames of the frozen encoder"),
}


def main(argv=None):
    parser = experiment_parser(__doc__)
    listed = "; ".join(f"{name}: {text}" for name, (*_, text) in STAGES.items())
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=listed)
    add_nj(parser, "parallel jobs", default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of one job")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to use a GPU")
    args = parser.parse_args(argv)
    import importlib

    from espnet_llmvq.experiment.experiment import read_experiment

    module, function, taken, _ = STAGES[args.stage]
    work = getattr(importlib.import_module(f"espnet_llmvq.stages.{module}"), function)
    work(read_experiment(args.exp), **{name: getattr(args, name) for name in taken})
