"""Change the core in small ways, and see whether its tests notice: mutate.py [--help] [MODULE...].

A mutant is one change of one expression or statement, in a copy of the checkout. It is killed if
the tests fail or take ten minutes. A survivor shows a test that is missing, or code that can be
deleted. The sample is chosen at random, the same one in each run.
"""

import argparse
import ast
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from subprocess import DEVNULL, TimeoutExpired, call

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src", "credential_db")
# The core, and where its tests are, the fastest first; the tests of the promises follow.
CORE = {
    "migration": "shim python_interface promise_3 promise_6 promise_1",
    "shim": "shim messages causes",
    "sqlite.connections": "files causes promise_9 python_interface",
    "sqlite.operations": "operations table_copy row_conversion changing_the_schema promise_10",
    "sqlite.table_copy": "table_copy promise_3",
    "sqlite.row_conversion": "row_conversion operations",
    "sqlite.schema": "schema_comparison snapshots shim promise_3",
    "sqlite.preservation": "promise_3 table_copy promise_1",
}
PROMISES = "promise_4 promise_3 promise_6 promise_7 promise_5 callers_connection"
PAIRS = "Eq NotEq, Lt LtE, Gt GtE, In NotIn, Is IsNot, NotEq Eq, LtE Lt, GtE Gt, NotIn In, IsNot Is"
OPPOSITE = dict(pair.split() for pair in PAIRS.split(", "))


def mutations(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes to put in the place of this one."""
    match node:
        case ast.Compare(ops=[operator]):
            opposite = getattr(ast, OPPOSITE[type(operator).__name__])()
            yield ast.Compare(node.left, [opposite], node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(number)):
            yield ast.Constant(number + 1)
        case ast.Return(value=value) if value is not None:
            yield ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Continue() | ast.Break() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.If():
            yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Each mutant of a module: where and what, and the whole source."""
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            nodes = value if isinstance(value, list) else [value]
            for index, node in enumerate(nodes):
                for new in mutations(node) if isinstance(node, ast.AST) else ():
                    changed = [*nodes[:index], new, *nodes[index + 1 :]]
                    setattr(parent, field, changed if nodes is value else new)
                    before, after = (ast.unparse(each).split("\n")[0] for each in (node, new))
                    text = ast.unparse(ast.fix_missing_locations(tree))
                    yield f"{getattr(node, 'lineno', 0)}: {before}  ->  {after}", text
                    setattr(parent, field, value)


def survives(checkouts: SimpleQueue[Path], file: Path, text: str, tests: str) -> bool:
    checkout = checkouts.get()
    found = [str(path) for name in tests.split() for path in checkout.glob(f"tests/test_{name}*")]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *found]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    original = (checkout / file).read_text(encoding="utf-8")
    (checkout / file).write_text(text, encoding="utf-8")
    try:
        return not call(command, cwd=checkout, env=environment, stdout=DEVNULL, timeout=600)
    except TimeoutExpired:
        return False
    finally:
        (checkout / file).write_text(original, encoding="utf-8")
        checkouts.put(checkout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(CORE)}")
    parser.add_argument("--sample", type=int, default=20, help="mutants per module (20)")
    options = parser.parse_args()
    checkouts: SimpleQueue[Path] = SimpleQueue()
    jobs, total, killed = os.cpu_count() or 1, 0, 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        os.chmod(folder, 0o755)  # some tests run as another user
        ignored = shutil.ignore_patterns(".*", "__pycache__", "*.db")
        for number in range(jobs):
            checkouts.put(Path(shutil.copytree(ROOT, Path(folder, str(number)), ignore=ignored)))
        for module in options.modules or CORE:
            file, tests = PACKAGE / f"{module.replace('.', '/')}.py", f"{CORE[module]} {PROMISES}"
            source = (ROOT / file).read_text(encoding="utf-8")
            if not survives(checkouts, file, source, tests):
                sys.exit(f"the tests of {module} fail without any change")
            every = list(mutants(source))
            chosen = random.Random(0).sample(every, min(options.sample, len(every)))
            alive = [pool.submit(survives, checkouts, file, text, tests) for _, text in chosen]
            left = [what for (what, _), each in zip(chosen, alive, strict=True) if each.result()]
            total, killed = total + len(chosen), killed + len(chosen) - len(left)
            summary = f"{module}: {len(left)} of {len(chosen)} survive, of {len(every)} in all"
            print(summary, *(f"{file}:{what}" for what in left), sep="\n  ", flush=True)
    print(f"killed: {killed} of {total} ({killed / max(total, 1):.0%})")


if __name__ == "__main__":
    main()
