"""The pages. None of them talks to a mail server: what they send is a row until a worker comes."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.admin.views.decorators import staff_member_required
from django.contrib.auth.decorators import login_required
from django.core.signing import BadSignature
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse

from shop import invoices, mails, orders, payments, tokens
from shop.forms import CheckoutForm, NoticeForm, SignUpForm
from shop.models import Customer, Order, Product


def catalogue(request: HttpRequest) -> HttpResponse:
    products = Product.objects.all()
    return render(request, "shop/catalogue.html", {"products": products, "most": orders.MOST})


def sign_up(request: HttpRequest) -> HttpResponse:
    form = SignUpForm(request.POST or None)
    if not form.is_valid():
        return render(request, "shop/sign_up.html", {"form": form})
    with transaction.atomic():  # a customer without the mail could never log in
        customer = form.save()
        token = tokens.confirm.sign(customer.pk)
        link = request.build_absolute_uri(reverse("confirm", args=[token]))
        mails.confirm_address(customer, link)
    return render(request, "shop/signed_up.html", {"customer": customer})


def confirm(request: HttpRequest, token: str) -> HttpResponse:
    """Only the button confirms: programs that look through mail follow links too."""
    try:
        pk = tokens.confirm.unsign(token, max_age=tokens.CONFIRM_WITHIN)
    except BadSignature as error:
        raise Http404("This link is not, or no longer, valid.") from error
    customer = get_object_or_404(Customer, pk=pk)
    if request.method != "POST":
        return render(request, "shop/confirm.html", {"customer": customer})
    Customer.objects.filter(pk=pk).update(is_active=True)
    messages.success(request, "Thank you, your address is confirmed. You can log in now.")
    return redirect("login")


@login_required
def checkout(request: HttpRequest) -> HttpResponse:
    basket = orders.read_basket(request.GET.dict())
    if not basket:
        messages.info(request, "Your basket is empty. Choose how many you would like.")
        return redirect("catalogue")
    form = CheckoutForm(request.POST or None)
    if form.is_valid():
        try:
            order = orders.place(
                request.user,
                basket,
                form.cleaned_data["card"],
                lambda order: request.build_absolute_uri(order.get_absolute_url()),
            )
        except (orders.OutOfStock, payments.Declined) as error:
            form.add_error(None, f"{error} Nothing was ordered, and no mail was sent.")
        else:
            return redirect(order)
    total = sum(item.amount for item in basket)
    return render(request, "shop/checkout.html", {"form": form, "basket": basket, "total": total})


@login_required
def order(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Order, pk=pk, customer=request.user)
    return render(request, "shop/order.html", {"order": found})


@login_required
def invoice(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Order, pk=pk, customer=request.user)
    return HttpResponse(invoices.render(found), content_type="application/pdf")


@staff_member_required(login_url="login")
def notice(request: HttpRequest) -> HttpResponse:
    form = NoticeForm(request.POST or None)
    if form.is_valid():
        with transaction.atomic():  # the notice and all its mails, or nothing
            count = mails.weekly_notice(form.save(), request.build_absolute_uri("/")[:-1])
        messages.success(request, f"Queued for {count} customers.")
        return redirect("notice")
    readers = Customer.objects.filter(is_active=True, wants_notice=True).count()
    return render(request, "shop/notice.html", {"form": form, "readers": readers})


def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    try:
        pk = tokens.unsubscribe.unsign(token)
    except BadSignature as error:
        raise Http404("This link is not valid.") from error
    customer = get_object_or_404(Customer, pk=pk)
    if request.method == "POST":
        Customer.objects.filter(pk=pk).update(wants_notice=False)
        customer.wants_notice = False
    return render(request, "shop/unsubscribe.html", {"customer": customer})
