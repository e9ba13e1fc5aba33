"""The page at `/` while there is no dashboard: that the hub runs, and how to go on."""

from typing import Final

from quart import Response

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>cmdop</title>
<h1>The hub is running</h1>
<p>The dashboard is not part of this version. Use the command line on this machine:</p>
<pre>cmdop machines ls
cmdop machines add
cmdop exec MACHINE -- uname -a</pre>
<p>or the <a href="/docs">API</a> under <code>/api/v1</code> with the key in
<code>admin.key</code>.</p>
"""
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def start_page() -> Response:
    """The page."""
    return Response(_PAGE, content_type="text/html; charset=utf-8", headers=_HEADERS)
