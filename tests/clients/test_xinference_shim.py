"""Our `xinference.client` under the classes of LlamaIndex and LangChain as they are on the index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.clients.packages import answer_of, installed
from tests.clients.test_language_clients import ANSWER, QUESTION
from tests.live import ROOT, LiveCluster
from tests.xinference_command import PACKAGES

SOURCES = ROOT / "clients" / "xinference"
LLAMA_INDEX = "llama-index-llms-xinference==0.6.0"
LANGCHAIN = "langchain-xinference==0.1.2"
#: There is no room for it, which the server says with the number of its tokens: it has read every message as it was.
CHAT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "word " * 9000},
    {"role": "assistant", "content": "So many words."},
    {"role": "user", "content": "What is the capital of France?"},
]
BEGINNING = "The capital of France is"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shim")
    # Building leaves files among the sources.
    sources = shutil.copytree(SOURCES, folder / "sources")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", str(folder), str(sources)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def ours(wheel: Path) -> Path:
    """A folder as pip leaves it, with nothing but our distribution."""
    folder = wheel.parent / "installed"
    ZipFile(wheel).extractall(folder)
    return folder


def test_the_distribution_is_one_module(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        about = [name for name in names if ".dist-info/" in name]
        assert [name for name in names if name not in about] == ["xinference/client.py"]
        assert any(name.endswith("/LICENSE") for name in about)
        (metadata,) = (archive.read(name).decode() for name in about if name.endswith("/METADATA"))
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert needs == ["Requires-Dist: xinference-client>=4.1"]


def imported_from(path: Sequence[Path]) -> Path:
    """The file that `import xinference.client` takes with this path, as Python looks for it."""
    package = PathFinder.find_spec("xinference", [str(folder) for folder in path])
    module = PathFinder.find_spec("xinference.client", list(package.submodule_search_locations))
    return Path(module.origin)


def test_a_real_xinference_wins(ours: Path, tmp_path: Path) -> None:
    real = installed(*PACKAGES, dependencies=False)
    assert imported_from([ours]) == ours / "xinference" / "client.py"
    for path in ([ours, real], [real, ours]):
        assert imported_from(path) == real / "xinference" / "client" / "__init__.py"
    # Both in one folder, as in a virtual environment.
    both = tmp_path / "xinference"
    both.mkdir()
    for entry in (*(real / "xinference").iterdir(), ours / "xinference" / "client.py"):
        # No file has the name of another: this would fail.
        (both / entry.name).symlink_to(entry)
    assert imported_from([tmp_path]) == both / "client" / "__init__.py"
    program = "import json, xinference.client as c; print(json.dumps([c.__file__, c.RESTfulClient.__module__]))"
    file, module = answer_of(program, PACKAGES, dependencies=False, folders=[tmp_path])
    assert Path(file) == both / "client" / "__init__.py" and module == "xinference.client.restful.restful_client"


TALK = """
import json, sys
import xinference.client
from llama_index.core.llms import ChatMessage
from llama_index.llms.xinference import Xinference

url, uid, question, chat = sys.argv[1:]
model = Xinference(model_uid=uid, endpoint=url, temperature=0.0)
messages = [ChatMessage(**message) for message in json.loads(chat)]


def refusal(ask):
    try:
        return [part for part in ask(messages)]
    except RuntimeError as error:
        return str(error)


parts = list(model.stream_complete(question))
print(json.dumps({
    "file": xinference.client.__file__,
    "context": [model.metadata.context_window, model.metadata.num_output],
    "complete": [model.complete(question).text, "".join(part.delta for part in parts), parts[-1].text],
    "parts": len(parts),
    "chat": [
        model.chat(messages[-1:]).message.content,
        "".join(part.delta for part in model.stream_chat(messages[-1:])),
    ],
    "refusals": [refusal(model.chat), refusal(model.stream_chat)],
}))
"""


def test_the_class_of_llama_index_talks(live: LiveCluster, talker: str, ours: Path) -> None:
    refused = live.post("/v1/chat/completions", {"model": talker, "messages": CHAT})
    assert refused.status_code == 400
    chat = json.dumps(CHAT)
    said = answer_of(TALK, LLAMA_INDEX, live.url, talker, QUESTION, chat, dependencies=False, folders=[ours])
    assert said["file"] == str(ours / "xinference" / "client.py")
    assert said["complete"] == [ANSWER] * 3 and said["parts"] > 3
    assert said["chat"] == [ANSWER] * 2
    assert all(refused.json()["error"]["message"] in refusal for refusal in said["refusals"])
    assert said["context"] == [8192 // 2.5, 2048]


CHAIN = """
import asyncio, json, sys
import xinference.client
from langchain_community.llms import Xinference as Community
from langchain_xinference import ChatXinference, Xinference

url, uid, question, beginning = sys.argv[1:]
said = []
for kind in (Community, Xinference):
    exact = {"temperature": 0, "max_tokens": 3}
    said.append(kind(server_url=url, model_uid=uid, **exact).invoke(beginning))
    said.append("".join(kind(server_url=url, model_uid=uid, stream=True, **exact).stream(beginning)))
chat = ChatXinference(server_url=url, model_uid=uid, temperature=0)
parts = [part.content for part in chat.stream(question)]
print(json.dumps({
    "file": xinference.client.__file__,
    "completed": said,
    "chat": [chat.invoke(question).content, "".join(parts)],
    "parts": len(parts),
}))
"""


def test_the_classes_of_langchain_talk(live: LiveCluster, talker: str, ours: Path) -> None:
    said = answer_of(CHAIN, LANGCHAIN, live.url, talker, QUESTION, BEGINNING, dependencies=False, folders=[ours])
    assert said["file"] == str(ours / "xinference" / "client.py")
    assert len(set(said["completed"])) == 1 and said["completed"][0].startswith(" Paris")
    assert said["chat"] == [ANSWER] * 2 and said["parts"] > 3
