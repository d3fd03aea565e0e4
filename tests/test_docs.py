"""Every example in the documentation runs: docstrings, docs/*.md and the README."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import imgrec_engine
from imgrec_engine import functional

ROOT = Path(__file__).parent.parent
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
MODULES = ["imgrec_engine"] + [
    info.name
    for info in pkgutil.walk_packages(imgrec_engine.__path__, "imgrec_engine.")
    if not info.name.split(".")[-1].startswith("_")
]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples_of(module):
    """The examples of a module: its own, and those of its functions (also decorated ones) and classes."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    parser = doctest.DocTestParser()
    if module.__doc__:
        yield parser.get_doctest(module.__doc__, dict(vars(module)), module.__name__, module.__file__, 0)
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__ and callable(value)
        if own and isinstance(getattr(value, "__doc__", None), str):
            yield from finder.find(value, f"{module.__name__}.{name}", module=False, globs=dict(vars(module)))


def run(test):
    report = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for test in examples_of(importlib.import_module(name)):
        run(test)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(fence for fence in FENCE.findall(page.read_text("utf-8")) if ">>>" in fence)
    if code:
        run(doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0))


def test_every_operation_has_an_example():
    names = {name for name, value in vars(functional).items() if getattr(value, "differentiable_op", False)}
    assert names >= {"add", "getitem", "matmul"}
    assert {name for name in names if ">>> " not in (getattr(functional, name).__doc__ or "")} == set()


def test_a_wrong_example_is_noticed():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    with pytest.raises(AssertionError, match="Expected"):
        run(wrong)
