"""Say what this installation has, what it lacks, and the command that mends it.

The exit status is 1 only if something required is missing. What `llmvq doctor --json` prints belongs to a report of a
fault.
"""

import json
import os
import platform

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--extras",
        help='extras that are required too, such as "train tts"; not given: train in a checkout, where recipes run, '
        "none of an installed package",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; the home directory is written as ~")
    args = parser.parse_args(argv)
    import espnet_llmvq
    from espnet_llmvq.base.environment import get_commit
    from espnet_llmvq.doctor.finding import as_json, lines
    from espnet_llmvq.doctor.libraries import TRAIN, checkout, libraries
    from espnet_llmvq.doctor.machine import gpus, hardware, places, programs, python
    from espnet_llmvq.doctor.models import models

    recipes = checkout() is not None
    default = TRAIN if recipes else ""
    extras = (default if args.extras is None else args.extras).split()
    found = [python(), *libraries(extras), *hardware(), *gpus(TRAIN in extras), *places()]
    found += [*programs(recipes), *models()]
    facts = {
        "version": espnet_llmvq.__version__,
        "installed": os.path.dirname(espnet_llmvq.__file__),
        "commit": get_commit(espnet_llmvq.__file__),
        "platform": platform.platform(),
    }
    if args.json:
        print(json.dumps(as_json(found, os.path.expanduser("~"), **facts), indent=1, ensure_ascii=False))
    else:
        print(f"espnet_llmvq {facts['version']} in {facts['installed']}, commit {facts['commit']}, {facts['platform']}")
        print("\n".join(lines(found)))
    return int(any(finding.fails for finding in found))
