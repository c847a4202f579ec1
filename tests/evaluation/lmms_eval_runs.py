"""Runs of the real lmms-eval, in processes whose sockets connect to this machine only, and note every other attempt."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_next_video import DEMO_CHECKPOINT
from llava_next_video.evaluation import july2024_prompts as july2024
from llava_next_video.evaluation.loading import load_pipeline
from llava_next_video.evaluation.questions import Question, as_chat
from tests.evaluation.miniature import SEEDS, clips_of, tables


CURRENT = ("nextqa_mc_test", "videomme", "videomme_w_subtitle", "egoschema_subset", "perceptiontest_val_mc")
ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
# On CPUs too, as no process sees a GPU; with `--cpu` it starts one process.
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2")
SECONDS = 1800  # of one run, on a busy machine
REFUSING_SOCKET = """
import socket
def is_here(host):
    return host in ("127.0.0.1", "::1", "localhost", None, socket.gethostname())
def refused(what):
    with open({log!r}, "a") as file:
        file.write(f"{{what}}\\n")
    return ConnectionRefusedError(f"{{what}} was refused by the test")
def refusing(function):
    def of_socket(self, *args):
        if self.family != socket.AF_UNIX and not is_here(args[-1][0]):
            raise refused(args[-1])
        return function(self, *args)
    return of_socket
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refusing(getattr(socket.socket, name)))
def resolve(host, *args, original=socket.getaddrinfo, **kwargs):
    if not is_here(host):
        raise socket.gaierror(str(refused(host)))
    return original(host, *args, **kwargs)
socket.getaddrinfo = resolve
"""


def environment_of(home: Path, folder: Path) -> dict:
    """Variables of a process that finds data in `home`; `folder` gets the file of refused connections."""
    (folder / "sitecustomize.py").write_text(REFUSING_SOCKET.format(log=str(folder / "connections")))
    settings = {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "CONNECTIONS": str(folder / "connections"),
    }
    return {**os.environ, **settings}


def run_lmms_eval(
    environment: dict,
    output: Path,
    tasks,
    model_args: str = f"pretrained={DEMO_CHECKPOINT}",
    launch: Sequence[str] = (),
    model: str = "llava_next_video",
    **options,
) -> dict:
    """The samples of each task, and the aggregated results under `"results"`; standard output under `"text"`."""
    command = [sys.executable, *launch, "-m", "lmms_eval", "eval", "--model", model]
    command += ["--model_args", model_args, "--tasks", ",".join(tasks)]
    command += ["--include_path", str(ROOT / "evaluation"), "--output_path", str(output), "--log_samples"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    results = list(output.glob("*/*_results.json"))
    assert len(results) == 1, process.stdout[-3000:] + process.stderr[-3000:]
    found = {"results": json.loads(results[0].read_text())["results"], "text": process.stdout + process.stderr}
    for path in output.glob("*/*_samples_*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().split("\n") if line]
        found[path.stem.split("_samples_")[1]] = sorted(rows, key=lambda row: row["doc_id"])
    return found


def table_command(
    output: Path, *words: str, checkpoint: str = DEMO_CHECKPOINT, launch: Sequence[str] = ()
) -> list[str]:
    command = [sys.executable, *launch, "-m", "llava_next_video", "evaluate"]
    return [*command, str(checkpoint), "--output", str(output), *words]


def run_table(environment: dict, output: Path, *words: str, **kwargs) -> dict:
    """The table as JSON, without its notes, which name the folder. The command has to keep the Hub's library offline
    itself."""
    online = {name: value for name, value in environment.items() if name != "HF_HUB_OFFLINE"}
    command = table_command(output, *words, **kwargs)
    process = subprocess.run(command, env=online, capture_output=True, text=True, timeout=SECONDS)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert (output / "table.md").read_text() in process.stdout
    table = json.loads((output / "table.json").read_text())
    table.pop("notes")
    return table


def documents_of(task: str) -> list[dict]:
    """The rows of a task's data set in the miniature."""
    rows = {key[:2]: value for key, value in tables(clips_of(SEEDS)).items()}
    if "egoschema" in task:
        return rows["egoschema", "GENERATION" if task == "july2024_egoschema" else "Subset"]
    names = {"nextqa": ("NExTQA", "MC"), "videomme": ("Video-MME", "videomme")}
    key = next((value for name, value in names.items() if name in task), ("PerceptionTest_Val", "mc_question_val"))
    return rows[key]


def plain_answers(task: str, prompts: list[str]) -> list[str]:
    """What a pipeline that remembers nothing answers to a task's prompts, one by one. HF_HOME has the videos."""
    pipe = load_pipeline(DEMO_CHECKPOINT, device="cpu")
    pipe.memory.max_videos = 0
    videos = {
        "nextqa": july2024.nextqa_video,
        "videomme": july2024.videomme_video,
        "egoschema": july2024.egoschema_video,
        "perceptiontest": july2024.perceptiontest_video,
    }
    video_of = next(function for name, function in videos.items() if name in task)
    length = 16 if "videomme" in task or task == "egoschema_subset" else 1024
    answers = []
    for prompt, document in zip(prompts, documents_of(task), strict=True):
        chat = as_chat(Question(task, 0, prompt, lambda document=document: video_of(document)))
        [record] = pipe(chat, return_full_text=False, do_sample=False, max_new_tokens=length)
        answers.append(record["generated_text"].split("\n\n")[0].strip())
    return answers
