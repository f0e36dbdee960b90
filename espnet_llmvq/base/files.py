"""Writing in one step, one writer at a time, and what a command may replace."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

from espnet_llmvq.base.errors import UserError

# File systems and mounts without locks; there it is the user who sees that one process at a time writes a file.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def hold(path, mode="a+", busy=None):
    """The file `path`, made if needed, open in `mode` and locked, until it is closed or this process ends.

    Another process waits here; it first calls `busy` with what the file says. With NFS that holds between machines too,
    unless it is mounted with locks of each machine's own (`nolock`, `local_lock`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}))
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if busy:
                    file.seek(0)
                    busy(file.read())
                fcntl.flock(file, fcntl.LOCK_EX)
            # The one before may have renamed or removed the file that was waited for.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except OSError as err:
            if err.errno in _NO_LOCKS:
                return file
            if err.errno not in (errno.ENOENT, errno.ESTALE):
                file.close()
                raise
        file.close()


def write_text(path, text):
    """Write `text` as UTF-8 to `path` in one step, making the directory if needed."""
    with writing(path) as f:
        f.write(text)


def write_json(path, value):
    """Write a value as JSON in one step."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def writing(path, mode="a+"):
    """A file open for UTF-8 text, or for bytes ("ab+"), in a `with`: it becomes `path` at the end, or vanishes after an
    error. Of several processes one writes at a time; what a killed one leaves is written over by the next one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with hold(temporary, mode) as f:
        try:
            f.truncate(0)
            yield f
            f.flush()
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


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

    def busy(holder):
        print(f"waiting for {target}: {holder or 'another process'} works there", file=sys.stderr, flush=True)

    with hold(path, busy=busy) as file:
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')},")
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)


def under_way(target):
    """Whether `target` is being made, or a making of it was killed."""
    return any(beside(target, what).exists() for what in ("lock", "new", "old"))


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
