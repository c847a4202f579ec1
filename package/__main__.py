"""The command line: `python -m llava_next_video ask VIDEO QUESTION`, `chat VIDEO` and others, also installed as
`llava-next-video`.

What the user got wrong, what the machine lacks and Ctrl-C are one line on standard error. Status: 0; 1, it could not be
done; 2, the command line was wrong; 130, stopped by Ctrl-C; 141, nobody reads the output any more.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from threading import current_thread, main_thread

from llava_next_video.commands import COMMANDS, STANDARD_INPUT, parse_arguments


NAME = "llava-next-video"
STOPPED, OUTPUT_CLOSED = 128 + signal.SIGINT, 128 + getattr(signal, "SIGPIPE", 13)  # as shells count


def program():
    """What the shell starts: `main`, and then an end."""
    if sys.stderr is None or not sys.stderr.isatty():  # read by huggingface_hub and transformers when they are imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        status = main()
        # Threads and libraries are still tidied up, in which Python would report Ctrl-C with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:  # while an error was told
        stop_at_once()
    sys.exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        with stopping_at_once():
            args = parse_arguments(arguments)
            run = prepared(args)
        run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{NAME}: stopped", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        forget_output()
        return OUTPUT_CLOSED
    except Exception as error:
        with stopping_at_once():
            from llava_next_video.error_lines import line_of
        if (line := line_of(error)) is None:
            raise
        print(f"{NAME}: error: {line}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """In the block, Ctrl-C ends the process at once. Modules are imported there: nothing is to be tidied up yet, and
    code in C may lose a KeyboardInterrupt or make another error of it."""
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # a program that calls `main` decides, or whoever started this one to go on at Ctrl-C (`nohup`, `&`)
        return
    signal.signal(signal.SIGINT, stop_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def stop_at_once(*_):
    os.write(2, f"{NAME}: stopped\n".encode())
    os._exit(STOPPED)


def prepared(args):
    """The function of a command, imported; what can be said of its arguments without a model has been checked."""
    for part in ("model", "checkpoint", "source"):
        if (name := getattr(args, part, None)) is not None:
            check_checkpoint(name)
    if args.command in ("ask", "chat"):
        check_files(args)
    if getattr(args, "device", None) is not None:
        from llava_next_video.hub.free_memory import check_device

        check_device(args.device)
    if getattr(args, "quantize", None) is not None:
        from llava_next_video.hub.loading import check_quantize

        check_quantize()
    if args.command in ("serve", "web"):
        check_address(args.host, args.port)
    module, _, function = COMMANDS[args.command].function.partition(":")
    return getattr(import_module(module), function)


def check_checkpoint(name: str):
    """Raise a FileNotFoundError for what can only be a path, and is no folder; anything else may be on the Hub."""
    if os.path.isdir(name):
        return
    if os.path.exists(name):
        raise NotADirectoryError(f"{name!r} is a file, and a checkpoint is a folder: name the one that the file is in.")
    if not name or name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name:
        raise FileNotFoundError(
            f"There is no folder {name!r}. Give the folder of a checkpoint, or its id on the Hugging Face Hub, as in "
            "llava-hf/LLaVA-NeXT-Video-7B-hf."
        )


def check_address(host: str, port: int):
    """Raise an OSError where nobody can listen at an address, as when another program does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        cause = error.strerror.partition(" (while ")[0]
        raise OSError(
            f"The server cannot listen at {host}, port {port}: {cause}. Stop what listens there, or pass "
            "another --port or --host."
        ) from None


def check_files(args):
    """Raise a VideoReadError or an OSError for a file that is not there; what it holds is looked at later."""
    from llava_next_video.reading.addresses import scheme_of
    from llava_next_video.reading.video_sources import open_source

    for name in args.video:
        if name != STANDARD_INPUT and scheme_of(name) is None:
            open_source(name).close()
    if (questions := getattr(args, "questions", None)) not in (None, STANDARD_INPUT):
        open(questions, "rb").close()


def forget_output():
    """Have Python's own last flush of what nobody reads go nowhere."""
    with suppress(OSError, ValueError):  # standard output may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    program()
