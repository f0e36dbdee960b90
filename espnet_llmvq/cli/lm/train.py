"""Train a small causal LM from plain text and noisy copies, and report its held-out perplexity."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    p = Parser(description=__doc__)
    p.add_argument("--config", help="YAML of model, noise and training; defaults when not given")
    p.add_argument("--train", nargs="+", metavar="FILE", help="plain text, one sentence a line")
    p.add_argument("--valid", nargs="*", default=[], metavar="NAME=FILE", help="held-out plain text")
    p.add_argument("--tokenizer", metavar="DIR", help="directory that llmvq lm tokenizer wrote")
    p.add_argument("--out", metavar="DIR", help="LM directory to write; kept if it is trained like this")
    p.add_argument("--prompt", default="USER: {speech} ASSISTANT: {text}", help="of the copy task")
    p.add_argument("--seed", type=int, default=1, help="of the weights, the order and the noise")
    p.add_argument(
        "--perplexity_only", choices=("true", "false"), default="false",
        help="train nothing; measure --llm and write perplexity.json there, or in --out",
    )  # fmt: skip
    p.add_argument("--llm", metavar="DIR", help="Hugging Face directory for --perplexity_only")
    p.add_argument("--ngpu", type=int, default=0, help="1 to work on a GPU")
    args = p.parse_args(argv)

    files = {}
    for pair in args.valid:
        name, _, path = pair.partition("=")
        if not name or not path:
            raise UserError(f"--valid {pair!r} must be NAME=FILE")
        if name in files:
            raise UserError(f"--valid gives the name {name!r} twice")
        if not os.path.exists(path):
            raise UserError(f"--valid {name}: {path} does not exist")
        files[name] = path
    only = args.perplexity_only == "true"
    needed = ("llm", "valid") if only else ("train", "tokenizer", "out")
    missing = [f"--{name}" for name in needed if not getattr(args, name)]
    if missing:
        raise UserError(f"{', '.join(missing)} must be given")
    if args.llm and not only:
        raise UserError("--llm is for --perplexity_only true; a new LM is written to --out")

    from espnet_llmvq.llm import perplexity, pretrain

    config = pretrain.load_config(args.config) if args.config else pretrain.Config()
    if not only:
        pretrain.log_to_stderr()
        if pretrain.train(config, args.train, args.tokenizer, args.out, args.prompt, args.seed, args.ngpu):
            print(f"wrote {args.out}")
        else:
            print(f"{args.out} is there already; delete it to train again")
        if not files:
            return
    report = perplexity.measure(args.llm or args.out, files, args.prompt, config.noise, args.seed, args.out, args.ngpu)
    print(perplexity.table(report))
