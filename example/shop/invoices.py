"""Draws the invoice of an order as a PDF; the same order always gives the same bytes."""

from __future__ import annotations

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from shop.models import Order

INK, RED, GREY, RULE = (33, 44, 58), (176, 42, 34), (112, 118, 126), (221, 214, 200)
COLUMNS = (92, 22, 28, 28)  # millimetres
PLAIN_QUOTES = str.maketrans("“”‘’–—", "\"\"''--")


def render(order: Order) -> bytes:
    """Return the PDF."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(order.created_at)
    pdf.set_title(f"Invoice {order.number}")
    pdf.set_author("Fern & Quill")
    pdf.set_margins(20, 20)
    pdf.add_page()
    _stripe(pdf)
    _head(pdf, order)
    _lines(pdf, order)
    _total(pdf, order)
    _foot(pdf)
    return bytes(pdf.output())


def _stripe(pdf: FPDF) -> None:
    """Draw the edge of an airmail envelope along the top."""
    for number in range(-1, 22):
        pdf.set_fill_color(*(RED if number % 2 else (43, 76, 126)))
        left = number * 10.5
        pdf.polygon(((left + 3, 0), (left + 9, 0), (left + 6, 5), (left, 5)), style="F")


def _head(pdf: FPDF, order: Order) -> None:
    pdf.set_xy(20, 22)
    _write(pdf, "Fern & Quill", font="Times", style="B", size=26, color=INK, height=11)
    _write(pdf, "Paper, ink and everything between", size=9, color=GREY, height=5)
    pdf.set_y(52)
    top = pdf.get_y()
    _write(pdf, "INVOICE FOR", size=7.5, color=GREY, height=5)
    _write(pdf, str(order.customer), style="B", size=11, color=INK, height=5.5)
    _write(pdf, order.customer.email, size=10, color=INK, height=5.5)
    _fact(pdf, top, 116, "NUMBER", order.number)
    _fact(pdf, top, 151, "DATE", f"{order.created_at:%d %B %Y}")
    pdf.set_y(82)


def _fact(pdf: FPDF, top: float, left: float, name: str, value: str) -> None:
    pdf.set_xy(left, top)
    _write(pdf, name, size=7.5, color=GREY, height=5)
    pdf.set_x(left)
    _write(pdf, value, style="B", size=11, color=INK, height=5.5)


def _lines(pdf: FPDF, order: Order) -> None:
    pdf.set_text_color(*GREY)
    pdf.set_font("Helvetica", size=7.5)
    _row(pdf, ("ARTICLE", "QUANTITY", "PRICE", "AMOUNT"), height=7)
    pdf.set_text_color(*INK)
    pdf.set_font("Helvetica", size=10)
    for line in order.lines.select_related("product"):
        cells = (line.product.name, str(line.quantity), f"{line.price:.2f}", f"{line.amount:.2f}")
        _row(pdf, cells, height=10)


def _row(pdf: FPDF, cells: tuple[str, ...], height: float) -> None:
    pdf.set_draw_color(*RULE)
    for number, (text, width) in enumerate(zip(cells, COLUMNS, strict=True)):
        pdf.cell(width, height, _latin(text), border="B", align="R" if number else "L")
    pdf.ln(height)


def _total(pdf: FPDF, order: Order) -> None:
    pdf.ln(4)
    pdf.set_font("Helvetica", style="B", size=13)
    pdf.set_text_color(*RED)
    pdf.cell(sum(COLUMNS), 9, f"EUR {order.total:.2f}", align="R")
    pdf.ln(9)
    pdf.set_font("Helvetica", size=9)
    pdf.set_text_color(*GREY)
    pdf.cell(sum(COLUMNS), 5, "Paid by card, with thanks.", align="R")


def _foot(pdf: FPDF) -> None:
    pdf.set_auto_page_break(False)
    pdf.set_y(-24)
    pdf.set_draw_color(*RULE)
    pdf.line(20, pdf.get_y() - 3, 190, pdf.get_y() - 3)
    _write(
        pdf,
        "Fern & Quill, 12 Penny Lane, Letterby. A shop that exists in an example only.",
        size=8,
        color=GREY,
        height=5,
    )


def _write(
    pdf: FPDF,
    text: str,
    *,
    size: float,
    color: tuple[int, int, int],
    height: float,
    font: str = "Helvetica",
    style: str = "",
) -> None:
    pdf.set_font(font, style=style, size=size)
    pdf.set_text_color(*color)
    pdf.cell(0, height, _latin(text), new_x=XPos.LEFT, new_y=YPos.NEXT)


def _latin(text: str) -> str:
    # The fonts that every PDF reader has know Latin-1 only, and this example brings none along.
    return text.translate(PLAIN_QUOTES).encode("latin-1", "replace").decode("latin-1")
