"""The documentation says what is so: its snippets run and print what they say, its commands are understood, its links
lead somewhere, its lists of classes and configuration keys are complete, and messages that it explains exist.

A Python block that cannot run here stands behind a line `<!-- not run: reason -->`; one behind `<!-- needs package -->`
runs where that package is installed, and in any case on CI. Comment lines directly behind a
statement are what it prints (or, for a bare expression, its value); `...` in them stands for anything.
"""

import ast
import contextlib
import doctest
import importlib.util
import io
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

import llava_next_video
from llava_next_video import LlavaNextVideoConfig
from llava_next_video.__main__ import parse_arguments
from setup import ROOMS


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "demo_model" / "README.md", *sorted(DOCS.rglob("*.md"))]
SOURCES = [path for room in ROOMS for path in ROOT.glob(f"{room}/*.py")]
TROUBLESHOOTING = DOCS / "guides" / "troubleshooting.md"
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)

LANGUAGES = {"bash", "json", "python", "text", "toml"}
CHECKER = doctest.OutputChecker()


@dataclass
class Block:
    """A fenced block: its language, its text, the number of its first line, and the last line of text before it."""

    language: str
    text: str
    line: int
    before: str

    @property
    def is_run(self) -> bool:
        needed = re.fullmatch(r"<!-- needs (\w+) -->", self.before)
        if needed and not os.environ.get("CI"):
            return importlib.util.find_spec(needed[1]) is not None
        return not re.fullmatch(r"<!-- not run: .+ -->", self.before)


def blocks_of(page: Path, *languages: str) -> list[Block]:
    blocks, before, fence = [], "", None
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        stripped = line.strip()
        if fence is None and stripped.startswith("```"):
            fence, indent = Block(stripped[3:], "", number + 1, before), len(line) - len(line.lstrip())
        elif fence is not None and stripped == "```":
            blocks.append(fence)
            before, fence = stripped, None
        elif fence is not None:
            fence.text += line[indent:] + "\n"
        elif stripped:
            before = stripped
    assert fence is None, f"{page}: the block at line {fence.line} is not closed"
    return [block for block in blocks if not languages or block.language in languages]


def prose_of(page: Path) -> str:
    """The text of a page without its blocks and code spans."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(`+).*?\1", "", text)


def run(block: Block, name: str, namespace: dict):
    """Run a block statement by statement, and compare what each prints with the comment behind it."""
    lines = block.text.splitlines()
    for statement in ast.parse(block.text).body:
        wanted, line = [], statement.end_lineno
        while line < len(lines) and re.match(r"#( |$)", lines[line]):
            wanted.append(lines[line][2:])
            line += 1
        ast.increment_lineno(statement, block.line - 1)
        printed, value = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            if isinstance(statement, ast.Expr):
                value = eval(compile(ast.Expression(statement.value), name, "eval"), namespace)
            else:
                exec(compile(ast.Module([statement], type_ignores=[]), name, "exec"), namespace)
        got = printed.getvalue() or ("" if value is None else f"{value!r}\n")
        if wanted and got:
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            where = f"{name}, line {statement.lineno}"
            assert CHECKER.check_output("\n".join(wanted) + "\n", got, flags), f"{where} prints:\n{got}"


@each_page
def test_python_blocks_run_and_print_what_they_say(page, tmp_path, monkeypatch):
    (tmp_path / "demo_model").symlink_to(ROOT / "demo_model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a block that needs the Hub fails at once
    namespace = {"__name__": "__main__"}
    for block in blocks_of(page, "python"):
        if block.is_run:
            run(block, str(page), namespace)
        else:
            compile(block.text, str(page), "exec")


def test_a_wrong_comment_is_found():
    namespace = {}
    run(Block("python", "x = 2\nprint(x)\n# 2\n\nx + 1\n# 3\n", 1, ""), "page", namespace)
    with pytest.raises(AssertionError, match="line 2 prints"):
        run(Block("python", "x = 2\nprint(x)\n# 3\n", 1, ""), "page", namespace)


@each_page
def test_blocks_name_their_language(page):
    assert {block.language for block in blocks_of(page)} <= LANGUAGES


def commands_of(page: Path) -> list[list[str]]:
    lines = "\n".join(block.text for block in blocks_of(page, "bash")).replace("\\\n", " ").splitlines()
    commands = []
    for line in lines:
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";", ">")), len(words))
            commands.append(words[:end])
            words = words[end + 1 :]
    return [command for command in commands if command]


@each_page
def test_commands_are_understood(page, capsys):
    for program, *words in commands_of(page):
        program = Path(program).name
        if program in ("python", "python3") and words[:1] == ["-m"]:
            program, *words = words[1:]
            assert importlib.util.find_spec(program) or program == "zensical", f"there is no module {program}"
        if program in ("llava_next_video", "llava-next-video"):
            try:
                parse_arguments(words)
            except SystemExit:
                pytest.fail(f"llava-next-video {shlex.join(words)}: {capsys.readouterr().err}")


def anchors_of(page: Path) -> set[str]:
    """Anchors that both GitHub and the site's generator give to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower() for heading in headings]
    on_github = [re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings]
    on_site = [re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading)) for heading in headings]
    return set(on_github) & set(on_site)


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: there is no such file"
        assert DOCS not in page.parents or DOCS in file.parents, f"{target}: the site holds nothing outside docs/"
        if file.suffix != ".md" and anchor in ("gh-light-mode-only", "gh-dark-mode-only"):  # one look
            continue
        assert not anchor or anchor in anchors_of(file), f"{target}: that page has {sorted(anchors_of(file))}"


def test_every_page_is_reached_from_the_start_page():
    reached, new = set(), {DOCS / "index.md"}
    while new:
        page = new.pop()
        reached.add(page)
        assert page.exists(), f"{page.relative_to(ROOT)} is linked and does not exist"
        targets = re.findall(r"\]\(([^)\s#]+\.md)", prose_of(page))
        new |= {(page.parent / target).resolve() for target in targets if "://" not in target} - reached
    assert set(DOCS.rglob("*.md")) <= reached


def test_navigation_of_the_site_has_every_page():
    navigation = re.findall(r'= "([\w/]+\.md)"', (ROOT / "zensical.toml").read_text())
    assert sorted(navigation) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_api_pages_document_every_public_name():
    pages = "".join(page.read_text() for page in DOCS.glob("api/*.md"))
    documented = re.findall(r"^::: llava_next_video\.([\w.]+)$", pages, re.MULTILINE)
    assert sorted(name for name in documented if "." not in name) == sorted(llava_next_video.__all__)


def test_every_class_has_a_page_of_its_own():
    for name in llava_next_video.__all__:
        if isinstance(getattr(llava_next_video, name), type):
            assert f"::: llava_next_video.{name}\n" in (DOCS / "api" / f"{name}.md").read_text()


def table_behind(page: Path, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    section = page.read_text().split(f"\n{heading}\n")[1].split("\n#")[0]
    rows = [line.strip().strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_table_of_configuration_keys_is_complete():
    rows = table_behind(DOCS / "model.md", "## Configuration keys")
    keys = [key.strip("`") for key, *_ in rows]
    own = {name for name in LlavaNextVideoConfig.__annotations__ if name in LlavaNextVideoConfig().to_dict()}
    assert sorted(keys) == sorted(own)
    config = LlavaNextVideoConfig()
    of_the_original = "".join(path.read_text() for path in ROOT.glob("conversion/*.py"))
    for key, default, original, meaning in rows:
        key = key.strip("`")
        if not key.endswith("_config"):
            assert ast.literal_eval(default.strip("`")) == getattr(config, key), f"the default of {key} is another"
        for name in re.findall(r"`(\w+)`", original):
            assert f'"{name}"' in of_the_original, f"conversion/ knows no {name} (the original name of {key})"
        assert meaning


def texts_of(node: ast.expr) -> list[str]:
    """The texts that an argument of an exception may be, with `…` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)]
    if isinstance(node, ast.IfExp):
        return texts_of(node.body) + texts_of(node.orelse)
    if isinstance(node, ast.BinOp):
        return ["".join((texts_of(side) or ["…"])[0] for side in (node.left, node.right))]
    return []


def messages_of(path: Path) -> dict[str, int]:
    """Every text that a file raises or warns with, and the line where it does."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    assigned = {ast.unparse(node.targets[0]): node.value for node in nodes if isinstance(node, ast.Assign)}
    found = {}
    for node in nodes:
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call):
            continue
        # Exceptions that put their message together themselves hand it to `super().__init__`.
        speaks = ast.unparse(call.func) in ("logger.warning", "logger.warning_once", "super().__init__")
        if isinstance(node, ast.Raise) or speaks:
            for argument in call.args:
                for text in texts_of(assigned.get(ast.unparse(argument), argument)):
                    found[re.sub(r"\s+", " ", text.replace("`", ""))] = node.lineno
    return found


def messages_of_the_package() -> dict[str, str]:
    """Every text that the package raises or warns with, and where."""
    found = {}
    for path in SOURCES:
        found |= {text: f"{path.relative_to(ROOT)}:{line}" for text, line in messages_of(path).items()}
    for path in ROOT.glob("processing/chat_templates/*.jinja"):
        for text in re.findall(r'raise_exception\("([^"]*)"', path.read_text()):
            found[text] = str(path.relative_to(ROOT))
    return found


def test_every_row_of_troubleshooting_is_about_one_message():
    """The first cell is a piece of a message that the package has, and no piece of another one."""
    messages = messages_of_the_package()
    assert len(messages) > 50
    lines = [line for line in TROUBLESHOOTING.read_text().splitlines() if line.startswith("| `")]
    problems = []
    for fragment in (re.match(r"\| `([^`]*)` \| \S", line)[1] for line in lines):
        meant = [where for message, where in messages.items() if fragment in message]
        if len(meant) != 1:
            problems.append(f"{fragment!r} fits {', '.join(meant)}" if meant else f"no such message: {fragment!r}")
    assert not problems, "\n".join([f"in {TROUBLESHOOTING.relative_to(ROOT)}:", *problems])


@each_page
def test_files_and_functions_of_the_code_exist(page):
    """`room/file.py` is there, and `room/file.py:Class.method` defines it."""
    rooms = "|".join([*ROOMS, "tests", "benchmarks"])
    for path, name in re.findall(rf"`((?:{rooms})/[\w/]+\.py)(?::([\w.]+))?`", page.read_text()):
        assert (ROOT / path).is_file(), path
        node = ast.parse((ROOT / path).read_text())
        for part in filter(None, name.split(".")):
            members = [each for each in ast.walk(node) if getattr(each, "name", None) == part]
            assert members, f"{path} has no {name}"
            node = members[0]
