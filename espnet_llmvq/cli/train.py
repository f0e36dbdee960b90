"""Train phases with ESPnet's trainer: the encoder (stage 7), or all phases of some systems (stage 11)."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser

# Options of ESPnet's trainer by which the processes of several GPUs and machines find each other.
DISTRIBUTED = (
    "multiprocessing_distributed", "dist_launcher", "dist_backend", "dist_init_method", "dist_world_size", "dist_rank",
    "local_rank", "dist_master_addr", "dist_master_port",
)  # fmt: skip


SHAPES = ("train_shape_file", "valid_shape_file")


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--config", help="one training config (e.g. conf/encoder.yaml)")
    parser.add_argument("--tag", help="directory name under expdir for --config")
    parser.add_argument("--systems", default="", help="systems and groups of conf_dir/systems.yaml")
    parser.add_argument("--conf_dir", default="conf", help="holds systems.yaml")
    parser.add_argument("--expdir", default="exp", help="where models go")
    parser.add_argument("--llm", required=True, help="Hugging Face directory or hub id")
    parser.add_argument("--encoder_file", help="checkpoint of the frozen encoder")
    parser.add_argument("--pretrained_encoder", help="directory or hub id of WavLM or Whisper, for all phases")
    parser.add_argument("--pretrained_layer", help="last, weighted or a number; default: that of the phases, or last")
    parser.add_argument("--train", required=True, help="sequences to train on, of phases without a mixture")
    parser.add_argument("--mixture_dir", default="exp/mixtures", help="NAME.jsonl and NAME_shape of mixtures of phases")
    parser.add_argument("--valid", required=True, help="sequences of the validation set")
    parser.add_argument("--train_shape", required=True, help="LLM positions of each training sequence")
    parser.add_argument("--valid_shape", required=True, help="LLM positions of each validation sequence")
    parser.add_argument("--train_cache", help="encoder frames of the training set (scp)")
    parser.add_argument("--valid_cache", help="encoder frames of the validation set (scp)")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument("--nj", type=int, default=1, help="phases trained at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs of this machine; phases then train one at a time")
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        help="cut every batch into so many parts, one after the other: less memory, the same optimizer steps",
    )
    parser.add_argument("--override", action="append", default=[], help="key=value laid over every config, repeated")
    parser.add_argument("--check", action="store_true", help="only check names and keys, read no data")
    parser.add_argument("--dry_run", action="store_true", help="check, and say what would be trained and how")
    parser.add_argument("--num_nodes", type=int, default=1, help="machines that share a batch, for --dry_run")
    parser.add_argument("--json", help="with --dry_run: write the same to this file")
    group = parser.add_argument_group("given by ESPnet's launcher (espnet2.bin.launch), see its help")
    for name in DISTRIBUTED:
        group.add_argument(f"--{name}", help="as ESPnet's trainer has it")
    return parser


def check_kept_rows(configs, llm):
    """Raise UserError for a top_k above the vocabulary now, not when its phase has its turn.

    configs: {where: config}. The LLM is opened only if one of them has a quantizer.
    """
    from espnet_llmvq.bridge.bridge import check_top_k
    from espnet_llmvq.llm.directory import table_rows

    kept = {where: c.get("bridge_conf", {}).get("top_k") for where, c in configs.items()}
    kept = {where: top_k for where, top_k in kept.items() if top_k is not None}
    rows = table_rows(llm) if kept else None
    for where, top_k in kept.items():
        try:
            check_top_k(top_k, rows)
        except UserError as err:
            raise UserError(f"{where}: {err}") from None


def data_settings(args, mixture, changes_frames):
    """What a phase reads: settings of its sequences, their positions and cached encoder frames.

    Cached frames are those of the frozen encoder, and of the plain transcribed speech of the training set.
    """
    train, shape, cache = args.train, args.train_shape, args.train_cache
    if mixture is not None:
        train, shape = (os.path.join(args.mixture_dir, mixture + end) for end in (".jsonl", "_shape"))
    return {
        "train_data_path_and_name_and_type": [[train, "sequence", "sequence"]],
        "valid_data_path_and_name_and_type": [[args.valid, "sequence", "sequence"]],
        "train_shape_file": [shape],
        "valid_shape_file": [args.valid_shape],
        "train_cache": None if changes_frames or mixture is not None else cache,
        "valid_cache": None if changes_frames else args.valid_cache,
    }


def dry_run(trainings, args):
    """Print what would be trained and how, and write it to --json."""
    import json

    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.espnet.run import epoch_batches
    from espnet_llmvq.espnet.task import SpeechLLMTask
    from espnet_llmvq.experiment.phases import describe, show, with_defaults

    defaults, gpus, found = SpeechLLMTask.get_default_config(), max(args.ngpu, 1) * args.num_nodes, []
    for training in trainings:
        shape = data_settings(args, training.phase.mixture, False)["train_shape_file"][0]
        batches = None
        if os.path.exists(shape):
            batches = epoch_batches(with_defaults(training.config, defaults), shape, gpus)
        found.append(describe(training, defaults, gpus, batches))
        print("\n".join(show(found[-1])))
    if args.json:
        write_text(args.json, json.dumps(found, indent=1) + "\n")


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.base.config import read_overrides
    from espnet_llmvq.espnet.run import is_done, run_phases
    from espnet_llmvq.experiment.phases import read_trainings
    from espnet_llmvq.sequence.mixture import read_shape
    from espnet_llmvq.speech.pretrained import changes_frames

    wanted = args.systems.split()
    overrides = read_overrides(args.override)
    trainings = read_trainings(
        args.conf_dir, wanted, args.seed, args.config, args.tag, overrides, args.accumulate,
        pretrained=args.pretrained_encoder, layer=args.pretrained_layer,
    )  # fmt: skip
    if not trainings:
        if not wanted:
            raise UserError("nothing to train: give --config or --systems")
        print("the systems have no phases, nothing to train")
        return
    distributed = {name: getattr(args, name) for name in DISTRIBUTED if getattr(args, name) is not None}
    jobs = []
    for training in trainings:
        tag, parent, config = training.phase.tag, training.phase.parent, dict(training.config)
        changes = changes_frames(config, args.encoder_file)
        if args.ngpu > 1 and not distributed:
            config.setdefault("multiprocessing_distributed", True)  # else ESPnet splits batches along an axis
        if (args.ngpu > 1 or distributed) and (training.phase.mixture or changes):
            # A batch of text alone does not run the bridge, a pretrained encoder may have parts that it does not use.
            config.setdefault("unused_parameters", True)
        settings = {
            **config,
            "llm": args.llm,
            "encoder_file": args.encoder_file,
            "init_from": os.path.join(args.expdir, parent, "model.pth") if parent else None,
            **data_settings(args, training.phase.mixture, changes),
            "seed": args.seed,
            "ngpu": args.ngpu,
        }
        jobs.append((tag, parent, os.path.join(args.expdir, tag), settings))
    only_look = args.check or args.dry_run
    left = [] if only_look else [s for _, _, directory, s in jobs if not is_done(directory, s)]
    if only_look or left:
        from espnet_llmvq.espnet.task import SpeechLLMTask

        for training in trainings:
            SpeechLLMTask.check_config(training.config, training.phase.where)
        if not only_look:
            check_kept_rows({t.phase.where: t.config for t in trainings}, args.llm)
            for path in sorted({file for s in left for key in SHAPES for file in s[key]}):
                read_shape(path)  # ESPnet stops at a damaged one without its name
    if args.dry_run:
        dry_run(trainings, args)
    if not only_look:
        run_phases(jobs, 1 if args.ngpu or distributed else args.nj, args.threads, distributed)
