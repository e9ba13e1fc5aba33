"""/docs: the OpenAPI document to read and to try, with a viewer that the program carries."""

import functools
import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.registry import ROOT, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import NotFound
from cmdop_appliance.web.pages import GUARDED

_HTML: Final = "text/html; charset=utf-8"
_SCRIPT: Final = "text/javascript; charset=utf-8"  # without charset the viewer fails to parse
# All that is served of the viewer's package, which has more.
_OF_THE_VIEWER: Final = {
    "swagger-ui-bundle.js": _SCRIPT,
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_START: Final = b"""\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#viewer",
  deepLinking: true,
  docExpansion: "list",
  validatorUrl: null, // it would send the document to its makers
});
"""
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>cmdop API</title>
<link rel="icon" href="{favicon-32x32.png}">
<link rel="stylesheet" href="{swagger-ui.css}">
<div id="viewer"></div>
<script src="{swagger-ui-bundle.js}"></script>
<script src="{start.js}"></script>
"""
_HEADERS: Final = GUARDED | {
    # The stylesheet has its icons as data: URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media: str

    @property
    def tag(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:16]

    def answer(self, caching: str) -> Response:
        headers = {"Content-Type": self.media, "Cache-Control": caching, "ETag": f'"{self.tag}"'}
        return Response(200, _HEADERS | headers, self.content)


@route(
    "GET",
    "/docs",
    scope=Scope.PUBLIC,
    answer=bytes,
    media="text/html",
    has_etag=True,
    plane=ROOT,
)
async def get_docs(call: Call[None, None]) -> Response:
    """This documentation, for people."""
    files = await trio.to_thread.run_sync(_files)
    return files[""].answer("no-cache")


@route(
    "GET",
    "/docs/:file",
    scope=Scope.PUBLIC,
    answer=bytes,
    media="*/*",
    has_etag=True,
    errors=(NotFound,),
    plane=ROOT,
)
async def get_docs_file(call: Call[None, None]) -> Response:
    """A part of the page at /docs."""
    files = await trio.to_thread.run_sync(_files)
    if (file := files.get(call.path["file"])) is None:
        raise NotFound("Not found")
    return file.answer("public, max-age=31536000, immutable")  # the page names its content


@functools.cache
def _files() -> dict[str, _File]:
    """The parts of the page by name, and under "" the page itself."""
    package = find_spec("flask_swagger_ui")  # found, not imported: that would load all of Flask
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(next(iter(package.submodule_search_locations))) / "dist"
    files = {
        name: _File((folder / name).read_bytes(), media) for name, media in _OF_THE_VIEWER.items()
    }
    files["start.js"] = _File(_START, _SCRIPT)
    page = _PAGE
    for name, file in files.items():
        page = page.replace(f"{{{name}}}", f"/docs/{name}?{file.tag}")
    return files | {"": _File(page.encode(), _HTML)}
