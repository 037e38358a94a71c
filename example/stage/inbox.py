"""Pages that show what the mail server has got: ``python -m stage.inbox DIRECTORY PORT``.

For `demo.py --keep`, where a person signs up and needs the link. The directory is read
anew for each page.
"""

from __future__ import annotations

import email
import email.policy
import re
import sys
from datetime import datetime
from email.message import EmailMessage
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SHOWN = 200

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}
<title>{title}</title>
<link rel="stylesheet" href="/style.css">
<body>{body}</body>
</html>"""

STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.2rem 4rem;
  background: #f6f1e7; color: #212c3a; font: 16px/1.5 system-ui, sans-serif }
h1 { font: 600 2rem/1.2 Georgia, serif; margin: 0 0 .3rem }
h2 { font: 600 1.1rem Georgia, serif; margin: 1.8rem 0 .6rem }
a { color: #b02a22 }
.soft { color: #5d6570; margin: 0 0 1.4rem }
.sheet { background: #fffdf8; border: 1px solid #ddd6c8; border-radius: 6px; overflow: hidden }
table { width: 100%; border-collapse: collapse }
td { padding: .65rem 1rem; border-bottom: 1px solid #ece5d6 }
tr:last-child td { border: 0 }
.to, .at { color: #5d6570; white-space: nowrap; font-variant-numeric: tabular-nums }
iframe { display: block; width: 100%; height: 36rem; border: 0 }
pre { margin: 0; padding: 1.4rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 15px/1.6 ui-monospace, monospace }
"""


class Inbox(BaseHTTPRequestHandler):
    """``/`` lists the mails, ``/N/`` shows one, ``/N/html`` and ``/N/K`` are its parts."""

    directory: Path

    def do_GET(self) -> None:
        if self.path == "/style.css":
            self._send(STYLE.encode(), "text/css")
            return
        match = re.fullmatch(r"/(?:(\d{5})/(html|\d+)?)?", self.path)
        if match is None or (match[1] and not self._path(match[1]).exists()):
            self.send_error(404)
        elif match[1] is None:
            self._page("The mail that arrived", self._list(), refresh=3)
        elif match[2] is None:
            mail = _read(self._path(match[1]))
            self._page(str(mail["Subject"]), _letter(mail))
        else:
            self._part(_read(self._path(match[1])), match[2])

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def _path(self, number: str) -> Path:
        return self.directory / f"{number}.eml"

    def _list(self) -> str:
        paths = sorted(self.directory.glob("*.eml"), reverse=True)
        rows = "".join(_row(path) for path in paths[:SHOWN])
        shown = f", the newest {SHOWN} of them below" if len(paths) > SHOWN else ""
        return (
            f"<h1>The mail that arrived</h1><p class=soft>{len(paths)} mails at the mail server"
            f"{shown}. The newest is first.</p><div class=sheet><table>{rows}</table></div>"
        )

    def _part(self, mail: EmailMessage, which: str) -> None:
        if which == "html":
            part = mail.get_body(("html",))
        else:
            part = dict(enumerate(mail.iter_attachments())).get(int(which))
        if part is None:
            self.send_error(404)
            return
        charset = part.get_content_charset()
        kind = part.get_content_type() + (f"; charset={charset}" if charset else "")
        content = part.get_payload(decode=True)
        if which == "html":  # inside of the frame; a link in it is to lead out
            content = content.replace(b"<head>", b"<head><base target=_top>", 1)
        self._send(content, kind)

    def _page(self, title: str, body: str, *, refresh: int = 0) -> None:
        tag = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
        page = PAGE.format(title=escape(title), body=body, refresh=tag)
        self._send(page.encode(), "text/html; charset=utf-8")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        # What arrived is others' content: it runs no scripts here.
        self.send_header("Content-Security-Policy", "script-src 'none'")
        self.end_headers()
        self.wfile.write(content)


def _read(path: Path) -> EmailMessage:
    return email.message_from_bytes(path.read_bytes(), policy=email.policy.default)


def _row(path: Path) -> str:
    mail = _read(path)
    arrived = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    return (
        f"<tr><td class=at>{arrived:%H:%M:%S}"
        f"<td><a href='/{path.stem}/'>{escape(str(mail['Subject']))}</a>"
        f"<td class=to>{escape(str(mail['To']))}</tr>"
    )


def _letter(mail: EmailMessage) -> str:
    text, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
    files = "".join(
        f"<p><a href='{number}'>{escape(str(part.get_filename()))}</a></p>"
        for number, part in enumerate(mail.iter_attachments())
    )
    return (
        f"<p><a href='/'>All mail</a></p><h1>{escape(str(mail['Subject']))}</h1>"
        f"<p class=soft>From {escape(str(mail['From']))} to {escape(str(mail['To']))}<br>"
        f"{escape(str(mail['Date']))}<br>{escape(str(mail['Message-ID']))}</p>{files}"
        + ("<div class=sheet><iframe src='html' title='HTML'></iframe></div>" if html else "")
        + (f"<h2>As text</h2><div class=sheet><pre>{_linked(text)}</pre></div>" if text else "")
    )


def _linked(part: EmailMessage) -> str:
    return re.sub(r"(https?://\S+)", r"<a href='\1'>\1</a>", escape(part.get_content()))


if __name__ == "__main__":
    Inbox.directory = Path(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Inbox).serve_forever()
