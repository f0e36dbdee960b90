"""Writing in one step, one writer at a time, and what a command may replace."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

from espnet_llmvq.base.errors import UserError


def write_text(path, text):
    """Write `text` as UTF-8 to `path` in one step, making the directory if needed."""
    with writing(path, f"{os.getpid()}.tmp") as f:
        f.write(text)


def write_json(path, value):
    """Write a value as JSON in one step."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def writing(path, suffix="tmp"):
    """A file open for UTF-8 text, in a `with`: it becomes `path` at the end, or vanishes after an error.

    What a killed process leaves is written over by the next one. suffix: of the temporary name; where several
    processes may write `path` at once, one of each.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{suffix}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as f:
            yield f
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path, lines):
    """Write lines in one step; a file that holds just these is left as it is, and so is its time."""
    text = "".join(f"{line}\n" for line in lines)
    with contextlib.suppress(OSError):
        if Path(path).read_bytes() == text.encode():
            return
    write_text(path, text)


def beside(target, what):
    """A name beside `target` that no user gives to a file: ".NAME.llmvq-WHAT"."""
    target = Path(os.path.realpath(target))
    return target.with_name(f".{target.name}.llmvq-{what}")


@contextlib.contextmanager
def locked(target):
    """In a `with`, be the only process that makes `target`; another one waits, and says who works there.

    The lock is a file beside the target. It is free when its holder ends, however it ends.
    """
    path = beside(target, "lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"waiting for {target}: {file.read() or 'another process'} works there", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        # The one before may have removed the file that was waited for.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')},")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def check_replaceable(directory, record):
    """Raise UserError if `directory` holds files but no `record`: it is not one that the command made before.

    Also if it is a symbolic link: what is written beside it might be on another disk than what it leads to.
    """
    directory = Path(directory)
    if directory.is_symlink():
        raise UserError(f"{directory} would be replaced, but is a link; name the directory itself, or link its parent")
    if not directory.exists() or (directory / record).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise UserError(
            f"{directory} would be replaced, but holds other files and no {record}; remove it or name another"
        )


def replace_directory(new, target):
    """Put the finished directory `new` in the place of `target`, which is there or not; never a part of either."""
    target, old = Path(target), beside(target, "old")
    restore_directory(target)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def restore_directory(target):
    """Undo, or finish, a `replace_directory` that was killed between its steps."""
    target, old = Path(target), beside(target, "old")
    if old.exists() and not target.exists():
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)


def check_path(path, needed="config.json", what="LLM", remedy="give --llm PATH or run stages 5 and 6"):
    """Whether `path` is local; raise UserError for a local path without the file `needed`."""
    if os.path.isdir(path):
        if not os.path.exists(os.path.join(path, needed)):
            raise UserError(f"{what} directory {path} has no {needed}; is it a Hugging Face model?")
        return True
    # A hub id is `owner/name` or `name`; a path whose first folder exists is a path.
    first = path.split("/")[0]
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or os.path.isdir(first):
        raise UserError(f"{what} directory {path} does not exist; {remedy}")
    return False
