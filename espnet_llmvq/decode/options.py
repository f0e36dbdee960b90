"""Options that the commands of questions share, and what is made of them."""

import argparse
import dataclasses
import json

from espnet_llmvq.base.errors import UserError

COMMANDS = ("multiple_choice", "spoken_qa")  # sections of --config


def add_question_options(parser, options):
    """Add what every command of questions takes, and an option for each key of the dataclass `options`."""
    parser.add_argument("--questions", required=True, help="JSON lines; its name names the result")
    parser.add_argument("--systems", default="", help="systems and groups under conf_dir/systems; no ctc ones")
    parser.add_argument("--conf_dir", default="conf", help="holds systems/ and phases/")
    parser.add_argument("--expdir", default="exp", help="where models are and answers go")
    parser.add_argument("--encoder", default="exp/encoder", help="experiment directory of the encoder")
    parser.add_argument("--seed", type=int, default=1, help="the seed the systems were trained with")
    parser.add_argument("--llm", help="also, or only, ask this LLM directory in writing: the ceiling")
    parser.add_argument("--llm_dir", default="exp/llm_alone", help="where the answers of --llm go")
    parser.add_argument("--text_only", action="store_true", help="ask systems in writing only; no audio is needed")
    parser.add_argument("--batch_size", type=int, default=16, help="questions in a batch")
    parser.add_argument("--nj", type=int, default=1, help="systems asked at once, in processes of their own (CPU)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to use a GPU")
    parser.add_argument("--redo", action="store_true", help="ask again what is answered")
    parser.add_argument("--config", help="YAML with the keys below, under the name of this command")
    for key in dataclasses.fields(options):
        kind = {bool: _switch, str: _text}.get(type(key.default), type(key.default))
        default = json.dumps(key.default)
        # Absent unless given, so that --config decides.
        parser.add_argument(
            f"--{key.name}", type=kind, default=argparse.SUPPRESS, help=f"{key.metadata['help']} (default: {default})"
        )


def _text(value):
    return value.replace("\\n", "\n")


def _switch(value):
    if value not in ("true", "false"):
        raise ValueError(value)
    return value == "true"


def question_options(args, options, command):
    """The `options` of parsed arguments: the section `command` of --config, and what was given beside it.

    UserError for unknown sections and keys, and for impossible values.
    """
    from espnet_llmvq.base.config import from_mapping, read_yaml
    from espnet_llmvq.base.errors import check_name

    if not (args.systems.split() or args.llm):
        raise UserError("nobody is asked: give --systems, --llm or both")
    if args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: give 1 or more")
    sections = read_yaml(args.config) if args.config else {}
    for name in sections:
        check_name(f"section in {args.config}", name, COMMANDS)
    values = sections.get(command) or {}
    if not isinstance(values, dict):
        raise UserError(f"{args.config}: {command}: expected `key: value` lines")
    from_mapping(options, values, args.config)
    for key in dataclasses.fields(options):
        if hasattr(args, key.name):
            values[key.name] = getattr(args, key.name)
    return from_mapping(options, values, f"{args.config} and options" if args.config else "options")
