"""What the demo shows: colours and a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stage.mail import Arrival

PLAIN_WIDTH = 110


class Screen:
    """Prints the demo's course; safe to use from the thread that reads the mail."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = PLAIN_WIDTH
        self._lock = threading.Lock()
        self._scenes = 0
        self._notices = 0
        self._shows_mail = True
        self._progress = Progress(
            TextColumn("   [cyan]✉[/] {task.description}"),
            BarColumn(bar_width=36, complete_style="red", finished_style="green"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("weekly notice", start=False, visible=False)

    def head(self, title: str, detail: str) -> None:
        """Print what this is."""
        self._console.print(f"\n[bold red]{escape(title)}[/]  [dim]{escape(detail)}[/]\n")

    def scene(self, title: str) -> None:
        """Open the next scene."""
        self._scenes += 1
        self._console.print(f"\n[bold]{self._scenes}  {escape(title)}[/]")

    def page(self, request: str, took_s: float) -> None:
        """Tell how long the visitor waited for a page."""
        self.done(f"{request} answered in {took_s * 1000:.0f} ms")

    def done(self, text: str) -> None:
        """Tell one thing that was done."""
        self._console.print(f"   [green]✓[/] {escape(text)}", soft_wrap=True)

    def mail(self, arrival: Arrival) -> None:
        """Show a mail as it arrives; those of a mailing as a bar, or every hundredth."""
        if not self._shows_mail:
            return
        if not arrival.mail.unsubscribe:
            self._show(arrival)
            return
        with self._lock:
            self._notices += 1
            self._progress.update(self._task, completed=self._notices)
            if not self._console.is_terminal and self._notices % 100 == 0:
                self._console.print(f"   ✉ {self._notices} notices have arrived")

    def _show(self, arrival: Arrival) -> None:
        mail = arrival.mail
        time = datetime.fromtimestamp(arrival.moment).astimezone().strftime("%H:%M:%S.%f")[:-3]
        parts = ["text", *(["HTML"] if mail.html else []), *(name for name, *_ in mail.attachments)]
        self._console.print(
            f"   [cyan]✉[/] [dim]{time}[/] {escape(', '.join(mail.recipients))}  "
            f"[bold]{escape(mail.subject)}[/]  [dim]{escape(', '.join(parts))}[/]",
            soft_wrap=True,
        )

    def expect_notices(self, total: int) -> None:
        """Show the bar from here on."""
        if self._console.is_terminal:
            self._progress.update(self._task, total=total, visible=True)
            self._progress.start_task(self._task)
            self._progress.start()

    def close_notices(self) -> None:
        """Leave the bar as it is, and go on below it."""
        self._progress.stop()

    def close(self) -> None:
        """Show no more mail: what arrives while everything is being stopped is no longer news."""
        self._shows_mail = False
        self.close_notices()

    def table(self, rows: Sequence[Sequence[str]], total: Sequence[str]) -> None:
        """Print the final table."""
        table = Table(box=box.ROUNDED if self._console.is_terminal else box.ASCII2)
        table.add_column("Scene")
        for name in ("Queued", "Sent", "p50", "p95", "max", "Rolled back"):
            table.add_column(name, justify="right")
        table.title = "p50, p95, max: from the commit to the mail server's 250"
        for row in rows:
            table.add_row(*row)
        table.add_section()
        table.add_row(*total, style="bold")
        self._console.print()
        self._console.print(table)

    def verdict(self, text: str) -> None:
        """Say that all is well."""
        self._console.print(f"\n[bold green]✓ {escape(text)}[/]\n", soft_wrap=True)

    def failure(self, text: str) -> None:
        """Say what is not."""
        self.close()
        self._console.print(f"\n[bold red]✗ {escape(text)}[/]", soft_wrap=True)

    def plain(self, text: str = "") -> None:
        """Print a text as it is."""
        self._console.print(escape(text), soft_wrap=True)
