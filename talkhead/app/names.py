"""Which names a server answers to, and to whose pages.

A page of any site can send requests to this machine and, where a framework lets it (gradio does, but at ``localhost``),
read what is answered. Its browser says whose it is: `Origin` is then another than `Host`. Such a page can also let its
own name lead to this machine once it is loaded (DNS rebinding): a browser then takes it for the server's own page, and
both agree. What it cannot do is ask for the server by another name than its site's. So requests of other sites' pages,
and by a name that nobody gave to this server, are refused; an address is no name.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def own_names(names: Iterable[str] = (), host: str = "localhost") -> frozenset[str]:
    """Return the names that a server answers to.

    Args:
        names: further ones, such as that of a proxy before it.
        host: where it listens; an address gives no name.

    Returns:
        These, ``localhost`` and this machine's own, in lower case.

    Raises:
        ValueError: if one is no host name.
    """
    names = [name.lower() for name in ([names] if isinstance(names, str) else names)]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"names must be host names such as face.example; got {name!r}, leave out the scheme, the port and "
                "the path (and write other letters as xn--...)"
            )
    machine = socket.gethostname().lower()
    short = machine.partition(".")[0]
    return frozenset({"localhost", machine, short, f"{short}.local", host.lower(), *names})


def is_own_page(headers: Any) -> bool:
    """Tell whether a browser's page came from this server; what is no browser sends no Origin."""
    if headers.get("origin") is None:
        return True
    try:
        page, own = urlsplit(headers["origin"]), urlsplit(f"//{headers.get('host', '')}")
        usual = {"http": 80, "https": 443}.get(page.scheme)
        return bool(page.hostname) and (page.hostname, page.port or usual) == (own.hostname, own.port or usual)
    except ValueError:  # a port that is no number
        return False


class OwnPagesOnly:
    """ASGI middleware that refuses other sites' pages, and who asks for the server by a name that is not its own.

    An address is no name; what is no browser may send neither Host nor Origin.

    Args:
        app: the server.
        names: its own, see `own_names`.
    """

    def __init__(self, app: Any, names: frozenset[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or refuse with HTTP's 403 and a sentence."""
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        said = self._refusal(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else ""
        if not said:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP's 403
        else:
            await PlainTextResponse(f"{said}.\n", 403)(scope, receive, send)

    def _refusal(self, headers: Any) -> str:
        """Return why a request is refused; empty where it is not."""
        if not self._answers_to(headers.get("host")):
            return "This server does not go by the name that it was asked for; if it should, start it with --names NAME"
        if not is_own_page(headers):
            return "A page of another site asked; if it came by a proxy, let the proxy pass Host on as it was"
        return ""

    def _answers_to(self, asked: str | None) -> bool:
        if asked is None:
            return True
        try:
            name = (urlsplit(f"//{asked}").hostname or "").removesuffix(".")
            if name in self.names or name.endswith(".localhost"):
                return True
            return bool(ipaddress.ip_address(name))
        except ValueError:  # neither a name of its own nor an address, or no host at all
            return False
