"""Scenarios of ``wfhost test`` as tests of pytest.

A plugin of pytest, there as soon as the package is installed: ``wfhost-test.toml`` and the files ``scenarios/*.toml``
beside a ``workflow.py`` (or its ``src``) are tests. Without any, a ``workflow.py`` that imports wfhost is one test, of
what every workflow has to keep. Each runs ``wfhost test``, and fails with the story of what went
wrong. The binary is the ``wfhost`` on the ``PATH``, or the one that ``WFHOST_BIN`` names; a project is built once.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest


class Failed(Exception):
    """What wfhost said."""


def _wfhost(*args: str, cwd: pathlib.Path) -> str:
    binary = os.environ.get("WFHOST_BIN") or "wfhost"
    try:
        done = subprocess.run([binary, *args], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise Failed(f"{binary} cannot be run: {error}\ninstall wfhost, or name the binary by WFHOST_BIN") from None
    if done.returncode:
        raise Failed(done.stdout + done.stderr)
    return done.stdout


@functools.cache
def _built(project: pathlib.Path) -> str:
    return _wfhost("build", str(project), cwd=project).strip()


def _has_scenarios(project: pathlib.Path) -> bool:
    return (project / "wfhost-test.toml").is_file() or any((project / "scenarios").glob("*.toml"))


def _untested(path: pathlib.Path) -> pathlib.Path | None:
    """The project whose workflow a file is, if it has no scenarios."""
    places = [path.parent, path.parent.parent] if path.parent.name == "src" else [path.parent]
    # Others call a module so, too.
    is_ours = re.search(r"^\s*(from|import)\s+wfhost\b", path.read_text("utf-8", "replace"), re.MULTILINE)
    return None if not is_ours or any(map(_has_scenarios, places)) else places[-1]


def _project(path: pathlib.Path) -> pathlib.Path | None:
    """The project of which a file is a test."""
    if path.name == "workflow.py":
        return _untested(path)
    if path.name == "wfhost-test.toml":
        project = path.parent
    elif path.suffix == ".toml" and path.parent.name == "scenarios":
        project = path.parent.parent
    else:
        return None
    has_workflow = any((project / place / "workflow.py").is_file() for place in ("", "src"))
    return project if has_workflow else None


def pytest_collect_file(file_path: pathlib.Path, parent: pytest.Collector) -> pytest.Collector | None:
    if _project(file_path) is None:
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


class ScenarioFile(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        yield Scenario.from_parent(self, name=self.path.stem if self.path.suffix == ".toml" else "usual")


class Scenario(pytest.Item):
    def runtest(self) -> None:
        project = _project(self.path)
        assert project is not None
        scenario = ["--scenario", str(self.path)] if self.path.suffix == ".toml" else []
        _wfhost("test", _built(project), *scenario, cwd=project)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> object:
        if isinstance(excinfo.value, Failed):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[pathlib.Path, int, str]:
        return self.path, 0, f"scenario {self.name}"
