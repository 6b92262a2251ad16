"""Break the library on purpose, one small change at a time, and see whether its tests notice: `make mutants`.

    python tests/mutants.py [--known] [--results FOLDER] [core functional statistics …]

A mutant is a copy of the package in which one operator, comparison, number or condition is another one
(cosmic-ray changes it), or that has one of the mistakes of KNOWN, which once went unnoticed. Where the tests
pass all the same, they have a gap, or the mutant does what the original does: it is printed. The mutants that
survive, and why, are in tests/survivors.md.

Thousands of mutants need a short way for each. A session of pytest collects the tests once. A fork of it runs
them under coverage.py, which says which tests run a line, and how long each takes. For each mutant, a fork
of the session gives the functions that changed their new code, and runs the tests of the changed line until
one fails: first the short ones and those that have noticed other mutants, last those that start processes.
A change outside of functions (a constant, a default, a decorator) needs another import: there pytest begins
anew, in a fork that has imported torch, but not normtut. There, all other tests follow those of the line.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import hashlib
import inspect
import json
import multiprocessing.process
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Which tests are to notice a change of a module, beside the examples in its own docstrings.
TESTS = {
    "core": "core",
    "functional": "functional",
    "layers": "layers distributed",
    "statistics": "statistics masks axes sources archives files cli",
    "reparam": "reparam layers",
    "distributed": "distributed",
    "images": "images ranges",
    "style/transfer": "tiles style",
}

OPERATORS = (
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "RemoveDecorator"),
    *("ZeroIterationForLoop", "ExceptionReplacer"),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("BitOr_BitAnd", "BitAnd_BitOr", "LShift_RShift")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_Gt", "Gt_Lt", "LtE_GtE", "GtE_LtE")),
    *(
        "ReplaceUnaryOperator_USub_UAdd",
        "ReplaceUnaryOperator_Delete_Not",
        "ReplaceUnaryOperator_Delete_USub",
    ),
)

#: Mistakes that went unnoticed once: (module, the line as it is, the line with the mistake).
KNOWN = [
    ("core", "if not (_finite(m) and _finite(s)):", "if not _finite(m):"),
    ("core", "if not (_finite(m) and _finite(s)):", "if False:"),
    ("core", "if not eps >= 0:", "if eps < 0:"),
    ("core", " or not array.flags.writeable:", ":"),
    ("core", "if t.ndim == 1:", "if t.ndim == 1 and not isinstance(stats, np.ndarray):"),
    ("core", "(3 if is_image else 1)", "3"),
    (
        "images",
        "return InverseNormalize(self.mean, self.std, self.inplace)",
        "return InverseNormalize(self.mean, self.std)",
    ),
    (
        "images",
        "return Normalize(self.mean, self.std, self.inplace)",
        "return Normalize(self.mean, self.std)",
    ),
    ("images", "max(abs(m), abs(1 - m)) / s", "abs(m) / s"),
    ("functional", "if not eps >= 0:", "if eps < 0:"),
    ("functional", "wide = torch.promote_types(running.dtype, new.dtype)", "wide = running.dtype"),
    ("layers", "F.group_norm(input, self.num_groups,", "F.group_norm(input, 1,"),
    (
        "reparam",
        "return standardize(weight, dim=self.dim, eps=self.eps)",
        "return standardize(weight, dim=self.dim)",
    ),
    (
        "reparam",
        "u, v = _multiply(matrix, self._v, steps, self.eps)",
        "u, v = _multiply(matrix, self._v, steps, 1e-12)",
    ),
    ("reparam", "return unit(weight, dim=0, eps=self.eps)", "return unit(weight, dim=0)"),
    ("reparam", "nn.ConvTranspose2d | nn.ConvTranspose3d", "nn.ConvTranspose2d"),
    ("distributed", "means, m2s = means.double(), m2s.double()", "means, m2s = means.float(), m2s.float()"),
    ("distributed", "n = counts.double()", "n = counts.float()"),
    ("statistics/counts", "if low.any() or (high < top).any():", "if low.any() and (high < top).any():"),
    ("statistics/datasets", "zip(images, masks, strict=True)", "zip(images, masks, strict=False)"),
    ("style/transfer", "// _GRID * _GRID", ""),
]


@dataclass
class Mutant:
    """A text of a module, ``normtut/{module}.py``, that differs from the original first in line ``line``."""

    module: str
    text: str
    line: int
    what: str
    #: The same where the same statement has the same change, whatever else is edited.
    key: str


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def original(module: str) -> str:
    return (ROOT / f"normtut/{module}.py").read_text(encoding="utf-8")


def modules(group: str) -> list[str]:
    """The modules of a file or a folder of the package."""
    files = [ROOT / f"normtut/{group}.py", *sorted((ROOT / "normtut" / group).glob("[!_]*.py"))]
    return [file.relative_to(ROOT / "normtut").with_suffix("").as_posix() for file in files if file.exists()]


def generated(module: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    lines = original(module).splitlines(keepends=True)
    for part in ast.parse("".join(lines)).body:  # cosmic-ray reads the text again for each mutant
        before, after = lines[: _first(part) - 1], lines[part.end_lineno :]
        for text, meaning in _mutants("".join(lines[len(before) : part.end_lineno])):
            yield _mutant(module, "".join([*before, text, *after]), meaning)


def _mutants(text: str) -> Iterator[tuple[str, str]]:
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    seen = {_meaning(text)}
    for name in OPERATORS:
        operator = cosmic_ray.plugins.get_operator(f"core/{name}")()
        for occurrence in range(10_000):
            try:
                mutant = mutate_code(text, operator, occurrence)
                if mutant is None:
                    break
                meaning = _meaning(mutant)
            except (SyntaxError, AttributeError):  # `not` before a walrus; except (*ERRORS, …)
                continue
            if meaning not in seen:
                seen.add(meaning)
                yield mutant, meaning


def known(module: str) -> Iterator[Mutant]:
    text = original(module)
    for name, old, new in KNOWN:
        if name == module:
            if text.count(old) != 1:
                sys.exit(f"normtut/{module}.py has {text.count(old)} times what KNOWN changes: {old!r}")
            yield _mutant(module, text.replace(old, new), old + new)


def _meaning(text: str) -> str:
    """The syntax tree without what may be changed and changes nothing that is seen.

    Docstrings and annotations, which nothing reads, and the ``strict=True`` of `zip`: like an `assert`, it
    stops only a program that is wrong already. (Where it is to stop a caller, it is among KNOWN.)
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            del node.body[0]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            if any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list):
                node.decorator_list = []
    return ast.dump(tree)


def _mutant(module: str, text: str, meaning: str) -> Mutant:
    pairs = zip(original(module).split("\n"), text.split("\n"), strict=False)
    line, before, after = next((i, a, b) for i, (a, b) in enumerate(pairs, 1) if a != b)
    what = f"{before.strip()}  ->  {after.strip()}"
    return Mutant(module, text, line, what, _digest(module + meaning))


# --- which tests --------------------------------------------------------------------------------------------


def affected(mutant: Mutant, lines: dict[str, list[str]]) -> set[str]:
    """The tests that run the changed statement.

    Where none does in this process (it is run on import, or by other processes), those that run anything of
    the function around it.

    Args:
        mutant: the mutant.
        lines: of each line of its module, the tests that run it.
    """
    for first, last in _places(original(mutant.module), mutant.line):
        if tests := {test for line in range(first, last + 1) for test in lines.get(str(line), [])}:
            return tests
    return set()


def _places(text: str, line: int) -> Iterator[tuple[int, int]]:
    """First and last line of the statement in this line, and of the function around it."""
    around = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.stmt | ast.excepthandler)]
    around = [n for n in around if _first(n) <= line <= (n.end_lineno or 0)]
    if not around:
        return
    inner = min(around, key=lambda n: (n.end_lineno or 0) - _first(n))
    body = getattr(inner, "body", None)
    yield _first(inner), _first(body[0]) - 1 if body else inner.end_lineno or 0
    for node in reversed(around):
        if isinstance(node, ast.FunctionDef):
            yield node.body[0].lineno, node.end_lineno or 0


def _first(node: Any) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


# --- one process for each mutant ----------------------------------------------------------------------------


def forked(action: Callable[[], object], seconds: float) -> str:
    """Do something in a fork of this process: "passed", "failed" (or raised) or "endless"."""
    child = os.fork()
    if child == 0:
        os.setsid()
        # Seconds of the processor, which others may be using too; whoever only waits is waited for longer.
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        try:
            action()
        except BaseException:
            traceback.print_exc()
            leave(1)
        leave(0)
    status, began = None, time.monotonic()
    while status is None and time.monotonic() - began < 60 + 10 * seconds:
        pid, code = os.waitpid(child, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(code)
        else:
            time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):  # and whatever it has started
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return {0: "passed", None: "endless", -signal.SIGXCPU: "endless"}.get(status, "failed")


def leave(code: int) -> None:
    """End a fork, without what the process that it is a fork of has to do at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(items: list[pytest.Item], before: Callable[[pytest.Item], object] = id) -> None:
    """Run tests up to the first that fails, which ends this fork."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        before(item)
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)


class Plugin:
    """Lets a session of pytest do something else with the tests than run them all."""

    def __init__(self, action: Callable[[list[pytest.Item]], object]) -> None:
        self.action = action

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.action(session.items)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            print(report.longrepr)
            Path(os.environ["PYTHONPATH"], "failed.txt").write_text(report.nodeid, encoding="utf-8")
            leave(1)


def new_codes(mutant: Mutant, file: str) -> dict[types.CodeType, types.CodeType] | None:
    """The code of each function that the mutant changes, and the new one; None if it changes other things."""
    pairs = {}

    def same(old: types.CodeType, new: types.CodeType) -> bool:
        if old.co_flags & inspect.CO_NEWLOCALS and old.co_freevars == new.co_freevars:  # a function
            if old != new:
                pairs[old] = new
            return True
        inner, rest = zip(*map(_parts, (old, new)), strict=True)
        return rest[0] == rest[1] and all(same(a, b) for a, b in zip(*inner, strict=True))

    codes = [
        compile(text, file, "exec", dont_inherit=True) for text in (original(mutant.module), mutant.text)
    ]
    return pairs if same(*codes) else None


def _parts(code: types.CodeType) -> tuple[list[types.CodeType], tuple[Any, ...]]:
    """The codes in a code, and all else."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    constants = [repr(c) for c in code.co_consts if not isinstance(c, types.CodeType)]
    return inner, (code.co_name, code.co_code, code.co_names, constants, len(inner))


class Trials:
    """The mutants of a group of modules, tried one after the other in a copy of the package."""

    def __init__(self, group: str, folder: Path, results: Path) -> None:
        self.group, self.folder, self.results = group, folder, results
        self.kills: Counter[str] = Counter(result["by"] for result in read(results).values())
        # Also of this text: another version of it may write other things into the map.
        texts = "".join([*map(original, modules(group)), Path(__file__).read_text(encoding="utf-8")])
        self.map = results / f"{group.replace('/', '-')}-{_digest(texts)}.json"
        for name in ("normtut", "tests", "benchmarks", "book"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "Makefile", "index.md"):
            shutil.copy(ROOT / name, folder)

    def file(self, module: str) -> Path:
        return self.folder / f"normtut/{module}.py"

    def session(self, action: Callable[[list[pytest.Item]], object]) -> None:
        """Let pytest collect the tests in the copy, and do something with them."""
        os.chdir(self.folder)
        out = os.open("output.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path.insert(0, str(self.folder))
        os.environ["PYTHONPATH"] = str(self.folder)
        tests = [f"tests/test_{name}.py" for name in TESTS[self.group].split()]
        examples = [f"normtut/{module}.py" for module in modules(self.group)]
        options = ["-m", "not slow and not browser", "-q", "-s", "-p", "no:cacheprovider"]
        leave(int(pytest.main([*options, *tests, *examples], plugins=[Plugin(action)])))

    def all(self, mutants: list[Mutant]) -> None:
        """First those that differ in functions only, in one session; then the others, each in its own."""
        if forked(lambda: self.session(lambda items: self.functions(items, mutants)), 1e6) != "passed":
            output = (self.folder / "output.txt").read_text(encoding="utf-8")[-3000:]
            sys.exit(f"{self.group}: its tests fail without a mutant:\n{output}")
        tried = read(self.results)
        for mutant in mutants:
            if mutant.key not in tried:
                self.one(mutant, self.session, by_all=True)

    def functions(self, items: list[pytest.Item], mutants: list[Mutant]) -> None:
        if not self.map.exists() and forked(lambda: self.measure(items), 1e5) != "passed":
            leave(1)
        live = defaultdict(list)
        for function in gc.get_objects():
            if isinstance(function, types.FunctionType):
                live[function.__code__].append(function)
        for mutant in mutants:
            codes = new_codes(mutant, str(self.file(mutant.module)))
            if codes and all(old in live for old in codes):

                def changed(
                    action: Callable[[list[pytest.Item]], object], codes: dict[Any, Any] = codes
                ) -> None:
                    for old, new in codes.items():
                        for function in live[old]:
                            function.__code__ = new
                    action(items)

                self.one(mutant, changed)

    def one(
        self,
        mutant: Mutant,
        start: Callable[[Callable[[list[pytest.Item]], object]], object],
        by_all: bool = False,
    ) -> None:
        """Let the tests of a mutant run, and keep what came of it.

        Args:
            mutant: the mutant.
            start: does something with the tests, in the mutant.
            by_all: let all others run, too. Of a changed signature, the tests that notice it may run no line
                of the function, but look at its arguments or see it refuse some.
        """
        seconds, lines, starters = json.loads(self.map.read_text(encoding="utf-8"))
        first = affected(mutant, lines[mutant.module])
        tests = set(seconds) if by_all or not first else first.union(starters)

        def order(item: pytest.Item) -> tuple[bool, bool, float]:
            test = item.nodeid
            return test not in first, test in starters, seconds.get(test, 0) / (1 + 9 * self.kills[test])

        def action(items: list[pytest.Item]) -> None:
            chosen = [item for item in items if item.nodeid in tests or item.nodeid not in seconds]
            run(sorted(chosen, key=order))

        began, failed = time.monotonic(), self.folder / "failed.txt"
        failed.write_text("", encoding="utf-8")
        self.file(mutant.module).write_text(mutant.text, encoding="utf-8")  # for processes that tests start
        outcome = forked(lambda: start(action), 10 + 4 * sum(seconds[test] for test in tests))
        self.file(mutant.module).write_text(original(mutant.module), encoding="utf-8")
        result = {
            "key": mutant.key,
            "module": mutant.module,
            "line": mutant.line,
            "what": mutant.what,
            "result": {"passed": "SURVIVED", "failed": "killed"}.get(outcome, outcome),
            "by": failed.read_text(encoding="utf-8"),
            "tests": len(tests),
            "seconds": round(time.monotonic() - began, 2),
        }
        self.kills[str(result["by"])] += 1
        with (self.results / "mutants.jsonl").open("a", encoding="utf-8") as file:
            print(json.dumps(result), file=file)

    def measure(self, items: list[pytest.Item]) -> None:
        """Run all tests, and write down how long each takes, which run each line, and which start processes.

        What is run in another process is not seen.
        """
        import coverage

        files = {module: str(self.file(module)) for module in modules(self.group)}
        tracer = coverage.Coverage(data_file=None, include=list(files.values()), config_file=False)
        begins: dict[str, float] = {}

        def before(item: pytest.Item) -> None:
            tracer.switch_context(item.nodeid)
            begins[item.nodeid] = time.process_time()

        starters = set()

        def noted(cls: Any, name: str) -> None:
            start = getattr(cls, name)

            def noting(self: object, *args: Any, **kwargs: Any) -> None:
                starters.add(list(begins)[-1])
                start(self, *args, **kwargs)

            setattr(cls, name, noting)

        noted(multiprocessing.process.BaseProcess, "start")
        noted(subprocess.Popen, "__init__")
        tracer.start()
        run(items, before)
        tracer.stop()
        ends = [*list(begins.values())[1:], time.process_time()]
        seconds = {test: end - begin for (test, begin), end in zip(begins.items(), ends, strict=True)}
        lines = {module: tracer.get_data().contexts_by_lineno(file) for module, file in files.items()}
        self.map.write_text(json.dumps([seconds, lines, sorted(starters)]), encoding="utf-8")


def read(results: Path) -> dict[str, dict[str, Any]]:
    """What came of each mutant, by its key."""
    file = results / "mutants.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {result["key"]: result for result in map(json.loads, lines)}


def killed_before(results: Path) -> set[str]:
    """The keys of the mutants that an earlier run killed; what is known of the others is deleted."""
    killed = {key: result for key, result in read(results).items() if result["result"] == "killed"}
    text = "".join(json.dumps(result) + "\n" for result in killed.values())
    (results / "mutants.jsonl").write_text(text, encoding="utf-8")
    return set(killed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="MODULE", help=" ".join(TESTS))
    parser.add_argument("--known", action="store_true", help="only the mistakes that went unnoticed once")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="where a run that was ended goes on in the next"
    )
    args = parser.parse_args()
    if unknown := set(args.groups) - set(TESTS):
        parser.error(f"no such module: {unknown}; there are {', '.join(TESTS)}")

    import matplotlib  # noqa: F401
    import PIL.Image  # noqa: F401
    import torch
    import torchvision.transforms.v2  # noqa: F401

    torch.set_num_threads(1)  # a fork has no threads but its own
    sys.dont_write_bytecode = True  # a copy that is as old as the text is taken for its own
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    survivors = []
    print("| module | mutants | killed | of these by time | survived |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        results = args.results or Path(temporary, "results")
        results.mkdir(parents=True, exist_ok=True)
        killed = killed_before(results)
        for group in args.groups or TESTS:
            mutants = [m for module in modules(group) for m in (known if args.known else generated)(module)]
            folder = Path(temporary, group.replace("/", "-")).resolve()
            Trials(group, folder, results).all([m for m in mutants if m.key not in killed])
            outcomes = [read(results)[mutant.key] for mutant in mutants]
            survived = [r for r in outcomes if r["result"] == "SURVIVED"]
            endless = sum(r["result"] == "endless" for r in outcomes)
            share = 1 - len(survived) / max(1, len(outcomes))
            counts = f"{len(outcomes)} | {share:.1%} | {endless} | {len(survived)}"
            print(f"| {group} | {counts} |", flush=True)
            survivors += survived
    for r in survivors:
        print(f"{r['module']}.py:{r['line']}: {r['what']}")
    sys.exit(bool(survivors and args.known))


if __name__ == "__main__":
    main()
