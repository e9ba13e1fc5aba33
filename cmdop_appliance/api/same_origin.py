"""Whether a request comes from a page that the hub has served: trust.md, row 13.

A browser sends the cookie of its sign-in whichever page asks, so a request with it must show that
the page is ours. Whoever shows a key in a header is not judged so: no page of others has one.

`exchange.identify` judges the requests that are made over HTTP. What becomes a websocket is judged
by `require_own_socket` first, then by `exchange.respond`, which identifies by cookie or by header.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cmdop_appliance.errors import CrossOrigin, WrongHost
from cmdop_appliance.hub.connection import Asked

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HARMLESS: Final = ("GET", "HEAD")
_OURS: Final = ("same-origin", "none")  # of Sec-Fetch-Site; none: who sits there asked by hand


def require_own_page(method: str, headers: Mapping[str, str], public_host: str) -> None:
    """Pass a request that no page of another origin can have made.

    That is Go's CrossOriginProtection, and stricter: a browser that does not send Sec-Fetch-Site,
    as over plain HTTP in a LAN, must send its Origin with whatever changes anything.
    `public_host` is that of `[server] public_url`, or "".

    Raises:
        CrossOrigin, WrongHost
    """
    host = headers.get("host", "")
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None and method not in _HARMLESS:
        raise CrossOrigin(
            "nothing shows that a page of the hub asks",
            hint="a browser sends Sec-Fetch-Site or Origin; a program sends a key instead",
        )
    if site not in (None, *_OURS) or (
        site is None and origin is not None and not is_own(origin, host)
    ):
        raise _cross_origin()
    _require_known(host, public_host)


def require_own_socket(asked: Asked, public_host: str) -> None:
    """Pass a request for a websocket that no page of another origin can have made.

    Who sends no Authorization has a cookie or a ticket, and so is a browser, which sends its one
    Origin (RFC 6455 §4.1). Nothing is said here of whether it shows anything at all.

    Raises:
        CrossOrigin, WrongHost
    """
    names = [name for name, _ in asked.headers]
    origins = [value for name, value in asked.headers if name == "origin"]
    if len(origins) > 1 or not all(is_own(origin, asked.host) for origin in origins):
        raise _cross_origin()
    if "authorization" in names:
        return
    if "cookie" in names and not origins:
        raise _cross_origin()
    if origins:
        _require_known(asked.host, public_host)


def is_own(origin: str, host: str) -> bool:
    """True: a page of this origin was served by whoever is asked for as `host`."""
    page = _split(origin)
    asked = page and _split(f"{page.scheme}://{host}")
    if page is None or asked is None or page.username is not None:
        return False
    is_whole = origin.lower() == f"{page.scheme}://{page.netloc}".lower()
    return is_whole and _authority(page) == _authority(asked)


def _require_known(host: str, public_host: str) -> None:
    """Pass a name by which browsers may ask: no foreign page can be served under it.

    Raises:
        WrongHost: it is another one, and the hub has a public URL.
    """
    if not public_host:
        return
    asked = _split(f"http://{host}")
    name = "" if asked is None else asked.hostname or ""
    if name not in (public_host, "localhost") and not _is_address(name):
        raise WrongHost(
            f"the hub is not asked for as {name or 'that'} by browsers",
            hint=f"open it as {public_host}, or set [server] public_url to the name it has now",
        )


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _cross_origin() -> CrossOrigin:
    return CrossOrigin(
        "a page of another origin has no business here",
        hint="serve it at the address of the hub; a proxy must pass the Host header on",
    )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is looked at now, and raises
    except ValueError:
        return None
    return parts if parts.scheme in _DEFAULT_PORTS and parts.hostname else None


def _authority(url: SplitResult) -> tuple[str | None, int]:
    return url.hostname, url.port or _DEFAULT_PORTS[url.scheme]
