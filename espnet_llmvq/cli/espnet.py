"""Run a module of stock ESPnet with our bridges in it: `llmvq espnet -m espnet2.bin.asr_train ...`.

Runs it as `python -m` does, after telling ESPnet's ASR task about the post-encoders `llmvq_none`, `llmvq_hard` and
`llmvq_soft` (`espnet/postencoder.py`).
"""

import importlib
import runpy
import sys

from espnet_llmvq.cli.parser import Parser


def uses_asr_task(module):
    """Whether a module may build an ASR model. The other commands of ESPnet's asr.sh are spared the slow import."""
    return not module.startswith("espnet2.bin.") or module.startswith("espnet2.bin.asr_")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(
        usage="%(prog)s -m MODULE [ARGUMENT ...]",
        description="Run MODULE as `python -m MODULE` does, with the bridges as post-encoders llmvq_none, llmvq_hard "
        "and llmvq_soft of ESPnet's ASR task. In asr.sh: --python 'llmvq espnet'.",
    )
    parser.add_argument("-m", required=True, metavar="MODULE", help="such as espnet2.bin.asr_train")
    # What follows the module's name is the module's, as with `python -m`.
    module, sys.argv = parser.parse_args(argv[:2]).m, [sys.argv[0], *argv[2:]]
    if uses_asr_task(module):
        importlib.import_module("espnet_llmvq.espnet.postencoder")  # registers them
    runpy.run_module(module, run_name="__main__", alter_sys=True)
