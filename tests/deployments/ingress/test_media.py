"""Images and sounds from a real server on loopback, from which only these tests allow fetching."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster import errors
from cluster.settings import Settings
from deployments.ingress.media import Fetcher, MediaReader, addresses_of, decoded, is_public

PICTURE = bytes(range(256)) * 8


class Pictures(BaseHTTPRequestHandler):
    """The path says what the server does."""

    asked: list[str] = []
    ended = threading.Event()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        match self.path.partition("?")[0].split("/")[1:]:
            case ["to", *where]:
                self.answer(302, b"", Location="/".join(where))
            case ["status", code]:
                self.answer(int(code), b"no")
            case ["endless"]:
                self.send_response(200)
                self.end_headers()
                try:
                    while not self.ended.is_set():
                        self.wfile.write(PICTURE)
                except OSError:
                    return
            case ["silent"]:
                self.ended.wait(10)
            case ["packed"]:
                self.answer(200, b"x", **{"Content-Encoding": "gzip"})
            case ["long"]:
                self.answer(200, b"", **{"Content-Length": "999999999"})
            case _:
                self.answer(200, PICTURE)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    Pictures.ended.set()
    server.shutdown()
    server.server_close()


def fetch(url: str, most_bytes: int = 10_000, timeout_s: float = 5.0, **given: Any) -> bytes:
    given.setdefault("allows", lambda address: address == "127.0.0.1")
    return asyncio.run(Fetcher(most_bytes, timeout_s, **given).get(url))


def refusal(url: str, **given: Any) -> errors.ClusterError:
    with pytest.raises(errors.ClusterError) as raised:
        fetch(url, **given)
    return raised.value


# -------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2002:a00:1::",
        "2001:0:7f00:1::",
    ],
)
def test_addresses_that_only_some_can_reach_are_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0"]
)
def test_this_machine_is_not_fetched_from_whatever_it_is_called(port: int, host: str) -> None:
    asked = len(Pictures.asked)
    with pytest.raises(errors.BadRequest, match="not a public address|could not be fetched"):
        asyncio.run(Fetcher(10_000).get(f"http://{host}:{port}/a.png"))
    assert len(Pictures.asked) == asked


# --------------------------------------------------------------------------------------------------- fetching


def test_what_is_there_is_fetched(port: int) -> None:
    assert fetch(f"http://127.0.0.1:{port}/a.png?size=1#part") == PICTURE
    assert Pictures.asked[-1] == "/a.png?size=1"


def test_the_address_that_was_checked_is_the_one_connected_to(port: int) -> None:
    """A name that resolves to another address the second time is never resolved a second time."""
    seen: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        seen.append(host)
        return ["127.0.0.1"] if len(seen) == 1 else ["10.0.0.1"]

    assert fetch(f"http://pictures.test:{port}/a.png", resolve=resolve) == PICTURE
    assert seen == ["pictures.test"]


def test_one_private_address_among_public_ones_is_refused(port: int) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "10.0.0.1"]

    asked = len(Pictures.asked)
    assert "is not a public address" in refusal(f"http://pictures.test:{port}/", resolve=resolve).message
    assert len(Pictures.asked) == asked


def test_redirects_are_followed_three_times(port: int) -> None:
    assert fetch(f"http://127.0.0.1:{port}/to//to//to//a.png") == PICTURE
    assert "3 redirects" in refusal(f"http://127.0.0.1:{port}/to//to//to//to//a.png").message


def test_a_redirect_is_checked_like_the_first_address(port: int) -> None:
    for target in ("http://127.0.0.2/a", "//127.0.0.3/a", "http://[::1]/"):
        assert "is not a public address" in refusal(f"http://127.0.0.1:{port}/to/{target}").message
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:70/_"):
        assert "not of the kind http://host/path" in refusal(f"http://127.0.0.1:{port}/to/{target}").message


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://a/b", "http://", "http://user:secret@127.0.0.1/", "http://a:99999/", "http://ü/"],
)
def test_only_plain_http_addresses_are_fetched(url: str) -> None:
    assert "not of the kind http://host/path" in refusal(url).message


def test_more_than_is_allowed_is_not_read_to_its_end(port: int) -> None:
    for path in ("endless", "long"):
        error = refusal(f"http://127.0.0.1:{port}/{path}", most_bytes=5000)
        assert type(error) is errors.TooLarge and "5000 are allowed" in error.message
    assert type(refusal(f"http://127.0.0.1:{port}/a", most_bytes=len(PICTURE) - 1)) is errors.TooLarge
    assert fetch(f"http://127.0.0.1:{port}/a", most_bytes=len(PICTURE)) == PICTURE


def test_time_is_bounded(port: int) -> None:
    assert "did not come within 0.2 s" in refusal(f"http://127.0.0.1:{port}/silent", timeout_s=0.2).message


@pytest.mark.parametrize(
    ("path", "said"), [("status/404", "answered 404"), ("status/500", "answered 500"), ("packed", "came compressed")]
)
def test_what_is_no_picture_is_said_to_be_none(port: int, path: str, said: str) -> None:
    assert said in refusal(f"http://127.0.0.1:{port}/{path}?key=secret").message


def test_secrets_of_an_address_are_not_repeated(port: int) -> None:
    assert "secret" not in refusal(f"http://127.0.0.1:{port}/status/404?key=secret").message


def test_nobody_there_is_a_sentence() -> None:
    assert "could not be fetched" in refusal("http://127.0.0.1:1/a").message


def test_names_are_looked_up() -> None:
    assert set(asyncio.run(addresses_of("localhost", 80))) <= {"127.0.0.1", "::1"}


# -------------------------------------------------------------------------------------------------- data URIs


def data(kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(PICTURE).decode()}"


@pytest.mark.parametrize(
    "text",
    [
        data(),
        data("image/jpeg"),
        data("image/svg+xml;charset=utf-8"),
        data("application/octet-stream"),
        data(""),
        data().replace("data:", "DATA:").replace("base64", "BASE64"),
        base64.b64encode(PICTURE).decode(),
    ],
    ids=lambda text: text[:30],
)
def test_a_data_uri_is_its_bytes(text: str) -> None:
    assert decoded(text, "image", len(PICTURE), "Input 0") == PICTURE


@pytest.mark.parametrize(
    "text",
    ["", "data:image/png,abc", data("text/html"), data("audio/wav"), "data:image/png;base64,", "no base64!", "ä"],
)
def test_what_is_no_image_is_refused_by_its_place(text: str) -> None:
    with pytest.raises(errors.InvalidBody, match="^Input 3 ") as raised:
        decoded(text, "image", 10_000, "Input 3", "images")
    assert raised.value.param == "images"


def test_a_large_data_uri_is_not_decoded() -> None:
    with pytest.raises(errors.TooLarge, match="^Input 0 has 2048 bytes, 2047 are allowed"):
        decoded(data(), "image", len(PICTURE) - 1, "Input 0")


# ------------------------------------------------------------------------------------------------- a request's


def read(items: list[Any], fetcher: Fetcher | None = None, **settings: Any) -> list[Any]:
    return asyncio.run(MediaReader(Settings(**settings), fetcher).read(items))


def test_texts_pass_and_media_are_read_in_their_places(port: int) -> None:
    fetcher = Fetcher(10_000, allows=lambda address: True)
    url = f"http://127.0.0.1:{port}/a.png"
    items = ["a", {"image": url}, [1, 2], {"audio": data("audio/wav")}, {"image": data()}, {"image": url}]
    found = read(items, fetcher, fetch_urls=True)
    assert found == ["a", {"image": PICTURE}, [1, 2], {"audio": PICTURE}, {"image": PICTURE}, {"image": PICTURE}]


def test_urls_are_refused_unless_they_are_enabled() -> None:
    with pytest.raises(errors.BadRequest, match="Input 1 is a URL.*CLUSTER_FETCH_URLS=true"):
        read(["a", {"image": "https://example.org/a.png"}])


def test_the_input_that_cannot_be_fetched_is_named(port: int) -> None:
    fetcher = Fetcher(10_000, allows=lambda address: True)
    items = [{"image": f"http://127.0.0.1:{port}/{path}"} for path in ("a", "b", "status/404")]
    with pytest.raises(errors.BadRequest, match="^Input 2: .*answered 404") as raised:
        read(items, fetcher, fetch_urls=True)
    assert raised.value.param == "input"


def test_what_one_request_may_have_fetched_is_bounded(port: int) -> None:
    fetcher = Fetcher(10_000, allows=lambda address: True)
    items = [{"image": f"http://127.0.0.1:{port}/a"}] * 5
    with pytest.raises(errors.TooLarge, match="more than 8192 bytes"):
        read(items, fetcher, fetch_urls=True, max_body_bytes=4 * len(PICTURE))
