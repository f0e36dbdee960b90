"""Which flags of a queueing system stand for which request, in the format of Kaldi's queue.conf.

command sbatch --export=ALL     # what submits a script
default gpu=0                   # value of an option that is not given
option mem=* --mem=$0           # flags for a value of an option; "*" is any other value, $0 stands for it
option gpu=0                    # nothing for this one
"""

import os
import re
import shlex
from dataclasses import asdict

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.launch.call import Resources

OPTIONS = tuple(Resources.__dataclass_fields__)


def read_config(text, where):
    """(command, {option: default}, {(option, value): flags}) of a config. UserError with file and line."""
    command, defaults, flags = None, {}, {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        kind, _, rest = line.partition(" ")
        match = re.fullmatch(r"([\w-]+)=(\S+)(?:\s+(.*))?", rest.strip())
        try:
            check_name("keyword", kind, ("command", "default", "option"))
            if kind == "command":
                command = shlex.split(rest)
                continue
            if not match or (kind == "default" and match[3]):
                raise UserError(f"{line!r} is not `{kind} NAME=VALUE{' FLAGS' * (kind == 'option')}`")
            name = check_name("option", match[1].replace("-", "_"), OPTIONS)
            if kind == "default":
                defaults[name] = match[2]
            else:
                flags[name, match[2]] = shlex.split(match[3] or "")
        except (UserError, ValueError) as err:
            raise UserError(f"{where}:{number}: {err}") from None
    if not command:
        raise UserError(f"{where}: has no line `command ...` (add the command that submits a job)")
    return command, defaults, flags


def submit_command(config, resources):
    """The command line that submits a job with these Resources: command, flags of each option.

    UserError for a request that the config has no line for.
    """
    command, defaults, flags = config
    line, unset = list(command), Resources()
    for name, value in asdict(resources).items():
        if value == getattr(unset, name):
            if name not in defaults:
                continue
            value = defaults[name]
        found = flags.get((name, str(value)), flags.get((name, "*")))
        if found is None:
            raise UserError(f"--{name} {value}: the config of this back end has no line `option {name}=*` (add one)")
        line += [part.replace("$0", str(value)) for part in found]
    return line


def load_config(path, default):
    """The config in the file `path`, or the text `default` of a back end if it is None."""
    if path is None:
        return read_config(default, "built-in config")
    if not os.path.isfile(path):
        raise UserError(f"--config {path}: no such file")
    with open(path, encoding="utf-8", errors="replace") as f:  # a wrong byte is told with its line
        return read_config(f.read(), path)
