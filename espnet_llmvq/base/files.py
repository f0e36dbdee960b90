"""Writing in one step, one writer at a time, and what a command may replace.

A file that is there is replaced only if it was written here and is as it was written then: its directory's WRITTEN has
its hash. What has a record of how it was made (`base.made`) is made again also where it has changed. All else is an
error, unless the user says `--overwrite`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

from espnet_llmvq.base.errors import UserError

RECORD = "made.json"  # of a directory, or behind the name of a file: how it was made
WRITTEN = ".llmvq-written"  # in a directory: hash and name of each file that was written there, a line each time
OURS = ".llmvq-"  # in the names that only commands give
LONGEST = 240  # bytes of a name to which more is added
BLOCK = 1 << 20
# File systems and mounts without locks; there it is the user who sees that one process at a time writes a file.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_overwrite = False  # whether the user wants files of others replaced


def accept_overwriting():
    """Replace files that were not written here too, in this process."""
    global _overwrite
    _overwrite = True


def sha256(path):
    """Hash of a file's content, read in blocks."""
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(BLOCK), b""):
            h.update(block)
    return h.hexdigest()


def read_record(path):
    """What the record of a result holds (dict); None: there is none, or it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = isinstance(noted, dict) and {"inputs", "options", "files", "complete"} <= noted.keys()
        if whole and isinstance(noted["options"], dict):
            return noted
    return None


def is_record(path):
    """Whether a file is a record of a result, whole or damaged: nothing else may be replaced by one."""
    if read_record(path):
        return True
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        json.loads(text)
    except OSError:
        return False
    except ValueError:
        return text.startswith("{")
    return False


def _named_by_us(path):
    return any(part.startswith(".") and OURS in part for part in Path(os.path.abspath(path)).parts)


def _line(path, content):
    return f"{sha256(content)}  {json.dumps(Path(path).name)}\n"


def _written(path):
    """Lines of the WRITTEN beside `path`; a damaged one is none of ours."""
    with contextlib.suppress(OSError), open(Path(path).with_name(WRITTEN), encoding="utf-8", errors="replace") as f:
        return set(f)
    return set()


def was_written(path):
    """Whether a file of this name was written here once, whatever is there now."""
    return any(line.partition("  ")[2] == f"{json.dumps(Path(path).name)}\n" for line in _written(path))


def is_ours(path):
    """Whether `path` may be written: nothing is there, or what was written here and is as it was written."""
    if not os.path.lexists(path) or _named_by_us(path):
        return True
    with contextlib.suppress(OSError):
        return not os.path.islink(path) and _line(path, path) in _written(path)
    return False


def check_outputs(outputs, inputs=()):
    """Raise UserError for a file to write that is one of the inputs, or that is there and was not written here.

    `writing` asks the same of the one file; commands with several, or with much to do before, ask first.
    """
    read = {os.path.realpath(path): path for path in inputs if path}
    for path in filter(None, outputs):
        if source := read.get(os.path.realpath(path)):
            raise UserError(f"{path}: would replace the input {source}; give the output another name")
        if not (_overwrite or is_ours(path) or read_record(f"{path}.{RECORD}")):
            raise UserError(f"{path}: is there, and not made here; move it away, or replace it with --overwrite")


def hold(path, binary=False, busy=None):
    """The file `path`, made if needed, open for reading and writing and locked, until it is closed or the process ends.

    Another process waits here; it first calls `busy` with what the file says. With NFS that holds between machines too,
    unless it is mounted with locks of each machine's own (`nolock`, `local_lock`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        file = open(handle, "r+b") if binary else open(handle, "r+", encoding="utf-8", newline="\n")
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


def write_text(path, text, **options):
    """Write `text` as UTF-8 to `path` in one step, making the directory if needed. options: as of `writing`."""
    with writing(path, **options) as f:
        f.write(text)


def write_json(path, value, **options):
    """Write a value as JSON in one step. options: as of `writing`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", **options)


@contextlib.contextmanager
def writing(path, binary=False, known=False):
    """A file open for UTF-8 text, in a `with`: it becomes `path` at the end, or vanishes after an error.

    Of several processes one writes at a time; what a killed one leaves is written over by the next one. binary: open
    for bytes. known: the caller knows that what is there may be replaced. Raises UserError as `check_outputs`.
    """
    path = Path(path)
    if not known:
        check_outputs([path])
    temporary = _hidden(path, "tmp")
    with hold(temporary, binary) as f:
        try:
            f.truncate(0)
            yield f
            f.flush()
            line = _line(path, temporary)
            if not (_named_by_us(path) or path.name.endswith(RECORD) or line in _written(path)):
                # Before the file: one that is there without its line would not be known.
                with hold(path.with_name(WRITTEN), binary=True) as written:
                    cut = written.read()[-1:] not in (b"", b"\n")  # by a full disk: a line of no file
                    written.write(b"\n" * cut + line.encode())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def remove(path):
    """Remove a file that may be there. Raises UserError if it was not written here."""
    check_outputs([path])
    Path(path).unlink(missing_ok=True)


def file_name(name):
    """A name as that of a file or directory: different ones for different names, and none leads elsewhere."""
    name = name.replace("%", "%25").replace("/", "%2F")
    return name.replace(".", "%2E") if name in (".", "..") else name


def one_line(text):
    """The text with its white space reduced to single spaces: all that some reader takes for the end of a line too."""
    return " ".join(text.split())


def write_lines(path, lines):
    """Write lines in one step; a file that holds just these is left as it is, and so is its time."""
    text = "".join(f"{line}\n" for line in lines)
    with contextlib.suppress(OSError):
        if Path(path).read_bytes() == text.encode():
            return
    write_text(path, text)


def beside(target, what):
    """A name beside `target`, links followed, that no user gives to a file: ".NAME.llmvq-WHAT"."""
    return _hidden(Path(os.path.realpath(target)), what)


def _hidden(path, what):
    """.NAME.llmvq-WHAT beside a path; of a name that leaves no room for more (of 255 bytes), its hash."""
    name = os.fsencode(path.name)
    short = path.name if len(name) < LONGEST else hashlib.sha256(name).hexdigest()
    return path.with_name(f".{short}{OURS}{what}")


def share(directory):
    """Give the files of a new directory the rights that new files have; safetensors writes for their owner alone."""
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    for path in Path(directory).rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~mask)


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
    if not directory.exists() or is_record(directory / record):
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
