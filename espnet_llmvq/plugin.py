"""The bridges in stock ESPnet: `python -m espnet_llmvq.plugin -m espnet2.bin.asr_train ...`.

Runs a module as `python -m` does, after telling ESPnet's ASR task about the post-encoders `llmvq_none`, `llmvq_hard`
and `llmvq_soft` (`tasks/postencoder.py`).
"""

import importlib
import runpy
import sys

from espnet_llmvq.bin.cli import Parser, run


def uses_asr_task(module):
    """Whether a module may build an ASR model. The other commands of ESPnet's asr.sh are spared the slow import."""
    return not module.startswith("espnet2.bin.") or module.startswith("espnet2.bin.asr_")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(
        prog="python -m espnet_llmvq.plugin",
        usage="%(prog)s -m MODULE [ARGUMENT ...]",
        description="Run MODULE as `python -m MODULE` does, with the bridges as post-encoders llmvq_none, llmvq_hard "
        "and llmvq_soft of ESPnet's ASR task. In asr.sh: --python 'python3 -m espnet_llmvq.plugin'.",
    )
    parser.add_argument("-m", required=True, metavar="MODULE", help="such as espnet2.bin.asr_train")
    # What follows the module's name is the module's, as with `python -m`.
    module, sys.argv = parser.parse_args(argv[:2]).m, [sys.argv[0], *argv[2:]]
    if uses_asr_task(module):
        importlib.import_module("espnet_llmvq.tasks.postencoder")  # registers them
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run(main)
