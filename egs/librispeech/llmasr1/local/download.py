"""Parts of LibriSpeech and mini LibriSpeech from OpenSLR, unpacked into DEST/LibriSpeech; what is there already stays.

An archive that was cut off is continued, checked by its MD5 sum, unpacked, and removed.
"""

import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import locked

URL = "https://www.openslr.org/resources/12"
# md5sum.txt of the same address; of the last two, of https://www.openslr.org/resources/31.
MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
    "dev-clean-2": "6d7ab67ac6a1d2c993d050e16d61080d",
    "train-clean-5": "5df7d4e78065366204ca6845bb08f490",
}
BLOCK = 1 << 20
TIMEOUT_S = 60


def fetch(url, path):
    """Append to `path` what it lacks of the file at `url`. Raises UserError when the connection fails."""
    from tqdm import tqdm

    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            # A server that knows no ranges sends it all.
            mode, have = ("ab", have) if answer.status == 206 else ("wb", 0)
            total = have + int(answer.headers.get("Content-Length") or 0)
            with open(path, mode) as f, tqdm(total=total, initial=have, unit="B", unit_scale=True) as bar:
                while block := answer.read(BLOCK):
                    f.write(block)
                    bar.update(len(block))
        # A closed connection looks like the end.
        if path.stat().st_size < total:
            raise OSError(f"the connection ended after {path.stat().st_size} of {total} bytes")
    except urllib.error.HTTPError as err:
        if err.code == 416 and have:  # nothing is left to send: the sum tells whether it is whole
            return
        raise UserError(
            f"{url}: {err}; download it by other means and set LIBRISPEECH or MINI_LIBRISPEECH (db.sh)"
        ) from None
    except OSError as err:
        raise UserError(f"{url}: {err}; run again to go on from {path}") from None


def md5_of(path):
    """MD5 sum of a file, in hexadecimal digits."""
    digest = hashlib.md5()
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def unpack(archive, part, home):
    """Put PART of an archive into `home`, and the lists (SPEAKERS.TXT ...) that come with it."""
    room = home / f".{part}.tmp"
    shutil.rmtree(room, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(room, filter="data")
    except tarfile.TarError as err:
        raise UserError(f"{archive}: {err}; remove it and run again") from None
    inner = room / "LibriSpeech"
    if not (inner / part).is_dir():
        raise UserError(f"{archive}: holds no LibriSpeech/{part}; remove it and run again")
    for path in inner.iterdir():
        if path.is_file():
            os.replace(path, home / path.name)
    os.rename(inner / part, home / part)
    shutil.rmtree(room)


def download(part, dest, url=URL, sums=MD5):
    """Make DEST/LibriSpeech/PART; nothing to do if it is there. Raises UserError for a wrong MD5 sum."""
    home = Path(dest) / "LibriSpeech"
    if (home / part).is_dir():
        print(f"{home / part} is there, nothing to do")
        return
    archive = Path(dest) / f"{part}.tar.gz"
    with locked(home / part):
        if (home / part).is_dir():  # by another process meanwhile
            return
        fetch(f"{url}/{archive.name}", archive)
        found = md5_of(archive)
        if found != sums[part]:
            archive.unlink()
            raise UserError(f"{archive}: its MD5 sum is {found}, not {sums[part]}; it is removed now, run again")
        unpack(archive, part, home)
        archive.unlink()
    print(f"{home / part}: downloaded and unpacked")
