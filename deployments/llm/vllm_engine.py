"""vLLM as an engine: a child process with its OpenAI server on a Unix socket, which is given token ids and tells token
ids, so that templates, calls of tools and stop strings are read as for every other engine.

One thread has a loop, and all that is said to the child and heard of it. What is known of the child comes from its
answers: it ends with code 0 when its core was killed, and it is asked for its health all the time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson

from cluster import errors
from cluster.value import JsonObject
from cluster.worker.family import Stop
from deployments.llm.engine_child import EngineChild
from deployments.llm.language import Hear, Order, TokenSampling
from deployments.llm.picture_bodies import PictureBodies
from deployments.llm.pictures import PIXELS_SEEN_TOGETHER
from deployments.llm.token_stream import Broken, Step, TokenStream, body_of, chat_body_of, refusal_of

log = logging.getLogger("cluster.worker.worker")

JSON = {"content-type": "application/json"}
#: Stands in a command for the path of the socket.
SOCKET = "{socket}"
#: Between two looks at its health, and how long it may take to answer one.
LOOK_S, HEALTH_S = 1.0, 5.0
#: The same where an answer has just failed, and somebody waits for what is said of it.
SOON_S = 0.3
#: An engine that neither answers nor writes for so long hangs.
HUNG_S = 20.0
#: Between two looks while it is loaded.
LOADING_S = 0.1
#: vLLM's server closes a connection that is not used for five seconds.
IDLE_S = 3.0
#: How long what all are told of the end may be on its way, before the worker ends.
FAREWELL_S = 0.3
#: Before an answer is asked for again that has broken before its first piece.
PAUSES_S = (0.0, 0.2, 0.5)

#: Of a body, sent at once.
SLICE_BYTES = 2**18
#: Pixels of all answers with pictures that are written at once; others wait. The server keeps those of each by itself.
PIXELS_AT_ONCE = 2 * PIXELS_SEEN_TOGETHER


class VllmEngine:
    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        ends: frozenset[int],
        lost: Callable[[], None],
        hung_s: float = HUNG_S,
        pixels: int = PIXELS_AT_ONCE,
    ) -> None:
        """`ends`: the tokens that end an answer. `lost` is called once, when the loaded engine has been lost and all
        who waited for it have been told. `pixels`: of all answers at once."""
        self._command = command
        self._environment = environment
        self._ends = ends
        self._lost = lost
        self._hung_s = hung_s
        #: Readable by this user only, and short: the path of a socket has 107 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="engine-"))
        self._child: EngineChild | None = None
        self._pictures = PictureBodies(pixels)
        self._answers: set[asyncio.Task[Step]] = set()
        #: Why there is no engine any more.
        self._end: errors.WorkerLost | None = None
        self._is_loaded = self._is_closed = False
        self._heard_at = self._healthy_at = 0.0
        transport = httpx.AsyncHTTPTransport(
            uds=str(self._folder / "s"),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S),
        )
        self._http = httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=None, trust_env=False)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True, name="vllm").start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _done(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # ------------------------------------------------------------------------------------------- load and end

    def load(self, report: Callable[[float], None], silent_s: float) -> None:
        """Returns when it answers. `silent_s`: how long it may write no line of its log until then."""
        try:
            self._done(self._load(report, silent_s))
        # Whatever ends the load, nothing of the engine may be left.
        except BaseException:
            self.close()
            raise

    async def _load(self, report: Callable[[float], None], silent_s: float) -> None:
        command = [word.replace(SOCKET, str(self._folder / "s")) for word in self._command]
        child = self._child = EngineChild(command, self._environment, self._see_end)
        lines = 0
        while not await self._is_healthy(HEALTH_S):
            if child.has_ended:
                raise await asyncio.to_thread(child.failure)
            if time.monotonic() - child.heard_at > silent_s:
                words = child.last_words(True)
                raise errors.LoadFailed(
                    f"The engine has neither answered nor written to its log for {silent_s:.0f} s{words}"
                )
            if child.lines != lines:
                lines = child.lines
                report(lines / (lines + 50))  # nobody knows how many there will be
            await asyncio.sleep(LOADING_S)
        self._is_loaded = True
        self._watching = self._loop.create_task(self._watch())

    def close(self) -> None:
        """Returns when nothing is left of it."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._child is not None:
            self._child.end()
        self._done(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _leave(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()

    # ------------------------------------------------------------------------------------------------- health

    async def _is_healthy(self, seconds: float) -> bool | None:
        """None where it does not say."""
        try:
            answer = await self._http.get("/health", timeout=seconds)
        except httpx.TimeoutException:
            return None
        except httpx.TransportError:
            return False
        if answer.status_code == 200:
            self._healthy_at = time.monotonic()
        return answer.status_code == 200

    async def _watch(self) -> None:
        while self._end is None:
            await asyncio.sleep(LOOK_S)
            await self._look(HEALTH_S)
            # Among a thousand others a question for its health may wait for long.
            heard_at = max(self._healthy_at, self._heard_at)
            if time.monotonic() - heard_at > self._hung_s:
                self._lose(f"for {self._hung_s:.0f} s it has neither said that it is well nor written anything")

    async def _look(self, seconds: float) -> None:
        if await self._is_healthy(seconds) is False:
            self._lose("it is not well, or cannot be reached")

    def _see_end(self) -> None:
        """It has ended, and nothing is left of it."""
        if not self._is_closed:
            self._loop.call_soon_threadsafe(self._lose, "it has ended")

    def _lose(self, why: str) -> None:
        if self._end is not None or not self._is_loaded or self._child is None:
            return
        self._end = errors.WorkerLost(f"The engine of this model is lost: {why}{self._child.last_words()}")
        log.critical("%s", self._end)
        for task in self._answers:
            task.cancel()
        self._loop.call_later(FAREWELL_S, self._lost)

    # ------------------------------------------------------------------------------------------------ answers

    def write(self, order: Order, sampling: TokenSampling, hear: Hear) -> Stop:
        writing: list[asyncio.Task[Step]] = []

        def begin() -> None:
            if self._end is not None:
                hear((), (), self._end)
                return
            writing.append(self._loop.create_task(self._answer(order, sampling, hear)))
            self._answers.add(writing[0])
            writing[0].add_done_callback(partial(self._tell_end, hear))

        def stop() -> None:
            for task in writing:
                task.cancel()

        def stop_soon() -> None:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(stop)

        # What is done there is done in this order.
        self._loop.call_soon_threadsafe(begin)
        return stop_soon

    def _tell_end(self, hear: Hear, task: asyncio.Task[Step]) -> None:
        self._answers.discard(task)
        if task.cancelled():
            hear((), (), self._end or "cancelled")
            return
        error = task.exception()
        if error is None:
            last = task.result()
            hear(last.ids, last.odds, last.finish, last.cached, last.prompt)
        elif self._end is not None and not isinstance(error, errors.BadRequest):
            hear((), (), self._end)
        else:
            hear((), (), error if isinstance(error, Exception) else errors.InferenceFailed(str(error)))

    async def _answer(self, order: Order, sampling: TokenSampling, hear: Hear) -> Step:
        """The last step."""
        if not order.picture_tokens:
            body = [orjson.dumps(body_of(order, sampling, self._ends))]
            return await self._written("/v1/completions", body, order, hear)
        fields = orjson.dumps(chat_body_of(order, sampling, self._ends)).removesuffix(b"}")
        async with self._pictures.of(order) as (messages, leave):
            body = [fields, b',"messages":', messages, b"}"]
            del messages  # so that nothing but the body has them
            return await self._written("/v1/chat/completions", body, order, hear, leave)

    async def _written(
        self, path: str, body: list[bytes], order: Order, hear: Hear, leave: Callable[[], None] = lambda: None
    ) -> Step:
        """Until the first step is told, an answer that breaks is asked for again; then the body is needed no more, and
        `leave` is called."""
        reason = ""
        for pause in PAUSES_S:
            is_told = False
            await asyncio.sleep(pause)
            try:
                async with aclosing(self._steps(path, body, order.query.top_logprobs)) as steps:
                    async for step in steps:
                        if step.finish is not None:
                            return step
                        hear(step.ids, step.odds, None)
                        if not is_told:
                            body.clear()
                            leave()
                        is_told = True
            except (httpx.TransportError, Broken) as error:
                reason = str(error) or type(error).__name__
            await self._look(SOON_S)
            if is_told or self._end is not None:
                break
        raise errors.InferenceFailed(f"The engine has broken its answer off: {reason}")

    async def _steps(self, path: str, body: Sequence[bytes], top: int) -> AsyncGenerator[Step]:
        stream = TokenStream(top)
        headers = {**JSON, "content-length": f"{sum(map(len, body))}"}
        async with self._http.stream("POST", path, content=_slices(body), headers=headers) as answer:
            if answer.status_code != 200:
                raise refusal_of(answer.status_code, _error_in(await answer.aread()))
            async for data in answer.aiter_raw():
                self._heard_at = time.monotonic()
                step = stream.add(data)
                if step.ids:
                    yield step
        yield stream.end()


async def _slices(body: Sequence[bytes]) -> AsyncGenerator[bytes]:
    """What is sent as a whole is copied as a whole."""
    for part in body:
        for start in range(0, len(part), SLICE_BYTES):
            yield part[start : start + SLICE_BYTES]


def _error_in(body: bytes) -> JsonObject:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    error = answer.get("error", answer) if isinstance(answer, dict) else {}
    return error if isinstance(error, dict) else {"message": str(error)}
