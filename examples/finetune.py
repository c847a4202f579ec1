"""Fine-tune a checkpoint on conversations about videos, with TRL, and compare its answers before and after.

    pip install "llava-next-video[train]"
    python examples/finetune.py train.jsonl --eval held_out.jsonl --checkpoint CHECKPOINT --out tuned
    llava-next-video ask clip.mp4 "What happens?" --model tuned/model

A line of the files is a conversation about a video, whose path counts from the file's folder, as in
[the guide](../docs/guides/fine_tuning.md#rows):

    {"videos": ["clips/1.mp4"], "messages": [{"role": "user", "content": "What happens?"},
                                             {"role": "assistant", "content": "A bird lands on a branch."}]}

By default adapters of the language model are trained (LoRA); `--method qlora` loads it in 4 bits for that, and
`--method full` trains everything. Into OUT go

    model/          the tuned checkpoint, adapters merged, as every other checkpoint is used
    adapter/        the adapters alone (not with `full`)
    answers.json    to the last question of each row of the `--eval` files: before, after, and what the file says
    run/            checkpoints of the training

Started again with the same arguments after it was interrupted, it goes on from the last checkpoint in OUT/run.
"""

import argparse
import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    BitsAndBytesConfig,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

import llava_next_video
from llava_next_video import LlavaNextVideoCollator, train_only


LEARNING_RATES = {"lora": 1e-4, "qlora": 1e-4, "full": 1e-5}
LANGUAGE_MODEL_LAYERS = r".*\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
NOT_QUANTIZED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
PARTS = ("vision_tower", "projector", "newlines", "language_model")
SHOWN = 5  # questions whose answers are printed


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="a .jsonl file")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--eval", type=Path, nargs="+", default=[], help="more .jsonl files, of rows kept apart")
    parser.add_argument("--checkpoint", default=llava_next_video.DEMO_CHECKPOINT, help="default: the demonstration's")
    parser.add_argument("--method", choices=LEARNING_RATES, default="lora", help="default: %(default)s")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters (default: %(default)s)")
    parser.add_argument(
        "--new-words",
        action="store_true",
        help="beside adapters, train the embeddings and the head: for words whose tokens it has never said",
    )
    parser.add_argument("--learning-rate", type=float, help="default: 1e-4, with `full` 1e-5")
    parser.add_argument("--epochs", type=float, default=1, help="default: %(default)g")
    parser.add_argument("--batch-size", type=int, default=1, help="rows at once (default: %(default)s)")
    parser.add_argument("--accumulate", type=int, default=8, help="batches for each step (default: %(default)s)")
    parser.add_argument("--num-frames", type=int, help="of each video (default: the checkpoint's)")
    parser.add_argument("--max-length", type=int, help="tokens of a row; longer ones lose their end")
    parser.add_argument("--save-every", type=int, default=100, help="steps (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=50, help="asked of each --eval file (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of an answer (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read videos (default: %(default)s)")
    args = parser.parse_args(arguments)
    for name in ("rank", "batch_size", "accumulate", "save_every", "questions", "max_new_tokens"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it has to be 1 or more")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        parser.error("this example is for one process; docs/guides/fine_tuning.md is about several")
    if len({path.stem for path in args.eval}) < len(args.eval):
        parser.error("two --eval files have the same name; the report tells them apart by their names")
    args.learning_rate = args.learning_rate or LEARNING_RATES[args.method]
    return args


# --- rows ---


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file, with paths that no longer depend on where it lies.

    Raises:
        SystemExit: the file has no rows, a line is not a JSON object, or a file that it names does not exist.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SystemExit(f"{path}, line {number} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise SystemExit(f"{path}, line {number} is {line[:60]!r}; it has to be an object: {{...}}.")
            rows.append(with_full_paths(row, path.parent, f"{path}, line {number}"))
    if not rows:
        raise SystemExit(f"{path} has no rows.")
    return rows


def with_full_paths(row: dict, folder: Path, where: str) -> dict:
    def full(name):
        if not isinstance(name, str) or "://" in name:
            return name
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            raise SystemExit(f"{where} names {path}, which does not exist.")
        return path

    for column in set(row) & {"videos", "images", "video", "image"}:
        value = row[column]
        row = row | {column: [full(name) for name in value] if isinstance(value, list) else full(value)}
    return row


def note_settings(args: argparse.Namespace):
    """Note in OUT what the run depends on; compare it with what is noted there.

    Raises:
        SystemExit: OUT holds a run with other settings or other rows.
    """
    without = ("train", "out", "eval", "workers")
    settings = {name: value for name, value in vars(args).items() if name not in without}
    files = [args.train, *args.eval]
    settings["rows"] = [hashlib.blake2b(path.read_bytes(), digest_size=10).hexdigest() for path in files]
    path = args.out / "settings.json"
    if path.exists() and (noted := json.loads(path.read_text())) != settings:
        other = [name for name in settings if noted.get(name) != settings[name]]
        raise SystemExit(f"{args.out} holds a run with other {', '.join(other)}. Pass another --out.")
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def write_json(path: Path, value):
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(unfinished, path)


# --- asking ---


@torch.no_grad()
def answers_of(model, collate: LlavaNextVideoCollator, rows: list[dict], max_new_tokens: int) -> list[str]:
    """What the model says where the last answer of each row begins; `collate` learns only that one, padded right."""
    model.eval()
    answers = []
    for start in range(0, len(rows), 8):
        batch = collate(rows[start : start + 8]).to(model.device, model.dtype)
        ids, labels = batch.pop("input_ids"), batch.pop("labels")
        begins = (labels != -100).int().argmax(dim=1).tolist()
        prompts = [row[:begin] for row, begin in zip(ids, begins)]
        left = {"batch_first": True, "padding_side": "left"}  # so that all of them end where an answer begins
        ids = pad_sequence(prompts, padding_value=collate.processor.tokenizer.pad_token_id, **left)
        batch["attention_mask"] = pad_sequence([torch.ones_like(prompt) for prompt in prompts], **left)
        said = model.generate(input_ids=ids, **batch, max_new_tokens=max_new_tokens, do_sample=False)
        answers += collate.processor.batch_decode(said[:, ids.shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def last_turn(row: dict) -> tuple[str, str]:
    """The last answer in a row, and the question before it."""
    messages = row.get("messages") or [*row["prompt"], *row["completion"]]
    last = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
    return tuple(text_of(message["content"]) for message in messages[last - 1 : last + 1])


def text_of(content: str | list[dict]) -> str:
    return (content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)).strip()


def count_right(answers: list[str], rows: list[dict]) -> int:
    """How many answers are, word for word, those of the rows."""
    return sum(answer.casefold() == last_turn(row)[1].casefold() for answer, row in zip(answers, rows))


class Asker(TrainerCallback):
    """Has the model answer the rows kept apart, whenever Trainer evaluates."""

    def __init__(self, rows: dict[str, list[dict]], collate: LlavaNextVideoCollator, max_new_tokens: int):
        self.rows, self.collate, self.max_new_tokens = rows, collate, max_new_tokens

    def ask(self, model, when: str) -> dict[str, list[str]]:
        answers = {name: answers_of(model, self.collate, rows, self.max_new_tokens) for name, rows in self.rows.items()}
        for name, rows in self.rows.items():
            right = count_right(answers[name], rows)
            print(f"{when}: {name}: {right} of {len(rows)} answers are those of the file", flush=True)
        return answers

    def on_evaluate(self, args, state, control, model, **kwargs):
        self.ask(model, f"step {state.global_step} of {state.max_steps}")


def report(rows_kept: dict[str, list[dict]], before: dict[str, list[str]], after: dict[str, list[str]], path: Path):
    """Write all answers into a file, and print some."""
    table = []
    for name, rows in rows_kept.items():
        for number, (row, said, says) in enumerate(zip(rows, before[name], after[name])):
            question, wanted = last_turn(row)
            videos = row.get("videos")
            table.append(
                {"file": name, "videos": videos, "question": question, "wanted": wanted, "before": said, "after": says}
            )
            if number < SHOWN:
                print(f"{name}: {question}\n    wanted {wanted!r}, before {said!r}, after {says!r}")
    write_json(path, table)


# --- training ---


def as_table(rows: list[dict]) -> Dataset | None:
    """Rows as TRL wants them. Columns of a table have one type each, and rows may differ: so it is one of JSON."""
    return Dataset.from_dict({"row": [json.dumps(row) for row in rows]}) if rows else None


class TableCollator(LlavaNextVideoCollator):
    """For rows of `as_table`."""

    def __call__(self, rows: list[dict]) -> BatchFeature:
        return super().__call__([json.loads(row["row"]) for row in rows])


def load_model(args: argparse.Namespace):
    """The checkpoint, as its method trains it."""
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu and args.method != "full" else torch.float32  # small steps are lost in bfloat16
    arguments = {"dtype": dtype, "device_map": "auto" if gpu else "cpu"}
    if args.method == "qlora":
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=NOT_QUANTIZED,
        )
    model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, **arguments)
    if args.method == "full":
        train_only(model, *PARTS)
    return model


def make_trainer(args: argparse.Namespace, rows: list[dict], processor, model, asker: Asker) -> SFTTrainer:
    gpu = torch.cuda.is_available()
    evaluates = {"eval_strategy": "steps", "eval_steps": args.save_every, "load_best_model_at_end": True}
    settings = SFTConfig(
        output_dir=str(args.out / "run"),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.accumulate,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,  # of all
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=gpu,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_steps=args.save_every,
        save_total_limit=2,
        logging_steps=10,
        dataloader_num_workers=args.workers,
        report_to=[],
        # The collator makes everything of the rows; TRL would make tokens of them first, without their videos.
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        **(evaluates if asker.rows else {}),
    )
    adapters = LoraConfig(
        r=args.rank,
        lora_alpha=2 * args.rank,
        lora_dropout=0.05,
        target_modules=LANGUAGE_MODEL_LAYERS,
        modules_to_save=["embed_tokens", "lm_head"] if args.new_words else None,
    )
    return SFTTrainer(
        model=model,
        args=settings,
        train_dataset=as_table(rows),
        eval_dataset=as_table([row for kept in asker.rows.values() for row in kept]),
        processing_class=processor,
        data_collator=TableCollator(processor, processor_kwargs=processor_kwargs(args), max_length=args.max_length),
        peft_config=None if args.method == "full" else adapters,
        callbacks=[asker],
    )


def processor_kwargs(args: argparse.Namespace) -> dict:
    return {} if args.num_frames is None else {"num_frames": args.num_frames}


def last_checkpoint(folder: Path) -> str | None:
    """The newest one that is complete: `trainer_state.json` is what Trainer writes last."""
    complete = {int(path.parent.name.split("-")[1]): path for path in folder.glob("checkpoint-*/trainer_state.json")}
    return str(complete[max(complete)].parent) if complete else None


def train(args: argparse.Namespace, rows: list[dict], processor, asker: Asker):
    """Train, or go on, and write OUT/model."""
    model = load_model(args)
    if asker.rows and not (args.out / "before.json").exists():
        write_json(args.out / "before.json", asker.ask(model, "before"))
    trainer = make_trainer(args, rows, processor, model, asker)
    if start := last_checkpoint(args.out / "run"):
        print(f"goes on from {start}", flush=True)
    trainer.train(resume_from_checkpoint=start)
    if args.method == "full":
        dtype = AutoConfig.from_pretrained(args.checkpoint).dtype or torch.float32
        tuned = trainer.model.to(dtype)
    else:
        trainer.save_model(str(args.out / "adapter"))
        tuned = merged(args.checkpoint, args.out / "adapter")
    unfinished = args.out / "model.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    tuned.save_pretrained(unfinished)
    AutoProcessor.from_pretrained(args.checkpoint).save_pretrained(unfinished)  # as it was before TRL
    os.replace(unfinished, args.out / "model")


def merged(checkpoint: str, adapter: Path):
    """The checkpoint in its own number format with adapters merged, whatever format they were trained beside."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    rows = read_rows(args.train)
    kept = {path.stem: read_rows(path)[: args.questions] for path in args.eval}
    processor = AutoProcessor.from_pretrained(args.checkpoint)
    collate = LlavaNextVideoCollator(processor, processor_kwargs=processor_kwargs(args), last_turn_only=True)
    for each in (rows, *kept.values()):
        collate.check(each)
    note_settings(args)
    asker = Asker(kept, collate, args.max_new_tokens)
    if not (args.out / "model").exists():
        train(args, rows, processor, asker)
    if kept:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForImageTextToText.from_pretrained(args.out / "model", device_map=device)
        before = json.loads((args.out / "before.json").read_text(encoding="utf-8"))
        report(kept, before, asker.ask(model, "after"), args.out / "answers.json")
    print(f"{args.out / 'model'} is the tuned checkpoint")


if __name__ == "__main__":
    main()
