"""Export: a checkpoint together with the code that loads it, for people who have only transformers.

Weights and settings that `model.save_pretrained` writes need this package to load them. An export also holds the
package's own files, flat beside the weights, and entries in `config.json` and `processor_config.json` that lead the
Auto classes and `pipeline` to them when they are called with `trust_remote_code=True`. A process that has imported this
package uses its classes, even with `trust_remote_code=True`.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel

from llava_next_video.hub.checkpoint_folders import SETTINGS_PATTERNS, folder_with_weights, local_folder, read_config
from llava_next_video.hub.destination import appearing_at_once, check_destination, readable_size
from llava_next_video.hub.model_card import model_card
from llava_next_video.hub.model_card_facts import CardFacts, facts_of, with_facts, write_facts
from llava_next_video.hub.stored_tensors import PIECE_BYTES, stored_tensors
from llava_next_video.hub.upload import upload
from llava_next_video.inference.code_export import MODEL, write_code
from llava_next_video.modeling.checkpoint_settings import CheckpointError, read_json, reading_settings
from llava_next_video.modeling.configuration_llava_next_video import LlavaNextVideoConfig
from llava_next_video.modeling.error_texts import quoted
from llava_next_video.processing import LlavaNextVideoProcessor


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
OF_THIS_MACHINE = ("is_local", "local_files_only")  # in tokenizer_config.json
MAX_SHARD_SIZE = "5GB"  # of the weights of a loaded model; those of a folder are copied as they are


@dataclass(frozen=True)
class Export:
    """The result of an export, or of a dry run.

    Args:
        destination: the folder.
        files: names of the files in it, and their sizes in bytes.
        url: of the repository that it was uploaded to.
        is_written: False after a dry run.
    """

    destination: Path
    files: dict[str, int]
    url: str | None = None
    is_written: bool = True

    def __str__(self) -> str:
        total = f"{self.destination}: {len(self.files)} files, {readable_size(sum(self.files.values()))}"
        lines = [f"  {name}: {readable_size(size)}" for name, size in self.files.items()]
        head = [] if self.is_written else ["Dry run: nothing was written. What would be:"]
        return "\n".join([*head, total, *lines, *([self.url] if self.url else [])])


def export_for_hub(
    model_or_folder: PreTrainedModel | str | Path,
    destination: str | Path,
    *,
    processor: LlavaNextVideoProcessor | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
    license: str | None = None,
    language: str | list[str] | None = None,
    limits: list[str] | None = None,
    base_model: str | list[str] | None = None,
    dry_run: bool = False,
) -> Export:
    """Write a folder that loads with `trust_remote_code=True` wherever transformers is, and upload it if asked to.

    The weights of a folder are copied and never held in memory. Either the whole export appears at the destination, or
    nothing does.

    Args:
        model_or_folder: folder or Hub id of a checkpoint (this package's, or a `llava_next_video` one of transformers);
            or a loaded model, together with its `processor`.
        destination: a folder that does not exist yet, or is empty.
        processor: goes into the export; by default the one of the folder.
        push_to_hub: Hub repository to upload to, in one commit; it is created if it does not exist. The access token is
            the one that huggingface_hub finds.
        private: whether that repository has to be private.
        license, language, base_model: of the weights, for the model card, in the Hub's spelling; never guessed. They
            replace those in the source's `model_card.json`, and so do `limits`.
        limits: for the model card, sentences about what the checkpoint cannot do.
        dry_run: write and upload nothing.

    Returns:
        The files and their sizes. A dry run counts the weights of a loaded model as one file, without its header.

    Raises:
        ValueError: a model comes without processor, or is not one of ours; `private` without a repository, or with a
            public one; the Hub would refuse the model card.
        CheckpointError: the folder is not such a checkpoint, or its weights are not safetensors files, or not complete.
        WritingError: the destination exists, or the disk is too small.
        OSError: the source cannot be found, or the upload fails.
    """
    if private and not push_to_hub:
        raise ValueError("A private export needs a repository to be uploaded to; name one (push_to_hub).")
    if isinstance(model_or_folder, str | Path):
        folder, weights = checked_checkpoint(model_or_folder)
        model, generation_config = None, None
        facts = facts_of(folder)
        with reading_settings(folder):
            config = LlavaNextVideoConfig.from_pretrained(folder)
            processor = processor or LlavaNextVideoProcessor.from_pretrained(folder)
            if (folder / "generation_config.json").is_file():
                generation_config = GenerationConfig.from_pretrained(folder)
        sizes = {file.name: file.stat().st_size for file in weights}
    else:
        model, weights, config = checked_model(model_or_folder, processor), [], model_or_folder.config
        generation_config, facts = model.generation_config, CardFacts()
        sizes = {"model.safetensors": model.get_memory_footprint(return_buffers=False)}
    said = {"license": license, "language": language, "limits": limits, "base_model": base_model}
    facts = with_facts(facts, said, "what was passed")
    destination = check_destination(destination, sum(sizes.values()))

    def write_settings(folder: Path):
        """Write everything except weights: configurations, tokenizer, chat template, code and the model card."""
        config.save_pretrained(folder)
        if generation_config is not None:
            generation_config.save_pretrained(folder)
        processor.save_pretrained(folder)
        forget_this_machine(folder / "tokenizer_config.json")
        write_code(folder)
        write_facts(folder, facts)
        card = model_card(folder, push_to_hub)
        (folder / "README.md").write_text(card, encoding="utf-8")

    with TemporaryDirectory() as made:  # what is wrong with them is found before gigabytes are copied
        write_settings(Path(made))
        sizes |= sizes_in(Path(made))
    if dry_run:
        return Export(destination, dict(sorted(sizes.items())), is_written=False)
    with appearing_at_once(destination) as made:
        if model is None:
            copy_files(weights, made)
        else:
            model.save_pretrained(made, max_shard_size=MAX_SHARD_SIZE)
        write_settings(made)
    url = upload(destination, push_to_hub, private) if push_to_hub else None
    return Export(destination, sizes_in(destination), url)


def checked_checkpoint(source: str | Path) -> tuple[Path, list[Path]]:
    """The folder of a checkpoint, fetched if it is on the Hub, and its files of weights."""
    model_type = read_config(local_folder(source, SETTINGS_PATTERNS)).get("model_type")
    if model_type != LlavaNextVideoConfig.model_type:
        raise CheckpointError(
            f"{source} cannot be exported: its config.json has model_type {quoted(model_type)} instead of "
            f"{LlavaNextVideoConfig.model_type!r}. A checkpoint of the original code has to be converted first: "
            "python -m llava_next_video convert."
        )
    folder = folder_with_weights(source)
    files = sorted({tensor.file for tensor in stored_tensors(folder).values()})
    if any(file.suffix != ".safetensors" for file in files):
        raise CheckpointError(
            f"{source} cannot be exported as it is: its weights are in {files[0].name}, which people who do not trust "
            "you should not load. Load the model and pass it with its processor: it is written as safetensors."
        )
    # A file with another name than `WEIGHTS` is found only through the index.
    return folder, files if files == [folder / WEIGHTS] else [*files, folder / INDEX]


def checked_model(model: PreTrainedModel, processor: LlavaNextVideoProcessor | None) -> PreTrainedModel:
    """The model.

    Raises:
        ValueError: it cannot be exported, or has no processor.
    """
    name = type(model).__name__
    if name != MODEL.rpartition(".")[2]:
        raise ValueError(
            f"A {name} cannot be exported; what can be is a folder, a Hub id or a {MODEL.rpartition('.')[2]}. "
            "Adapters go into their model first (merge_and_unload)."
        )
    if processor is None:
        raise ValueError(
            "A loaded model cannot be exported without its processor; pass `processor` too, as in "
            "export_for_hub(model, destination, processor=AutoProcessor.from_pretrained(...))."
        )
    return model


def forget_this_machine(tokenizer_config: Path):
    """Remove from a tokenizer's settings how it was loaded here, which transformers stores with them."""
    if tokenizer_config.is_file():
        settings = {name: value for name, value in read_json(tokenizer_config).items() if name not in OF_THIS_MACHINE}
        tokenizer_config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_files(files: list[Path], folder: Path):
    """Copy files, with a progress bar of bytes on a terminal."""
    total = sum(file.stat().st_size for file in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="Copying", disable=not sys.stderr.isatty()) as bar:
        for file in files:
            with open(file, "rb") as source, open(folder / file.name, "wb") as copy:
                while piece := source.read(PIECE_BYTES):
                    copy.write(piece)
                    bar.update(len(piece))


def sizes_in(folder: Path) -> dict[str, int]:
    """Names of the files in a folder, and their sizes in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def run(args: argparse.Namespace):
    """Write a checkpoint with the code that loads it, for people who have only transformers."""
    names = ("push_to_hub", "private", "license", "language", "limits", "base_model", "dry_run")
    print(export_for_hub(args.source, args.destination, **{name: getattr(args, name) for name in names}))
