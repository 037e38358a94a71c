"""As much of a browser as the scenes need: cookies, links, and forms with their hidden fields."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, Request, build_opener

from stage.processes import DemoFailed

TIMEOUT_S = 30


@dataclass
class Form:
    """A form on a page, with the values that it already has."""

    action: str
    method: str
    values: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    """Collects the forms of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get").lower()))
        elif self.forms and "name" in given and tag in {"input", "textarea"}:
            chosen = given.get("type") not in {"checkbox", "radio"} or "checked" in given
            if chosen:
                self.forms[-1].values[given["name"]] = given.get("value", "on")


class Browser:
    """One visitor of the shop at ``site``."""

    def __init__(self, site: str) -> None:
        self.url = site
        self.page = ""
        self.took_s = 0.0
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()))

    def open(self, address: str) -> None:
        """Go to an address; raise DemoFailed where the server answers with an error."""
        self._go(Request(urljoin(self.url, address)))

    def submit(self, **values: str) -> None:
        """Fill in and send the form that has these fields; without fields, the page's last."""
        forms = _Forms()
        forms.feed(self.page)
        fitting = [form for form in forms.forms if values.keys() <= form.values.keys()]
        if not fitting:
            raise DemoFailed(f"{self.url} has no form with {', '.join(values) or 'a button'}.")
        form = fitting[-1]
        data = urlencode({**form.values, **values})
        address = urljoin(self.url, form.action or self.url)
        if form.method == "get":
            self._go(Request(f"{address}?{data}"))
        else:
            self._go(Request(address, data.encode(), {"Referer": self.url}))

    def expect(self, text: str) -> None:
        """Raise DemoFailed if the page does not say so."""
        if text not in self.page:
            raise DemoFailed(f"{self.url} does not say “{text}”.")

    def _go(self, request: Request) -> None:
        started = time.monotonic()
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                self.url, self.page = answer.url, answer.read().decode("utf-8", "replace")
        except HTTPError as error:
            raise DemoFailed(f"{request.full_url} answered {error.code}.") from error
        except (URLError, OSError) as error:
            raise DemoFailed(f"{request.full_url} did not answer: {error}") from error
        self.took_s = time.monotonic() - started
