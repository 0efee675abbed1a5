"""Messages written as the prompt of a model, by the template that comes with it. Strangers wrote it, so it runs in a
sandbox: it reaches no file and no code, and has little time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

from cluster import errors
from cluster.names import cut
from cluster.value import JsonObject
from deployments.llm.calls import format_in
from deployments.llm.pictures import parts_of
from deployments.llm.time_limit import time_limit

#: Turns of all loops over numbers together.
MOST_TURNS = 1_000_000
#: What writing the messages of one request may take.
MOST_SECONDS = 5.0
#: Letters of a text that is repeated.
MOST_REPEATED = 1_000_000
MOST_POWER = 64
#: A text that no template writes by itself.
PROBE = "probe-5f1c"
#: How to have a model that sees, for those that are loaded by engines with which none does.
ELSEWHERE = "launch one that sees with model_engine=llamacpp and its mmproj file, or with model_engine=vllm"

_turns_left: ContextVar[int] = ContextVar("turns_left", default=0)


def _range(*limits: int) -> range:
    numbers = range(*limits)
    left = _turns_left.get() - len(numbers)
    if left < 0:
        raise OverflowError("it counts for too long")
    _turns_left.set(left)
    return numbers


def _refuse(message: str) -> None:
    raise errors.BadRequest(f"The model's chat template refuses this: {cut(str(message))}", "messages")


def _json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


class ChatTemplate:
    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        """`tokens`: special tokens by the names that templates have for them, such as `bos_token`."""
        from jinja2 import TemplateError

        environment = _sandbox()(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation()]
        )
        environment.filters["tojson"] = _json
        environment.globals.update(
            raise_exception=_refuse, strftime_now=lambda format: datetime.now().strftime(format), range=_range
        )
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise errors.LoadFailed(f"The model's chat template cannot be read: {error}.") from None
        self._tokens = dict(tokens)
        self.most_seconds = MOST_SECONDS
        #: Whether it knows of tools, and of models that think before they answer.
        self.takes_tools = "tools" in source
        self.reasons = "<think>" in source
        #: The format in which the model calls tools.
        self.calls = format_in(source)

    def written(
        self,
        messages: Sequence[JsonObject],
        tools: Sequence[JsonObject],
        variables: Mapping[str, Any] = MappingProxyType({}),
        begins_answer: bool = True,
    ) -> str:
        """`variables`: what the request gives to the template besides."""
        listed = [_in_parts(message) for message in messages] if self._takes_parts_only else messages
        return self._rendered(listed, tools, variables, begins_answer)

    @cached_property
    def _takes_parts_only(self) -> bool:
        """Whether it leaves out a text that is not in a list of parts, as templates of models that see may do."""
        try:
            return PROBE not in self._rendered([{"role": "user", "content": PROBE}], [], {}, True)
        except errors.ClusterError:
            return False

    def _rendered(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], variables: Mapping[str, Any], begins: bool
    ) -> str:
        _turns_left.set(MOST_TURNS)
        own = {"messages": list(messages), "tools": list(tools) or None, "add_generation_prompt": begins}
        try:
            with time_limit(self.most_seconds):
                return str(self._template.render({**variables, **self._tokens, **own}))
        except errors.ClusterError:
            raise
        # A template may do anything with what it is given, and the messages are the caller's.
        except Exception as error:
            raise errors.BadRequest(
                f"The model's chat template cannot write these messages: {cut(str(error))}.", "messages"
            ) from None


def _sandbox() -> type[Any]:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):  # type: ignore[misc]
        """One operation that takes long cannot be ended, so there is none."""

        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" and abs(right) > MOST_POWER:
                raise OverflowError("a power is too large")
            if operator == "*":
                for many, times in ((left, right), (right, left)):
                    if isinstance(many, (str, list, tuple)) and isinstance(times, int):
                        if len(many) * times > MOST_REPEATED:
                            raise OverflowError("a text is repeated too often")
            return super().call_binop(context, operator, left, right)

    return Sandbox


def _generation() -> type[Any]:
    """`{% generation %}` marks what an assistant wrote, for training; here it means nothing."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):  # type: ignore[misc]
        tags = {"generation"}

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    return Generation


def plain(messages: Sequence[JsonObject], leaves_pictures_out: bool = False) -> list[JsonObject]:
    """Messages as templates read them: texts instead of lists of parts, arguments of calls as objects."""
    if not leaves_pictures_out:
        refuse_pictures(messages)
    return [_plain(message, number) for number, message in enumerate(messages)]


def _in_parts(message: JsonObject) -> JsonObject:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _plain(message: JsonObject, place: int) -> JsonObject:
    role = message.get("role")
    if not isinstance(role, str):
        raise errors.InvalidBody(f"messages.{place}: it has no role.", "messages")
    text = {**message, "role": "system" if role == "developer" else role}
    text["content"] = _text_of(message.get("content"), place)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        text["tool_calls"] = [_call(call, place) for call in calls]
    else:
        text.pop("tool_calls", None)
    return text


def refuse_pictures(messages: Sequence[JsonObject], how: str = ELSEWHERE) -> None:
    """For models that cannot see. `how`: to have one that can."""
    for number, message in enumerate(messages):
        if any(isinstance(part, bytes) for part in parts_of(message.get("content"), number)):
            raise errors.BadRequest(f"A message has a picture, and this model reads texts only: {how}.", "messages")


def _text_of(content: Any, place: int) -> str:
    return "\n".join(part for part in parts_of(content, place) if isinstance(part, str))


def _call(call: Any, place: int) -> JsonObject:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise errors.InvalidBody(f"messages.{place}: a tool call must have a function with a name.", "messages")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            pass  # as the model wrote it
    return {**call, "function": {**function, "arguments": arguments}}
