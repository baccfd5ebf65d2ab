"""The target options: which go together, and what refuses says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from breenix_gdbagent import configs
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.target import Target, add_target_options, target_of
from breenix_gdbagent.errors import InputError


def named(*words: str) -> Target:
    parser = Parser("breenix-gdbagent")
    add_target_options(parser)
    return target_of(parser.parse_args(words), default_lab=True)


@pytest.mark.parametrize(
    "words",
    [
        ("--lab",),
        ("--breenix", "tree"),
        ("--image", "i", "--kernel", "k"),
        ("--config", "c", "--kernel", "k"),
        (),
    ],
)
def test_whatever_we_boot_can_have_several_cpus(words: tuple[str, ...]) -> None:
    target = named(*words, "--smp", "4")
    assert target.boots and target.options.smp == 4


def test_a_kernel_that_the_machine_boots_is_a_target() -> None:
    assert named("--config", "kernel", "--kernel", "k").kind == "kernel"
    assert named("--config", "iso", "--kernel", "k", "--image", "i").kind == "breenix"
    with pytest.raises(InputError, match="nothing says what boots it"):
        named("--kernel", "k")


@pytest.mark.parametrize(
    ("words", "why"),
    [(("--gdb", "unix:/x"), "this one runs already"), (("--snapshot", "x"), "is not booted")],
)
@pytest.mark.parametrize("option", [("--smp", "2"), ("--accel", "kvm"), ("--deterministic",)])
def test_how_to_boot_is_nothing_to_tell_what_we_do_not_boot(
    words: tuple[str, ...], why: str, option: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as refused:
        named(*words, *option)
    assert refused.value.what == f"{option[0]} does not go with {words[0]}"
    assert why in refused.value.why


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "\N{ARABIC-INDIC DIGIT TWO}"])
def test_what_is_no_number_of_cpus(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, InputError)) as refused:
        named("--lab", f"--smp={text}")
    said = str(refused.value) + capsys.readouterr().err
    assert f"{text!r} is no number of CPUs" in said


def test_a_machine_that_fixes_its_number_of_cpus_is_not_given_another() -> None:
    lab = configs.load("lab")
    arguments = tuple("2" if part == "{smp}" else part for part in lab.arguments)
    fixed = replace(lab, arguments=arguments)
    assert fixed.with_settings(smp=1, memory="64M").settings.memory == "64M"
    with pytest.raises(InputError, match="cannot be given another smp: 4"):
        fixed.with_settings(smp=4)
    with pytest.raises(InputError, match="one CPU or more"):
        lab.with_settings(smp=0)
