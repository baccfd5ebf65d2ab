"""What the tools take and answer, without a guest: the budget, the schemas, the refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from breenix_gdbagent.agents import answers, prompts, resources, telling
from breenix_gdbagent.agents.schema import Argument, answer_schema, read_arguments, to_json
from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.agents.tools import BY_NAME, TOOLS
from breenix_gdbagent.errors import InputError

MOST_TOOLS = 15
MOST_TOKENS = 3500
BYTES_A_TOKEN = 4
CONTRACT = {
    "launch": {"lab", "breenix", "image", "kernel", "config"},
    "open": {"path"},
    "run": {"until", "seconds", "location"},
    "interrupt": set(),
    "explain": {"code"},
    "walk": {"va", "root"},
    "when": {"code"},
    "who_wrote": {"place"},
}


def _listed() -> list[dict[str, Any]]:
    server = pytest.importorskip("breenix_gdbagent.agents.server")
    return [
        server.listed(tool).model_dump(by_alias=True, exclude_none=True, mode="json")
        for tool in TOOLS
    ]


def test_the_schemas_keep_their_budget() -> None:
    listed = _listed()
    text = json.dumps({"tools": listed}, separators=(",", ":"))
    assert len(listed) <= MOST_TOOLS
    assert len(text.encode()) / BYTES_A_TOKEN < MOST_TOKENS


def test_every_schema_is_one() -> None:
    for tool in TOOLS:
        jsonschema.Draft202012Validator.check_schema(tool.takes)
        jsonschema.Draft202012Validator.check_schema(tool.answers)


def test_the_contracts_tools_take_what_it_says() -> None:
    for name, taken in CONTRACT.items():
        assert taken <= {argument.name for argument in BY_NAME[name].arguments}


def test_what_only_looks_says_so_and_the_rest_does_not() -> None:
    reading = {tool.name for tool in TOOLS if tool.reads}
    assert reading == {"explain", "walk", "look", "log"}
    for one in _listed():
        hints = one["annotations"]
        assert hints["readOnlyHint"] is (one["name"] in reading)
        assert one["name"] in reading or "destructiveHint" in hints


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "t needs va"),
        ({"va": 5}, "t: va is 5, and should be a text"),
        ({"va": "x", "count": "1"}, "t: count is '1', and should be a whole number"),
        ({"va": "x", "count": True}, "t: count is True"),
        ({"va": "x", "count": 0}, "t: count is 0: at least 1"),
        ({"va": "x", "count": 10**9}, "and at most 9"),
        ({"va": "x", "how": "ovr"}, "did you mean over?"),
        ({"va": "x", "wat": 1}, "t has no argument 'wat'"),
        ({"va": "x", "files": ["a", 1]}, "should be a list of texts"),
        ({"va": "x", "seconds": float("nan")}, "should be a number"),
        ({"va": ["\n" * 4000]}, "..., and should be a text"),
    ],
)
def test_odd_arguments_are_refused_in_words(given: dict[str, Any], said: str) -> None:
    takes = (
        Argument("va", required=True),
        Argument("count", "", "integer", 1, least=1, most=9),
        Argument("how", choices=("into", "over")),
        Argument("files", "", "array"),
        Argument("seconds", "", "number"),
    )
    with pytest.raises(InputError) as refused:
        read_arguments("t", takes, given)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3


def test_defaults_are_filled_in_and_null_is_left_out() -> None:
    takes = (Argument("a", "", "integer", 7), Argument("b"))
    assert read_arguments("t", takes, {"a": None}) == {"a": 7, "b": None}


def test_an_answer_fits_its_schema_with_and_without_what_may_lack() -> None:
    bare = answers.Where("stopped", "fault", 0.5)
    full = answers.Where("stopped", "fault", 0.5, interrupted=answers.Place("0x1", "f", "a.rs:1"))
    schema = answer_schema(answers.Where)
    for one in (bare, full):
        jsonschema.validate(to_json(one), schema)
    assert to_json(bare) == {"state": "stopped", "kind": "fault", "seconds": 0.5}
    told = answers.Told("c", "error", "t", "s", None, None)
    found = to_json(answers.Findings(1, (told,)))
    assert found == {
        "total": 1,
        "shown": [
            {
                "code": "c", "severity": "error", "title": "t", "summary": "s", "cause": None,
                "fix": None,
            }
        ],
    }  # fmt: skip
    jsonschema.validate(found, answer_schema(answers.Findings))


def test_pages_join_to_the_whole() -> None:
    rows = [{"n": n, "text": "x" * (n % 70)} for n in range(200)]
    seen: list[Any] = []
    start: int | None = 0
    while start is not None:
        page = answers.page(rows, start)
        assert page.total == 200 and page.shown
        assert len(json.dumps(to_json(page))) < 4096
        seen += page.shown
        start = page.next
    assert seen == rows
    last = answers.last_page(rows)
    assert last.shown[-1] == rows[-1] and last.start + len(last.shown) == 200


def test_a_long_text_is_cut_and_says_so() -> None:
    (row,) = answers.fitting([{"text": "y" * 5000}])
    assert str(row["text"]).endswith("(5000 characters)")
    assert len(json.dumps(row)) < 4096


def test_nothing_held_is_said_by_every_tool_that_needs_it(tmp_path: Path) -> None:
    given: dict[str, dict[str, Any]] = {
        "walk": {"va": "0x0"}, "look": {"what": "roots"}, "when": {"code": "panic"},
        "who_wrote": {"place": "0x0"}, "snapshot": {"path": str(tmp_path / "x")},
        "console": {"expect": "x"},
    }  # fmt: skip
    for tool in TOOLS:
        if tool.name in ("launch", "attach", "open"):
            continue
        arguments = read_arguments(tool.name, tool.arguments, given.get(tool.name, {}))
        with pytest.raises(InputError, match="nothing is held yet"):
            tool.do(Session(), arguments)


def test_launch_needs_a_guest_and_takes_one() -> None:
    launch = BY_NAME["launch"]
    for given, said in (({}, "no guest named"), ({"lab": "a", "image": "b"}, "two guests at once")):
        with pytest.raises(InputError, match=said):
            launch.do(Session(), read_arguments("launch", launch.arguments, given))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("panic", "the kernel panicked"),
        ("page-fault", "page-fault.unmapped"),
        ("0x6", "a write in ring 3"),
        ("PAGE FAULT at 0x10 Error Code: 0x2", "0x2"),
        ("no-such-code", "not a code"),
    ],
)
def test_codes_are_explained_without_a_guest(code: str, said: str) -> None:
    found = telling.meaning(code)
    assert said in json.dumps(to_json(found))
    assert found.total == (0 if code == "no-such-code" else found.total)


def test_prompts_are_filled_in_and_name_tools_that_there_are() -> None:
    for prompt in prompts.PROMPTS:
        values = {name: f"<{name}>" for name, _ in prompt.arguments}
        about, text = prompts.filled(prompt.name, values)
        assert about and all(value in text for value in values.values())
        assert "{" not in text
        with pytest.raises(InputError, match="needs"):
            prompts.filled(prompt.name, {})
    with pytest.raises(InputError, match="no prompt"):
        prompts.filled("x", {})


def test_an_unknown_resource_names_those_that_there_are() -> None:
    with pytest.raises(InputError, match="there is no resource") as refused:
        resources.read(Session(), "breenix://x")
    assert all(one.uri in str(refused.value) for one in resources.RESOURCES)
    assert "page-fault.unmapped" in resources.read(Session(), "breenix://codes").text
