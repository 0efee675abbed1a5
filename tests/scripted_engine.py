"""A stand-in for vLLM: an OpenAI server on a Unix socket and, in a process of its own, the core that makes the tokens.

    python scripted_engine.py --script FILE --uds SOCKET ...

The file says what happens, and is read anew with each request; see `Script`. An answer is the prompt said again and
again. Only the standard library, since it stands for a program of another environment.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: vLLM needs five seconds to end by itself when its core is gone.
ENDING_S = 1.0


class Script(dict[str, Any]):
    """What it may say:

    `load`: "silent", "memory" or "exit". `step_s`: the time of each token. `refuse`: with these words. `ids`: what is
    answered. `at`: before which token of an answer something happens, to so many answers as `once` says. `do`: what
    happens. "core" and "server" are killed, "exit" is one with 0, "hang" stops the server, "cut" is the connection's
    end, "end" that of the stream without its own, "error" is one of the engine.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(json.loads(file.read_text()) if file.exists() else {})


class Server:
    def __init__(self, script: Path) -> None:
        self._script = script
        self._ask = asyncio.Lock()
        self._done = 0
        self.is_well = True
        self.core: asyncio.subprocess.Process

    async def start(self, uds: str) -> None:
        load = Script(self._script).get("load")
        print("INFO 11-30 12:00:00 [api_server.py:1] it is loaded", flush=True)
        self.core = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--core",
            f"--script={self._script}",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if load == "silent":
            await asyncio.sleep(3600)
        if load == "memory":
            print("(Core pid=7) ERROR 11-30 12:00:01 [core.py:9] torch.OutOfMemoryError: CUDA out of memory. Tried to")
        if load in ("memory", "exit"):
            print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
            os._exit(0)
        watching = asyncio.ensure_future(self._watch())
        server = await asyncio.start_unix_server(self._serve, uds)
        async with server:
            await asyncio.gather(server.serve_forever(), watching)

    async def _watch(self) -> None:
        await self.core.wait()
        self.is_well = False
        print("(APIServer pid=1) ERROR 11-30 12:00:02 [core.py:9] RuntimeError: the core is dead", flush=True)
        await asyncio.sleep(ENDING_S)
        os._exit(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                names = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
                body = await reader.readexactly(int(names.get("Content-Length", names.get("content-length", 0))))
                if head.startswith(b"GET /health"):
                    _send(writer, 200 if self.is_well else 503, b"")
                else:
                    await self._answer(json.loads(body), writer, head.startswith(b"POST /v1/chat/"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter, is_chat: bool) -> None:
        script = Script(self._script)
        with open(self._script.with_suffix(".asked"), "a") as asked:
            asked.write(json.dumps(body) + "\n")
        if script.get("refuse"):
            _send(writer, 400, json.dumps({"error": {"message": script["refuse"], "code": 400}}).encode())
            return
        happens_at = script.get("at") if self._done < script.get("once", 10**9) else None
        self._done += happens_at is not None
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        usage: dict[str, Any] = {"prompt_tokens_details": {"cached_tokens": 2}}
        if is_chat:
            prompt, most = script["ids"], body.get("max_completion_tokens", 3)
            usage["prompt_tokens"] = 40
            delta = {"role": "assistant", "content": ""}
            _event(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "prompt_token_ids": [1]})
        else:
            prompt, most = script.get("ids") or body["prompt"], body["max_tokens"]
        for place in range(most):
            if place == happens_at and await self._happen(script["do"], writer):
                return
            try:
                await self._step(script.get("step_s", 0.0))
            except ConnectionError:
                _event(writer, {"error": {"message": "EngineCore encountered an issue.", "code": 500}})
                break
            ids = [prompt[place % len(prompt)]]
            choice = {"index": 0, "text": "", "token_ids": ids, "logprobs": None, "finish_reason": None}
            if is_chat:
                choice["delta"] = {"content": choice.pop("text")}
            if is_chat and body.get("logprobs"):
                rows = [{"token": f"token_id:{id}", "logprob": -0.5, "bytes": None} for id in (ids[0], 7)]
                choice["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}]}
            elif body.get("logprobs") is not None:
                tops = {f"token_id:{ids[0]}": -0.5, "token_id:7": -1.5}
                choice["logprobs"] = {
                    "tokens": [f"token_id:{ids[0]}"],
                    "token_logprobs": [-0.5],
                    "top_logprobs": [tops],
                }
            if place == most - 1:
                choice["finish_reason"] = "length"
            _event(writer, {"choices": [choice]})
            await writer.drain()
        else:
            _event(writer, {"choices": [], "usage": usage})
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")

    async def _step(self, seconds: float) -> None:
        """The core makes one token at a time."""
        async with self._ask:
            assert self.core.stdin is not None and self.core.stdout is not None
            self.core.stdin.write(f"{seconds}\n".encode())
            await self.core.stdin.drain()
            if not await self.core.stdout.readline():
                raise ConnectionError("the core is gone")

    async def _happen(self, what: str, writer: asyncio.StreamWriter) -> bool:
        """Whether the answer is over."""
        await writer.drain()
        if what == "core":
            self.core.kill()
        elif what == "server":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "exit":
            os._exit(0)
        elif what == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif what == "cut":
            writer.transport.abort()
        elif what == "error":
            _event(writer, {"error": {"message": "out of luck", "code": 500}})
        if what in ("end", "error"):
            _chunk(writer, b"data: [DONE]\n\n")
            _chunk(writer, b"")
        return what in ("cut", "end", "error")


def _send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(f"HTTP/1.1 {status} .\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


def _event(writer: asyncio.StreamWriter, event: Any) -> None:
    _chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def core() -> None:
    """Like vLLM's, it goes on when its server is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        time.sleep(float(line))
        print("token", flush=True)
    time.sleep(3600)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--core", action="store_true")
    words.add_argument("--script", type=Path)
    words.add_argument("--uds")
    said, _ = words.parse_known_args()
    if said.core:
        core()
    else:
        said.script.with_suffix(".words").write_text(json.dumps(sys.argv[1:]))
        asyncio.run(Server(said.script).start(said.uds))


if __name__ == "__main__":
    main()
