"""The documentation: its `python` blocks run.

1. The blocks of one page are one program, run from top to bottom in one namespace, in an empty folder, in a
   process of its own where warnings are errors. `await` may stand outside a function.
2. The page may use the names in `GIVEN` without defining them. `__name__` is not `"__main__"`.
3. A block that cannot run here is only compiled, if the line above it says why: `<!-- not run: the reason -->`.
4. A `bash` block that begins with `python -c` or `python -m timeit` runs.
5. What people look up is there: each argument of `Logout`, each line of the log.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import msal_logout_middleware
from msal_logout_middleware import Event, Logout

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GIVEN = {
    "TENANT_ID": "11111111-1111-4111-8111-111111111111",
    "CLIENT_ID": "22222222-2222-4222-8222-222222222222",
    "CLIENT_SECRET": "the client's secret",
    "SECRET_KEY": "a secret of the app, which stays the same",
}
WARNINGS = [
    *("-W", "error"),
    # Those of Pyramid and WebOb, when they are imported.
    *("-W", "ignore:'cgi' is deprecated:DeprecationWarning"),
    *("-W", "ignore:pkg_resources is deprecated:UserWarning"),
    *("-W", "ignore:Deprecated call to `pkg_resources:DeprecationWarning"),
]
OPENING = re.compile(r"^(?P<indent> *)(?P<fence>```+) *python\b")
NOT_RUN = re.compile(r"^ *<!-- not run: .+ -->$")
RUNNER = """
import ast, inspect, sys, types
source, page, given = sys.stdin.read(), sys.argv[1], ast.literal_eval(sys.argv[2])
code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
module = sys.modules["page"] = types.ModuleType("page")  # Pyramid looks there for whoever calls it
module.__dict__.update(given)
running = eval(code, module.__dict__)
if inspect.iscoroutine(running):
    import anyio

    async def wait(): await running
    anyio.run(wait)
"""


def program(page: str, *, run: bool = True) -> str:
    """The blocks of a page that are run (or only compiled), each line where it stands in the page."""
    lines: list[str] = []
    indent, fence, wanted = "", "", False
    previous = ""
    for line in page.splitlines():
        opening = None if fence else OPENING.match(line)
        if opening:
            indent, fence = opening["indent"], opening["fence"]
            wanted = run is not bool(NOT_RUN.match(previous))
            lines.append("")
        elif fence and line.strip() == fence:
            fence = ""
            lines.append("")
        else:
            lines.append(line.removeprefix(indent) if fence and wanted else "")
        previous = line
    assert not fence, "a block is not closed"
    return "\n".join(lines)


def run_page(name: str, page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the program of a page in a process of its own."""
    return subprocess.run(
        [sys.executable, *WARNINGS, "-c", RUNNER, name, repr(GIVEN)],
        input=program(page),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    compile(
        program(text, run=False), page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    if program(text).strip():
        ran = run_page(page.name, text, tmp_path)
        assert ran.returncode == 0, ran.stderr


COMMAND = re.compile(r"^```bash\n(?P<command>python -(?:c|m timeit) .*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = [
    pytest.param(found["command"], id=page.name)
    for page in PAGES
    for found in COMMAND.finditer(page.read_text())
]


@pytest.mark.parametrize("command", COMMANDS)
def test_python_commands_of_a_page_run(command: str, tmp_path: Path) -> None:
    folder = Path(sys.executable).parent
    ran = subprocess.run(
        ["bash", "-ec", command],
        env=os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


EXAMPLE = """
```python
number = 1
```

Text between, and a block of another language.

```console
$ not python
```

=== "Tab"

    ```python title="app.py"
    import asyncio

    async def later() -> int:
        return await asyncio.sleep(0, number + 1)

    assert await later() == 2
    ```

<!-- not run: it needs a tenant -->
```python
unknown_name
```
"""


def test_blocks_of_a_page_are_one_program(tmp_path: Path) -> None:
    ran = run_page("example.md", EXAMPLE, tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_block_that_says_why_it_is_not_run_is_only_compiled() -> None:
    assert "unknown_name" not in program(EXAMPLE)
    assert program(EXAMPLE, run=False).strip() == "unknown_name"


def test_failure_is_reported_at_the_line_of_the_page(tmp_path: Path) -> None:
    ran = run_page("example.md", EXAMPLE.replace("== 2", "== 3"), tmp_path)
    assert ran.returncode == 1
    assert (
        f'"example.md", line {EXAMPLE.splitlines().index("    assert await later() == 2") + 1}' in ran.stderr
    )


def test_warning_in_a_block_is_an_error(tmp_path: Path) -> None:
    page = "```python\nimport warnings\nwarnings.warn('old', DeprecationWarning)\n```\n"
    assert "DeprecationWarning" in run_page("example.md", page, tmp_path).stderr


def column_of(page: str, *, heading: str = "", number: int = 1) -> str:
    """What the tables of a page say in one column, from a heading on."""
    text = (ROOT / "docs" / page).read_text()
    lines = text[text.index(heading) :].splitlines()
    return "\n".join(line.split("|")[number] for line in lines if line.startswith("|"))


@pytest.mark.parametrize("argument", inspect.signature(Logout).parameters)
def test_each_argument_of_logout_is_on_the_configuration_page(argument: str) -> None:
    assert f"`{argument}`" in column_of("configuration.md")


def logged() -> set[str]:
    """What the package writes into its log, with `...` for what is filled in."""
    found: set[str] = set()
    package = Path(msal_logout_middleware.__file__).parent
    for path in [path for path in package.rglob("*.py") if "testing" not in path.parts]:
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if getattr(node.func.value, "id", "").lstrip("_") != "logger" or not node.args:
                continue
            if node.func.attr == "isEnabledFor":
                continue
            text = node.args[1 if node.func.attr == "log" else 0]
            message = text.value if isinstance(text, ast.Constant) else constants[ast.unparse(text)]
            found.add(re.sub("%[sd]", "...", str(message)))
    return found


def test_each_line_of_the_log_is_on_the_troubleshooting_page() -> None:
    page = column_of("troubleshooting.md", heading="## What the log says", number=2)
    begins = re.findall("`([^`]+)`", page)
    told = {message for message in logged() if not message.startswith("...")}  # which begins with a name
    assert len(told) > 10
    untold = {message for message in told if not message.startswith(tuple(begins))}
    assert not untold
    assert {f"{event.__name__}(" for event in get_args(Event)} <= set(begins)


def test_each_test_that_the_table_of_frameworks_names_is_there() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "docs/frameworks/index.md").read_text())
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_each_version_of_a_framework_that_is_tested_is_in_the_table_of_frameworks() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    (versions,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FRAMEWORKS"
    )
    rows = column_of("frameworks/index.md", heading="## Which versions", number=2).splitlines()
    names = column_of("frameworks/index.md", heading="## Which versions").splitlines()
    told = {(name.split(",")[0].strip().lower(), row) for name, row in zip(names, rows, strict=True)}
    for requirements in versions.values():
        name, _, version = requirements[0].removesuffix(".*").partition("==")
        (row,) = (row for framework, row in told if framework == name)
        assert version in row, (name, version)
