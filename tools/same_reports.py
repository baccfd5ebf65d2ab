"""Whether two checkouts tell the same of the same stops: every byte of every form of the report.

``python tools/same_reports.py take DIR`` keeps a snapshot of every scenario of the lab guest in
DIR, with this checkout (or that of ``--package``). ``tell DIR OUT`` writes
what that checkout's agent says of each of them, and of the captures where there are some, into
OUT: text, JSON, Markdown, HTML, JUnit, the maps, the exit codes. ``diff -r`` of two such folders is
the answer; what a run itself differs in (seconds, versions, this machine's paths) is not in them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CAPTURES = Path(os.environ.get("BREENIX_CAPTURES", ROOT.parent / "shared" / "captures"))
FORMS = {
    "report.txt": ("report", "{file}", "--anew"),
    "report.json": ("report", "{file}", "--anew", "--json"),
    "report.md": ("report", "{file}", "--anew", "--markdown"),
    "map.txt": ("pt", "map", "--snapshot", "{file}"),
    "roots.json": ("pt", "roots", "--json", "--snapshot", "{file}"),
    "audit.json": ("audit", "--json", "--snapshot", "{file}"),
    "shell.txt": ("shell", "--snapshot", "{file}", "-c", "cpus", "-c", "registers", "-c", "stacks",
                  "-c", "ps", "-c", "threads", "-c", "bt", "-c", "heap", "-c", "frames"),
}  # fmt: skip
WRITTEN = {"report.html": "--html", "junit.xml": "--junit"}
TIMES = re.compile(r'(time|timestamp|seconds)(="|": |&#34;: )[0-9.T:Ze-]+')


def agent(package: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """One command of that checkout's agent."""
    python = package / ".venv" / "bin" / "python"
    return subprocess.run(
        [str(python if python.exists() else sys.executable), "-m", "breenix_gdbagent", *arguments],
        cwd=package, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def take(folder: Path, names: Sequence[str], package: Path, jobs: int) -> int:
    """A snapshot of every scenario that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(package / "breenix_gdbagent/lab/labguest.elf", folder / "kernel.elf")
    scenarios = json.loads((ROOT / "breenix_gdbagent/lab/scenarios.json").read_text())
    every = names or sorted(s["name"] for s in scenarios)
    wanted = [n for n in every if not (folder / f"{n}.core").exists()]

    def one(name: str) -> str:
        to = ["-o", str(folder / f"{name}.core"), "--timeout", "8"]
        done = agent(package, ["ci", "--lab", name, "--deterministic", *to])
        return f"{name}: exit {done.returncode} {done.stderr.strip()}"

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for said in pool.map(one, wanted):
            print(said, flush=True)
    return 0


def subjects(folder: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Name, file, and what else the command takes."""
    for path in sorted(folder.glob("*.core")):
        yield path.stem, path, ["--kernel", str((folder / "kernel.elf").resolve())]
    for path in sorted(CAPTURES.glob("*/core.elf")):
        size = json.loads((path.parent / "truth.json").read_text()).get("ram_bytes")
        yield path.parent.name, path, [] if size is None else ["--ram-size", str(size)]


def tell(folder: Path, out: Path, only: Sequence[str], package: Path, jobs: int) -> int:
    """What the agent of `package` says of every snapshot."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = [s for s in subjects(folder) if not only or s[0] in only]

    def one(subject: tuple[str, Path, list[str]]) -> str:
        name, path, more = subject
        for form, arguments in FORMS.items():
            filled = [part.format(file=path.resolve()) for part in arguments]
            done = agent(package, [*filled, *more])
            said = f"{done.stdout}\n{done.stderr}\nexit {done.returncode}\n"
            (out / f"{name}.{form}").write_text(_steady(said, form))
        for form, option in WRITTEN.items():
            target = out / f"{name}.{form}"
            agent(package, ["report", str(path.resolve()), "--anew", *more, option, str(target)])
            if target.exists():
                target.write_text(_steady(target.read_text(), form))
        return name

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for name in pool.map(one, wanted):
            print(name, flush=True)
    listed = agent(package, ["explain", "--list", "--json"])
    codes = [row["code"] for row in json.loads(listed.stdout)["codes"]]
    said = [agent(package, ["explain", code]).stdout for code in codes]
    (out / "explain.txt").write_text("\n\n".join(said))
    return 0


def _steady(text: str, form: str) -> str:
    """Without what two runs of one checkout differ in."""
    if form.endswith(".json"):
        body, _, end = text.partition("\n\nexit")
        try:
            document = json.loads(body)
        except ValueError:
            return TIMES.sub(r"\1", text)
        if isinstance(document, dict):
            document.pop("provenance", None)
        return json.dumps(document, indent=1) + end
    return re.sub(r'"timings".*?\}', "", TIMES.sub(r"\1", text), flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--package", type=Path, default=ROOT, help="a checkout with a .venv")
    commands = parser.add_subparsers(dest="command", required=True)
    taking = commands.add_parser("take")
    taking.add_argument("folder", type=Path)
    taking.add_argument("names", nargs="*")
    telling = commands.add_parser("tell")
    telling.add_argument("folder", type=Path)
    telling.add_argument("out", type=Path)
    telling.add_argument("names", nargs="*", help="those of this name (default: all)")
    options = parser.parse_args()
    if options.command == "take":
        return take(options.folder.resolve(), options.names, options.package, options.jobs)
    return tell(options.folder, options.out.resolve(), options.names, options.package, options.jobs)


if __name__ == "__main__":
    raise SystemExit(main())
