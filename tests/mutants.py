"""Break the library on purpose, one small change at a time, and see whether its tests notice: `make mutants`.

    python tests/mutants.py [--known] [--every N] [core functional statistics …]

A mutant is a copy of the package in which one operator, comparison, number or condition is another one
(cosmic-ray changes it), or that has one of the mistakes of KNOWN, which once went unnoticed. Where the tests
pass all the same, they have a gap, or the mutant does what the original does: it is printed.

To import torch and torchvision takes seconds, which for thousands of mutants are hours. So they are imported
once, and each mutant is tried in a fork of that process, in a folder of its own.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Which tests are to notice a change of a module: its own first, since the first that fails ends the run.
#: Not test_cli: some of its tests need a process that has not imported torch yet.
TESTS = {
    "core": "core images claims functional statistics",
    "images": "images ranges",
    "functional": "functional layers claims",
    "layers": "layers functional reparam",
    "reparam": "reparam",
    "distributed": "distributed layers",
    "statistics/channels": "statistics masks axes sources",
    "statistics/counts": "statistics masks axes",
    "statistics/exact": "statistics masks",
    "statistics/items": "statistics axes masks sources",
    "statistics/datasets": "statistics sources axes masks",
    "statistics/folders": "statistics archives sources files",
    "statistics/report": "statistics sources",
    "statistics/sources": "archives sources",
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
    ("core", "(3 if x.ndim >= 3 else 1)", "3"),
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
    ("style/transfer", "// _GRID * _GRID", ""),
]


def generated(module: str) -> Iterator[tuple[str, str]]:
    """Every mutant of a module, as (what was changed, the whole text)."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    text = (ROOT / f"normtut/{module}.py").read_text(encoding="utf-8")
    seen = {_meaning(text)}
    for name in OPERATORS:
        operator = cosmic_ray.plugins.get_operator(f"core/{name}")()
        for occurrence in range(10_000):
            mutant = mutate_code(text, operator, occurrence)
            if mutant is None:
                break
            try:
                meaning = _meaning(mutant)
            except SyntaxError:  # `not` before a walrus
                continue
            if meaning not in seen:
                seen.add(meaning)
                yield _difference(text, mutant), mutant


def known(module: str) -> Iterator[tuple[str, str]]:
    text = (ROOT / f"normtut/{module}.py").read_text(encoding="utf-8")
    for name, old, new in KNOWN:
        if name == module:
            if text.count(old) != 1:
                sys.exit(f"normtut/{module}.py has {text.count(old)} times what KNOWN changes: {old!r}")
            mutant = text.replace(old, new)
            yield _difference(text, mutant), mutant


def _meaning(text: str) -> str:
    """The syntax tree without annotations, which nothing reads: a change of these is no mutant."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            if any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list):
                node.decorator_list = []
    return ast.dump(tree)


def _difference(old: str, new: str) -> str:
    pairs = zip(old.split("\n"), new.split("\n"), strict=False)
    changed = [(i, a.strip(), b.strip()) for i, (a, b) in enumerate(pairs, 1) if a != b]
    line, before, after = changed[0]
    return f"{line}: {before}  ->  {after}"


def tried(folder: Path, tests: list[str], seconds: float) -> tuple[str, float]:
    """Run the tests on the package in ``folder``: ("killed" | "endless" | "SURVIVED", seconds)."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        out = os.open(folder / "output.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)
        code = 1
        try:
            import pytest

            quick = ["-m", "not slow and not browser", "-x", "-q", "-p", "no:cacheprovider"]
            code = int(pytest.main([*quick, *tests]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while time.monotonic() - began < seconds:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            result = "SURVIVED" if os.waitstatus_to_exitcode(status) == 0 else "killed"
            break
        time.sleep(0.05)
    else:
        result = "endless"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if result == "endless":
        os.waitpid(child, 0)
    return result, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=" ".join(TESTS))
    parser.add_argument("--known", action="store_true", help="only the mistakes that went unnoticed once")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth mutant only")
    args = parser.parse_args()
    modules = [m for m in TESTS if not args.modules or m in args.modules or m.split("/")[0] in args.modules]
    if not modules:
        parser.error(f"no such module: {args.modules}; there are {', '.join(TESTS)}")

    import matplotlib  # noqa: F401
    import PIL.Image  # noqa: F401
    import torch
    import torchvision.transforms.v2  # noqa: F401

    torch.set_num_threads(1)  # a fork has no threads but its own
    survivors, total = [], 0
    for module in modules:
        tests = [f"tests/test_{name}.py" for name in TESTS[module].split()[: 1 if args.known else None]]
        mutants = list((known if args.known else generated)(module))[:: args.every]
        if not mutants:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for name in ("normtut", "tests", "benchmarks", "book"):
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "Makefile", "index.md"):
                shutil.copy(ROOT / name, folder)
            result, baseline = tried(folder, tests, 1800)
            if result != "SURVIVED":
                output = (folder / "output.txt").read_text()[-3000:]
                sys.exit(f"{module}: its tests fail without a mutant:\n{output}")
            killed = 0
            for what, text in mutants:
                (folder / f"normtut/{module}.py").write_text(text, encoding="utf-8")
                result, seconds = tried(folder, tests, 30 + 4 * baseline)
                killed += result != "SURVIVED"
                if result == "SURVIVED":
                    survivors.append(f"{module}.py:{what}")
                if args.known or result != "killed":
                    print(f"{result:8} {seconds:5.1f} s  {module}.py:{what}", flush=True)
            total += len(mutants)
            if mutants:
                print(
                    f"{module}: {killed} of {len(mutants)} killed ({killed / len(mutants):.1%})", flush=True
                )
    print(f"{total - len(survivors)} of {total} killed")
    sys.exit(bool(survivors and args.known))


if __name__ == "__main__":
    main()
