"""Prompts: short plans over the tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from breenix_gdbagent.errors import InputError


@dataclass(frozen=True, slots=True)
class Prompt:
    """One plan; `arguments` are (name, what it is) and stand in `text` as ``{name}``."""

    name: str
    about: str
    arguments: tuple[tuple[str, str], ...]
    text: str


PROMPTS = (
    Prompt(
        "why-did-it-fault",
        "Why did it fault?",
        (("target", "what to boot: a lab scenario, a checkout, a snapshot, or `what is held`"),),
        """Find out why the kernel fails: {target}.
1. launch it (or open the snapshot), then run. Where nothing went wrong, say so and stop.
2. explain. The first finding is the cause or leads to it; read `cause`, and what was not checked.
3. look what=source place=<its place> shows the line; look what=backtrace who called it.
4. For a page fault: walk va=<its va>. For a wrong value: look what=value, points action=watch.
5. Answer with: the code and what it means here, the source line to blame, what shows it, the fix.
Say what is proved by an answer and what you conclude from it; nothing that no tool has said is a fact.
""",  # noqa: E501
    ),
    Prompt(
        "which-change-broke-it",
        "Which change broke it?",
        (
            ("good", "a checkout or snapshot that works"),
            ("bad", "a checkout or snapshot that fails"),
        ),
        """Find the change that broke the kernel: {good} works, {bad} fails.
1. launch {bad} (or open it), run, explain; note the fingerprint: code, symbol, process.
2. The same for {good}. The finding must be missing there, with its check passed and not left out.
3. snapshot both at the same text (run until=...), and compare: `breenix-gdbagent diff A B`.
4. Look at the changes between the two in the file of the blamed line first, then in its callers.
5. Where the history has many steps: `breenix-gdbagent ci --expect` is the test of a `git bisect run`.
Answer with the change, the line, and what shows that it and not another one is to blame.
""",  # noqa: E501
    ),
    Prompt(
        "is-this-build-safe",
        "Is this build safe to merge?",
        (("build", "the checkout that was built"),),
        """Judge whether this build may be merged: {build}.
1. launch breenix={build}, run seconds=120. It has to come to the kernel's own success text.
2. explain: any finding of severity error is a no. Page through all of them (start=next).
3. What `not_checked` lists was not looked at: say so, it is no pass.
4. log level=error: lines that nobody explained.
5. Once more with launch deterministic=true, and with smp=2 where the kernel supports it.
Answer yes or no, the findings by code with their lines, and what was not checked.
""",
    ),
)


def filled(name: str, given: Mapping[str, str]) -> tuple[str, str]:
    """(what it is, the text with its arguments). Raises `InputError`."""
    for one in PROMPTS:
        if one.name == name:
            lacking = [argument for argument, _ in one.arguments if not given.get(argument)]
            if lacking:
                raise InputError(f"the prompt {name} needs {', '.join(lacking)}")
            text = one.text
            for argument, _ in one.arguments:
                text = text.replace(f"{{{argument}}}", given[argument])
            return one.about, text
    raise InputError(f"no prompt {name!r}", fix=f"there are: {', '.join(p.name for p in PROMPTS)}")
