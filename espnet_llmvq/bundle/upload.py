"""Send a packed system to the Hugging Face hub or to a local directory: the files of its manifest and the card."""

import os
import shutil
from glob import escape

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bundle.files import CARD, HUB_ID, MANIFEST, replacing, verify


def packed_files(directory):
    """Names of what is sent, after `verify`. Raises UserError without a model card."""
    names = [MANIFEST, CARD, *verify(directory)["files"]]
    if not os.path.exists(os.path.join(directory, CARD)):
        raise UserError(f"{directory} has no {CARD}, its model card; pack the system again")
    return names


def copy_to(directory, target):
    """Write a copy of a packed system as the directory `target`, complete or not at all."""
    names = packed_files(directory)
    with replacing(target) as temporary:
        for name in names:
            os.makedirs(os.path.dirname(os.path.join(temporary, name)), exist_ok=True)
            shutil.copyfile(os.path.join(directory, name), os.path.join(temporary, name))
        verify(temporary)


def upload_to(directory, repo, private=False, api=None):
    """Upload a packed system as one commit to the model repository `repo` ("owner/name"); its URL.

    api: `huggingface_hub.HfApi`, or what has its `create_repo` and `upload_folder`. Raises UserError for a bad name
    and for what the hub refuses.
    """
    names = packed_files(directory)
    if "/" not in repo or not HUB_ID.fullmatch(repo):
        raise UserError(f"repository {repo!r}: expected OWNER/NAME")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = api or HfApi(library_name="espnet_llmvq")
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        # Files of an earlier system must not stay beside these: they would be foreign.
        api.upload_folder(
            repo_id=repo,
            folder_path=directory,
            allow_patterns=[escape(name) for name in names],
            delete_patterns=["*.safetensors", "*.json", "*.yaml", "llm/*", "licences/*"],
            commit_message="Packed system of espnet_llmvq",
        )
    except LocalTokenNotFoundError:
        raise UserError("the hub asks for a token: run `hf auth login` or set HF_TOKEN") from None
    except (HfHubHTTPError, HFValidationError, OSError) as err:
        text = str(err).strip().split("\n")[0]
        raise UserError(f"cannot upload to {repo}: {text}") from None
    return str(url)
