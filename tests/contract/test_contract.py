"""Our classes pass transformers' own shared tests, except where `differences.py` says otherwise."""

import os
import tarfile

import pytest
import transformers

from tests.contract import source
from tests.contract.__main__ import main
from tests.contract.differences import Difference
from tests.contract.runs import problems, run_all, table
from tests.contract.subjects import BUILTIN, OURS


@pytest.fixture(scope="module")
def shared_tests():
    """transformers' folder of tests; absent without a network, except in CI, where they have to run."""
    try:
        return source.tests_of_transformers()
    except source.NotFetched as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.mark.slow
def test_shared_tests_of_transformers_pass_except_for_the_listed_differences(shared_tests):
    runs = run_all(shared_tests)
    assert all(len(outcomes) > 250 for outcomes in runs.values())
    assert not problems(runs), table(runs) + "\n\n" + "\n".join(problems(runs))


def outcomes(**ours: tuple[str, str]) -> dict:
    """Runs in which the built-in passes `a` and `b` and skips `c`."""
    builtin = {"a": ("passed", ""), "b": ("passed", ""), "c": ("skipped", "no video")}
    return {(BUILTIN, "x"): builtin, (OURS, "x"): {**builtin, **ours}}


LISTED = [Difference("a", "does not hear", "no ears", recipes=("x",))]


def test_a_listed_difference_is_no_problem():
    assert not problems(outcomes(a=("failed", "it does not hear")), LISTED)


def test_an_unlisted_failure_is_found():
    [problem] = problems(outcomes(b=("failed", "3 != 4")), [])
    assert problem == "x: b failed, and is not in the table: 3 != 4"


def test_a_listed_test_that_fails_for_another_reason_is_found():
    [problem] = problems(outcomes(a=("failed", "KeyError")), LISTED)
    assert "a failed, and is not in the table: KeyError" in problem


def test_a_test_that_only_the_builtin_runs_is_found():
    [problem] = problems(outcomes(b=("skipped", "has no video")), [])
    assert "b skipped, and is not in the table: has no video" in problem


def test_a_difference_that_is_gone_is_found():
    [problem] = problems(outcomes(), LISTED)
    assert problem == "x: a passed, so the table need not have it"


def test_a_listed_test_that_does_not_exist_is_found():
    [problem] = problems(outcomes(), [Difference("d", "", "", recipes=("x",))])
    assert problem == "x: there is no d, which the table has"


def test_a_difference_of_another_version_does_not_count():
    [problem] = problems(outcomes(a=("failed", "3 != 4")), [Difference("a", "3 != 4", "", ("x",), versions="<5")])
    assert "a failed, and is not in the table" in problem


def test_table_counts_each_run_and_names_what_falls_short():
    page = table(outcomes(b=("failed", "3 != 4")))
    assert "| built-in | x | 2 | 0 | 1 |" in page
    assert "| ours | x | 1 | 1 | 1 |" in page
    assert "| b | passed | failed |" in page


def test_command_takes_the_tests_of_a_checkout(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("tests.contract.__main__.run_all", lambda tests: asked.append(tests) or outcomes())
    monkeypatch.setattr("tests.contract.__main__.problems", lambda runs: ["something"])
    assert main(["--checkout", str(tmp_path)]) == 1
    assert asked == [tmp_path / "tests"]
    assert capsys.readouterr().out.endswith("\nsomething\n")


def test_source_is_fetched_once_and_only_its_tests_are_kept(tmp_path, monkeypatch):
    version, fetched = transformers.__version__, []

    def download(command, **_):
        fetched.append(command)
        root = tmp_path / f"transformers-{version}"
        for name in ("tests/test_modeling_common.py", "src/transformers/__init__.py"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("")
        with tarfile.open(f"{command[command.index('--dest') + 1]}/transformers-{version}.tar.gz", "w:gz") as archive:
            archive.add(root, arcname=root.name)
        return source.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv(source.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(source.subprocess, "run", download)
    for _ in range(2):
        folder = source.tests_of_transformers()
        assert sorted(path.name for path in folder.iterdir()) == ["__init__.py", "test_modeling_common.py"]
        assert [path.name for path in folder.parent.iterdir()] == ["tests"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"transformers-{version}"]
    assert len(fetched) == 1


def test_error_when_the_source_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv(source.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(transformers, "__version__", "0.0.0.dev7")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(source.NotFetched, match=r"tests of transformers 0\.0\.0\.dev7 were not fetched: ERROR: "):
        source.tests_of_transformers()
