"""Interceptors that change what is asked: what the server is sent is what the digest stands for."""

import random
from typing import Any

import pytest
from pydantic import ValidationError

from eval_pipelines.client.chain import Chain
from eval_pipelines.client.interceptors import payload
from eval_pipelines.errors import ConfigError, UnsupportedError
from eval_pipelines.records import Request


def texts(request: Request) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in request.messages or ()]


def plain(operation: Any = "completion", **params: Any) -> Request:
    fields = {"continuation": " 4"} if operation == "loglikelihood" else {}
    return Request(sample_id="s/1", subtask="s", operation=operation, prompt="2+2=", params=params, **fields)


# system_message, consolidate_system


@pytest.mark.parametrize(("mode", "system"), [("prepend", "NEW\nold"), ("append", "old\nNEW"), ("replace", "NEW")])
def test_a_system_message_is_put_before_after_or_in_place_of_the_old_one(chain, chat, mode, system) -> None:
    asked = chain({"system_message": {"text": "NEW", "mode": mode}}).request(chat("?", system=("old",)))
    assert texts(asked) == [("system", system), ("user", "?")]


@pytest.mark.parametrize("mode", ["prepend", "append", "replace"])
def test_without_a_system_message_one_is_made(chain, chat, mode) -> None:
    asked = chain({"system_message": {"text": "NEW", "mode": mode}}).request(chat("?"))
    assert texts(asked) == [("system", "NEW"), ("user", "?")]


def test_replacing_replaces_every_system_message(chain, chat) -> None:
    asked = chain({"system_message": {"text": "NEW", "mode": "replace"}}).request(chat("?", system=("a", "b")))
    assert texts(asked) == [("system", "NEW"), ("user", "?")]


@pytest.mark.parametrize("operation", ["completion", "loglikelihood"])
def test_a_plain_prompt_is_refused_unless_it_is_said_what_to_do(chain, operation) -> None:
    with pytest.raises(UnsupportedError, match=r"s/1: system_message cannot reach a plain prompt.*completions: leave"):
        chain({"system_message": {"text": "NEW"}}).request(plain(operation))
    first = chain({"system_message": {"text": "NEW", "completions": "prepend"}}).request(plain(operation))
    left = chain({"system_message": {"text": "NEW", "completions": "leave"}}).request(plain(operation))
    assert (first.prompt, left.prompt) == ("NEW\n2+2=", "2+2=")


def test_a_prompt_has_no_end_to_append_to(listed) -> None:
    with pytest.raises(ValidationError, match="a prompt has only a start"):
        listed({"system_message": {"text": "NEW", "mode": "append", "completions": "prepend"}})


def test_several_system_messages_become_one_at_the_start(chain) -> None:
    roles = [("user", "1"), ("system", "a"), ("user", "2"), ("system", "b")]
    messages = tuple({"role": role, "content": text} for role, text in roles)
    asked = chain({"consolidate_system": {"separator": " | "}}).request(
        Request(sample_id="s", subtask="s", operation="chat", messages=messages)
    )
    assert texts(asked) == [("system", "a | b"), ("user", "1"), ("user", "2")]


async def test_the_server_is_sent_what_the_digest_stands_for(asking, chat, faulty) -> None:
    faulty.set(records=True)
    await asking(
        [chat("What is 1 + 1?", seed=7)],
        {"system_message": {"text": "Be brief."}},
        {"drop_params": {"params": ["seed"]}},
    )
    sent = faulty.seen()[0]["body"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
    assert sent == {"model": "mock", "messages": messages}
    as_sent = Request(sample_id="x", subtask="x", operation="chat", messages=tuple(messages))
    assert list(asking.responses) == [as_sent.digest]


# payload, drop_params


def test_an_added_seed_is_another_for_each_repeat(chain, chat) -> None:
    asked = chain({"payload": {"params_to_add": {"seed": 7}}})
    repeats = [chat("?", seed=1234 + n).model_copy(update={"repeat": n}) for n in range(3)]
    assert [asked.request(one).params["seed"] for one in repeats] == [7, 8, 9]


async def test_parameters_are_removed_renamed_and_added_in_nested_objects(asking, chat, faulty) -> None:
    faulty.set(records=True)
    given = {"seed": 1, "extra": {"seed": 2, "old": [{"old": 3}], "kept": 4}, "max_tokens": 5}
    change = {
        "params_to_remove": ["seed"],
        "params_to_rename": {"old": "new"},
        "params_to_add": {"extra": {"on": True}, "max_tokens": 9},
    }
    await asking([chat("?", **given)], {"payload": change})
    sent = faulty.seen()[0]["body"]
    assert {name: sent[name] for name in sent if name not in ("model", "messages")} == {
        "extra": {"kept": 4, "new": [{"new": 3}], "on": True},
        "max_tokens": 9,
    }


def test_a_log_likelihood_takes_no_parameter_that_draws_an_answer(chain) -> None:
    change = {"payload": {"params_to_add": {"max_tokens": 100, "temperature": 1, "add_special_tokens": False}}}
    assert chain(change).request(plain("loglikelihood")).params == {"add_special_tokens": False}
    assert chain(change).request(plain()).params["max_tokens"] == 100


def some_json(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.choice("dlsn" if depth < 4 else "sn")
    if kind == "d":
        return {dice.choice("abcdef"): some_json(dice, depth + 1) for _ in range(dice.randrange(5))}
    if kind == "l":
        return [some_json(dice, depth + 1) for _ in range(dice.randrange(4))]
    return dice.choice(["a", "b", None, True, 1, 2.5])


def keys_of(value: Any) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {*(value if isinstance(value, dict) else ())}.union(*(keys_of(one) for one in inner))


def leaves(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return sorted(leaf for one in (value.values() if isinstance(value, dict) else value) for leaf in leaves(one))
    return [repr(value)]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_parameters_removing_renaming_and_adding_do_just_that(seed) -> None:
    dice = random.Random(seed)
    for _ in range(100):
        value = {name: some_json(dice) for name in "abc"}
        before = repr(value)
        assert keys_of(payload.removed(value, {"a", "d"})).isdisjoint({"a", "d"})
        assert payload.removed(value, {"x"}) == value
        renamed = payload.renamed(value, {"a": "x", "b": "y"})
        assert keys_of(renamed).isdisjoint({"a", "b"})
        assert leaves(renamed) == leaves(value)  # nothing is lost on the way to names that are free
        assert payload.renamed(renamed, {"x": "a", "y": "b"}) == value
        added = {name: some_json(dice) for name in "bcz"}
        merged = payload.merged(value, added)
        assert payload.merged(merged, added) == merged
        assert all(merged[name] == one for name, one in added.items() if not isinstance(one, dict))
        assert (merged["a"], repr(value)) == (value["a"], before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "says nothing to add"),
        ({"params_to_add": {"messages": []}}, "messages: the client and the benchmark say these"),
        ({"params_to_rename": {"seed": "model"}}, "model: the client"),
        ({"params_to_rename": {"a": "c", "b": "c"}}, "two of them would have the same new name"),
        ({"headers_to_add": {"x-api-key": "abc"}}, "headers_from_env"),
        ({"headers_to_add": {"x-user": "Bearer abc"}}, "headers_from_env"),
        ({"headers_to_add": {"x y": "abc"}}, "can be no HTTP header"),
        ({"headers_to_add": {"x-y": "a\nb: c"}}, "can be no HTTP header"),
        ({"headers_from_env": {"x-key": "sk-123 456"}}, "needs the name of an environment variable"),
    ],
)
def test_a_payload_that_makes_no_sense_is_refused(listed, options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        listed({"payload": options})


async def test_headers_are_removed_renamed_added_and_read_from_the_environment(asking, chat, faulty) -> None:
    faulty.set(records=True)
    asking.environment["TEAM_KEY"] = "team-secret-1\n"
    change = {
        "headers_to_rename": {"Authorization": "X-Key"},
        "headers_to_add": {"X-Team": "evals"},
        "headers_from_env": {"X-Second-Key": "TEAM_KEY"},
    }
    await asking([chat("?")], {"payload": change})
    sent = faulty.seen()[0]["headers"]
    assert "authorization" not in sent
    assert (sent["x-key"], sent["x-team"], sent["x-second-key"]) == (
        "Bearer s3cret-of-the-endpoint",
        "evals",
        "team-secret-1",
    )
    faulty.set(records=True)
    await asking([chat("?")], {"payload": {"headers_to_remove": ["Authorization"]}})
    assert "authorization" not in faulty.seen()[0]["headers"]


async def test_a_header_whose_variable_is_not_set_is_told_before_anything_is_asked(asking, chat, faulty) -> None:
    with pytest.raises(ConfigError, match="the environment variable NOT_THERE is not set"):
        await asking([chat("?")], {"payload": {"headers_from_env": {"x-key": "NOT_THERE"}}})
    assert faulty.stats().get("requests", 0) == 0


async def test_a_secret_header_that_the_server_repeats_is_in_no_failure(asking, chat, faulty) -> None:
    asking.environment["TEAM_KEY"] = "team-s3cret-1"
    faulty.set(faults=[{"kind": "401", "message": "team-s3cret-1 is not known here"}])
    report = await asking([chat("?")], {"payload": {"headers_from_env": {"x-key": "TEAM_KEY"}}})
    assert report.first_failure == "*** is not known here"


# modify_tools


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": sorted(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


async def test_properties_of_tools_are_stripped_at_any_depth_and_added(asking, chat, faulty) -> None:
    faulty.set(records=True)
    place = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "zip": {"type": "string"}},
        "required": ["zip"],
    }
    tools = [tool("weather", place=place, zip={"type": "string"}), tool("time", zip={"type": "string"})]
    change = {"strip_properties": ["zip"], "add_properties": {"why": {"type": "string"}}, "tools": ["weather"]}
    await asking([chat("?", tools=tools), chat("no tools")], {"modify_tools": change})
    sent = {one["body"]["messages"][-1]["content"]: one["body"].get("tools") for one in faulty.seen()}
    assert sent["no tools"] is None
    weather, time = sent["?"]
    assert time == tools[1]
    assert weather["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": []},
            "why": {"type": "string"},
        },
        "required": ["place"],
    }


# turn_limit


@pytest.mark.parametrize(("trigger", "reminded"), [("periodic", [2, 4]), ("threshold", [2, 3, 4, 5])])
def test_reminders_come_every_so_many_turns_or_from_one_on(chain, chat, trigger, reminded) -> None:
    seen = chain({"turn_limit": {"max_turns": 9, "remind_every": 2, "trigger": trigger}})
    asked = {n: seen.request(chat(*[f"turn {i}" for i in range(n)])) for n in range(1, 6)}
    assert [n for n, one in asked.items() if texts(one)[0][0] == "system"] == reminded
    assert texts(asked[2])[0] == ("system", "This is turn 2 of 9.")


def test_a_reminder_may_stand_in_the_last_message_of_the_user(chain, chat) -> None:
    seen = chain({"turn_limit": {"remind_every": 1, "position": "user", "reminder": "{left} left."}})
    assert texts(seen.request(chat("a", "b", system=("s",)))) == [
        ("system", "s"), ("user", "a"), ("user", "b\n\nany number left."),
    ]  # fmt: skip


def test_a_reminder_that_names_something_else_is_refused(listed) -> None:
    with pytest.raises(ValidationError, match=r"may name \{turn\}"):
        listed({"turn_limit": {"remind_every": 1, "reminder": "{secret}"}})


async def test_a_conversation_over_the_limit_is_a_failure_that_was_never_sent(asking, chat, faulty) -> None:
    report = await asking([chat("a", "b", "c"), chat("d")], {"turn_limit": {"max_turns": 2}})
    assert (report.n_answered, report.n_failed, report.n_attempts) == (1, 1, 2)
    assert report.first_failure == "not sent: it has 3 turns of the user, and turn_limit allows 2"
    assert {kind.value for kind in report.failures} == {"rejected"}
    assert faulty.stats()["requests"] == 1


# order


def test_the_list_of_the_benchmark_comes_first_and_the_way_back_is_reversed(listed, chat) -> None:
    first, then = listed({"system_message": {"text": "bench"}}), listed({"system_message": {"text": "model"}})
    asked = Chain(first, then).request(chat("?"))
    assert texts(asked)[0] == ("system", "model\nbench")
