"""A data directory that a command makes: whether it is up to date, and what of it may be replaced."""

import functools
import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import locked, restore_directory
from espnet_llmvq.base.made import Made, files_digest
from espnet_llmvq.data.tables import managed_files, read_lines


class MadeDir(Made):
    """A data directory as a result (`Made`), with the sound files that were written into it.

    sources: data directories of whose tables it is made. audio: sound files that it is made of; they count by path,
    size and time.
    """

    def __init__(self, out, sources=(), audio=(), **options):
        tables = [os.path.join(source, name) for source in map(str, sources) for name in managed_files(source)]
        super().__init__(out, tables, **options, **({"audio": files_digest(audio)} if audio else {}))

    def difference(self):
        """As that of `Made`; sound files must be there in their length."""
        if found := super().difference():
            return found
        for name, size in self.facts().get("audio", {}).items():
            path = os.path.join(self.out, name)
            if not os.path.isfile(path) or os.path.getsize(path) != size:
                return f"{path} is not as it was written"
        return ""

    def make(self, build):
        """Call build(directory) and put what it wrote there in the place of `out`. False if that is up to date already.

        The tables that were made before are replaced; what others put into the directory stays. Raises UserError if
        others made it, or put a table or a file of a name into it that is written now; or if sound files are missing at
        the end (`check_whole`). One process works at a time.
        """
        if self.settled():
            return False
        with locked(self.out):
            restore_directory(self.out)
            if self.fresh():
                return False
            with self.rebuilding() as new:
                build(new)
                names = sorted(os.path.relpath(os.path.join(r, f), new) for r, _, files in os.walk(new) for f in files)
                sizes = {name: os.path.getsize(new / name) for name in names if os.sep in name}
                self.note([name for name in names if os.sep not in name], at=new, audio=sizes)
        return True

    def check_new(self, new):
        check_whole(new, os.path.realpath(self.out))

    def strangers(self):
        """As of `Made`. Raises UserError for a table among them."""
        strangers = super().strangers()
        for name in set(strangers) & set(managed_files(self.out)) if self.record() else ():
            raise UserError(f"{self.out}/{name} was not made with {self.out}, which is to be made again; move it away")
        return strangers


def check_apart(dest, *sources):
    """Raise UserError if `dest` is one of the directories that it is made of."""
    if os.path.realpath(dest) in map(os.path.realpath, sources):
        raise UserError(
            f"{dest}: is {'the source itself' if len(sources) == 1 else 'one of the sources'} (give another DEST)"
        )


def check_whole(new, out):
    """Raise UserError if `new`, which is to become `out`, lacks sound files that its wav.scp says are in `out`."""
    if not (new / "wav.scp").exists():
        return
    home = functools.lru_cache(1 << 12)(lambda folder: os.path.relpath(os.path.realpath(folder), out))
    there = functools.lru_cache(1 << 12)(lambda path: (new / path).is_file())
    inside, lost, first = 0, 0, ""
    for row, *_ in read_lines(new / "wav.scp"):
        path = os.path.join(home(os.path.dirname(row.value)), os.path.basename(row.value))
        if path.split(os.sep)[0] != os.pardir:
            inside += 1
            if not there(path):
                lost, first = lost + 1, first or path
    if lost:
        raise UserError(
            f"{out}: {lost} of {inside} sound files were not written, or removed since, such as {first}; run again"
        )
