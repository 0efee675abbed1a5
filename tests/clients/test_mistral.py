"""Mistral's own client, old and new, reads documents: given as they are, by file and by signed address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.packages import answer_of
from tests.live import LiveCluster
from tests.read_pages import document, picture, reading

OLD, NEW = "mistralai==1.12.4", "mistralai==3.7.0"

#: As its documentation shows it; the new one has moved its client and sends more fields.
PROGRAM = """
import base64, json, sys
try:
    from mistralai.client import Mistral
    from mistralai.client.errors import HTTPValidationError, MistralError
except ImportError:
    from mistralai import Mistral
    from mistralai.models import HTTPValidationError, MistralError

url, model, pdf, png = sys.argv[1:]
said = {}
with Mistral(api_key="none", server_url=url) as client:
    def read(**fields):
        answer = client.ocr.process(model=model, **fields)
        return [page.markdown for page in answer.pages]

    uri = "data:application/pdf;base64," + base64.b64encode(open(pdf, "rb").read()).decode()
    whole = {"type": "document_url", "document_url": uri}
    said["document"] = read(document=whole)
    said["pages"] = read(document=whole, pages=[1], include_image_base64=True, image_limit=3)
    said["tables"] = read(document=whole, pages=[0], table_format="html", extract_header=True, extract_footer=False)
    uri = "data:image/png;base64," + base64.b64encode(open(png, "rb").read()).decode()
    said["picture"] = read(document={"type": "image_url", "image_url": uri})

    file = client.files.upload(file={"file_name": "a.pdf", "content": open(pdf, "rb")}, purpose="ocr")
    said["name"], said["size"] = file.filename, file.size_bytes
    said["file"] = read(document={"type": "file", "file_id": file.id})
    signed = client.files.get_signed_url(file_id=file.id, expiry=1)
    said["signed"] = read(document={"type": "document_url", "document_url": signed.url})
    said["retrieved"] = client.files.retrieve(file_id=file.id).filename
    said["listed"] = file.id in [row.id for row in client.files.list().data]
    said["content"] = client.files.download(file_id=file.id).read()[:4].decode()
    said["deleted"] = client.files.delete(file_id=file.id).deleted
    try:
        client.files.retrieve(file_id=file.id)
    except MistralError as error:
        said["gone"] = error.status_code
    try:
        read(document=whole, pages=[7])
    except HTTPValidationError as error:
        (problem,) = error.data.detail
        said["wrong"] = [problem.loc, problem.msg]
    try:
        client.ocr.process(model="nowhere", document=whole)
    except MistralError as error:
        said["unknown"] = [error.status_code, json.loads(error.body)["message"]]
    if BLOCKS:
        answer = client.ocr.process(model=model, document=whole, confidence_scores_granularity="word")
        page = answer.pages[0]
        said["blocks"] = [[block.type, block.content] for block in page.blocks]
        said["scores"] = [word.text for word in page.confidence_scores.word_confidence_scores]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def reader(live: LiveCluster) -> Iterator[str]:
    with reading(live, "mistral-reader") as uid:
        yield uid


@pytest.mark.slow
@pytest.mark.parametrize("package", [OLD, NEW])
def test_documents_are_read(live: LiveCluster, reader: str, tmp_path: Path, package: str) -> None:
    pdf, png = tmp_path / "a.pdf", tmp_path / "a.png"
    pdf.write_bytes(document("one more", "two"))
    png.write_bytes(picture("three"))
    program = PROGRAM.replace("BLOCKS", str(package == NEW))
    said = answer_of(program, package, live.url, reader, str(pdf), str(png))
    assert said.pop("unknown")[0] == 404
    loc, message = said.pop("wrong")
    assert loc == ["body", "pages"] and "pages asks for 8" in message
    if package == NEW:
        assert said.pop("blocks") == [["text", "one more"]] and said.pop("scores") == ["one", "more"]
    assert said == {
        "document": ["one more", "two"],
        "pages": ["two"],
        "tables": ["one more"],
        "picture": ["three"],
        "name": "a.pdf",
        "size": len(pdf.read_bytes()),
        "file": ["one more", "two"],
        "signed": ["one more", "two"],
        "retrieved": "a.pdf",
        "listed": True,
        "content": "%PDF",
        "deleted": True,
        "gone": 404,
    }
