"""Uploading to the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import httpx  # the one it uses, httpx or httpx2

from llava_next_video.modeling.error_texts import first_line


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder to a Hub repository in one commit, and return the repository's address.

    The access token is the one that huggingface_hub finds (`hf auth login`, or the environment variable HF_TOKEN).

    Args:
        repository: `owner/name`; it is created if it does not exist.
        private: whether it has to be private; otherwise its owner's settings decide, by default public.

    Raises:
        ValueError: it has to be private, but exists and is public; nothing was uploaded.
        OSError: the Hub cannot be reached, or writing there is not allowed.
    """
    hub = HfApi()
    try:
        address = hub.create_repo(repository, private=private or None, exist_ok=True)
        if private and not hub.repo_info(address.repo_id).private:
            raise ValueError(
                f"{folder} cannot be uploaded to a private repository: {repository} exists and is public. "
                "Nothing was uploaded. Name another repository, or make that one private first."
            )
        hub.upload_folder(repo_id=address.repo_id, folder_path=folder)
    except (OSError, httpx.HTTPError) as error:
        raise OSError(
            f"{folder} is written, but was not uploaded to {repository}: {first_line(error)}. Upload it with "
            f"`hf upload {repository} {folder}{' --private' if private else ''}`, after `hf auth login`."
        ) from error
    return str(address)
