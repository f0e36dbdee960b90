"""Models of the Hugging Face hub: what there is of one, and its files as a directory."""

import re
import shutil
from pathlib import Path

from espnet_llmvq.base.errors import DOWNLOAD, UserError
from espnet_llmvq.base.hub import is_terms

# What transformers read, in this order of preference, and what they need beside it; no code. Licences come too.
WEIGHTS = (r"model.*\.safetensors", r"pytorch_model.*\.bin")
REST = r".*\.(json|model|txt|jinja)"


def asked(name, call, *args, **kwargs):
    """What `call` returns. Raises UserError for what the hub or the network refuses."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return call(*args, **kwargs)
    except GatedRepoError:
        raise UserError(
            f"{name}: accept its licence on https://huggingface.co/{name}, then run `hf auth login` or set HF_TOKEN"
        ) from None
    except OfflineModeIsEnabled:
        raise UserError(f"{name} is on the hub, and HF_HUB_OFFLINE forbids to ask it; unset that") from None
    except (HfHubHTTPError, HFValidationError, OSError) as err:
        first = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise UserError(f"{name} cannot be had from the hub ({first}); {DOWNLOAD}") from None


class Hub:
    """A model of the hub as it is now: `revision`, `names` of its files that transformers read, `licence`, `disk`.

    Raises UserError if there is none that transformers read, or the hub cannot be asked.
    """

    memory = 0  # files go to the disk as they come

    def __init__(self, name):
        from huggingface_hub import HfApi

        info = asked(name, HfApi(library_name="espnet_llmvq").model_info, name, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings if "/" not in file.rfilename}
        weights = next(filter(None, ([n for n in sizes if re.fullmatch(form, n)] for form in WEIGHTS)), None)
        if not weights or "config.json" not in sizes:
            raise UserError(f"{name} has no config.json or no weights on the hub that transformers read; give another")
        self.name, self.revision = name, info.sha
        self.names = sorted({*weights, *(n for n in sizes if re.fullmatch(REST, n) or is_terms(n))})
        self.disk = sum(sizes[n] for n in self.names)
        said = getattr(info.card_data, "license", None)
        self.licence = f"{said or 'not named'}, see https://huggingface.co/{name}"

    def write(self, out):
        """Download the files into the directory `out`; what to record of it."""
        from huggingface_hub import snapshot_download

        asked(
            self.name, snapshot_download, self.name,
            revision=self.revision, local_dir=out, allow_patterns=self.names,
        )  # fmt: skip
        shutil.rmtree(Path(out) / ".cache", ignore_errors=True)  # the hub library's own
        if missing := [n for n in self.names if not (Path(out) / n).is_file()]:
            raise UserError(f"{self.name}: the hub did not give {', '.join(missing)}; {DOWNLOAD}")
        return {"revision": self.revision}
