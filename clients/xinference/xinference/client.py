"""What LlamaIndex and LangChain import as `xinference.client`: Xinference's light client, and the `chat` of its first
releases beside today's, which LlamaIndex's class still calls.

This folder has no `__init__.py` on purpose: an installed Xinference is a regular package with a package `client` in it,
and Python prefers both to what is here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from xinference_client import AsyncRESTfulClient
from xinference_client.client.restful import restful_client

__all__ = ["AsyncClient", "AsyncRESTfulClient", "Client", "RESTfulClient"]

Message = dict[str, Any]


class ChatModelHandle(restful_client.RESTfulChatModelHandle):  # type: ignore[misc]
    def chat(
        self,
        messages: Iterable[Message] | str | None = None,
        tools: list[dict[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        generate_config: dict[str, Any] | None = None,
        *,
        prompt: str | None = None,
        system_prompt: str | None = None,
        chat_history: Iterable[Message] | None = None,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Takes `messages`, or as at first the last message as `prompt` and what came before it as `chat_history`."""
        if isinstance(messages, str):
            messages, prompt = None, messages
        if messages is None:
            messages = conversation(prompt, system_prompt, chat_history or ())
        elif (prompt, system_prompt, chat_history) != (None, None, None):
            raise TypeError("chat() takes either messages or prompt, system_prompt and chat_history; it got both.")
        answer: dict[str, Any] | Iterator[dict[str, Any]] = super().chat(
            list(messages), tools, enable_thinking, generate_config
        )
        return answer


def conversation(prompt: str | None, system_prompt: str | None, history: Iterable[Message]) -> list[Message]:
    if prompt is None:
        raise TypeError("chat() needs messages, or a prompt; it got neither.")
    first = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*first, *history, {"role": "user", "content": prompt}]


class RESTfulClient(restful_client.Client):  # type: ignore[misc]
    def get_model(self, model_uid: str) -> restful_client.RESTfulModelHandle:
        handle = super().get_model(model_uid)
        if type(handle) is restful_client.RESTfulChatModelHandle:
            return ChatModelHandle(model_uid, self.base_url, handle.auth_headers)
        return handle


#: Xinference has each under both names.
Client = RESTfulClient
AsyncClient = AsyncRESTfulClient
