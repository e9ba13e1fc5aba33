"""The dashboard's files: one page for every address that it has, and what that page loads."""

import hashlib
import re
import secrets
from pathlib import Path
from typing import Final

import trio
from quart import Response, request

from cmdop_appliance.api.cookies import cookie_in
from cmdop_appliance.errors import NotFound

# Addresses that people bookmark and reload. The page itself decides what it shows at which.
PAGES: Final = (
    "/",
    "/sign-in",
    "/machines/<id>",
    "/run",
    "/commands",
    "/commands/<id>",
    "/terminals",
    "/terminals/<id>",
    "/coding",
    "/files",
    "/schedules",
    "/schedules/<id>",
    "/webhooks",
    "/webhooks/<id>",
    "/keys",
    "/audit",
    "/settings",
)
_STATIC: Final = Path(__file__).with_name("static")  # what scripts/build-web makes
_NONCE: Final = b"{{nonce}}"  # where the page wants it
# Where it wants to know whether its browser has a cookie, which no page can read: whoever has none
# is nobody, and need not ask.
_COOKIE: Final = b"{{cookie}}"
_NOT_BUILT: Final = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>cmdop</title>
<h1>The hub is running</h1>
<p>The dashboard is not built: run <code>scripts/build-web</code> and load this page again.
The command line on this machine does all that it does:</p>
<pre>cmdop machines ls
cmdop machines add
cmdop exec MACHINE -- uname -a</pre>
<p>So does the <a href="/docs">API</a> under <code>/api/v1</code> with the key in
<code>admin.key</code>. There is also <a href="/help">documentation</a>.</p>
"""
HTML: Final = "text/html; charset=utf-8"
# Of nothing else a page of ours may be, or do.
GUARDED: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(),"
    " payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MEDIA: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
_FILE: Final = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_NAMED_BY_CONTENT: Final = re.compile(r".*-[A-Z0-9]{8}\.\w+")  # as esbuild does it
_FOREVER: Final = "public, max-age=31536000, immutable"


async def page(**_: str) -> Response:
    """The dashboard; without one a page that says how to build it."""
    content = await trio.to_thread.run_sync(_read, "index.html")
    nonce = secrets.token_urlsafe(16)
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": _policy(nonce)}
    if content is None:
        return Response(_NOT_BUILT, content_type=HTML, headers=GUARDED | headers)
    shown = {"cookie": request.headers.get("Cookie", "")}
    has_cookie = any(cookie_in(shown, is_secure=each) for each in (True, False))
    content = content.replace(_NONCE, nonce.encode())
    content = content.replace(_COOKIE, b"yes" if has_cookie else b"no")
    return Response(content, content_type=HTML, headers=GUARDED | headers)


async def asset(file: str) -> Response:
    """A part of the dashboard, packed where the browser takes that.

    Raises:
        NotFound: it has none of this name.
    """
    media = _MEDIA.get(Path(file).suffix)
    if media is None or not _FILE.fullmatch(file):
        raise NotFound("Not found")
    packed = request.accept_encodings["gzip"] > 0
    content = await trio.to_thread.run_sync(_read, f"assets/{file}.gz") if packed else None
    encoding = {} if content is None else {"Content-Encoding": "gzip"}
    if content is None:
        content = await trio.to_thread.run_sync(_read, f"assets/{file}")
    if content is None:
        raise NotFound("Not found")
    tag = hashlib.sha256(content).hexdigest()[:16]
    caching = _FOREVER if _NAMED_BY_CONTENT.fullmatch(file) else "no-cache"
    headers = {"Cache-Control": caching, "ETag": f'"{tag}"', "Vary": "Accept-Encoding"}
    if request.if_none_match.contains_weak(tag):
        return Response(b"", status=304, headers=GUARDED | headers)
    return Response(content, content_type=media, headers=GUARDED | headers | encoding)


def _policy(nonce: str) -> str:
    """What the page may load and do: from here, and no script that it did not bring."""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}';"
        " img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self';"
        " base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _read(name: str) -> bytes | None:
    try:
        return (_STATIC / name).read_bytes()
    except FileNotFoundError:
        return None
