"""What the shop knows: customers, products, orders and notices. Nothing about mail."""

from __future__ import annotations

from decimal import Decimal

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.urls import reverse


class Customer(AbstractUser):
    """Logs in by address; inactive until the address is confirmed."""

    email = models.EmailField("e-mail address", max_length=150, unique=True)
    wants_notice = models.BooleanField("wants the weekly notice", default=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = ["username"]

    class Meta:
        verbose_name = "customer"

    def __str__(self) -> str:
        return self.get_full_name() or self.email


class Product(models.Model):
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=60)
    detail = models.CharField(max_length=120)
    price = models.DecimalField(max_digits=7, decimal_places=2)
    stock = models.PositiveIntegerField()

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.PROTECT, related_name="orders")
    created_at = models.DateTimeField(auto_now_add=True)
    invoice_sha256 = models.CharField(max_length=64, blank=True, editable=False)

    def __str__(self) -> str:
        return self.number

    def get_absolute_url(self) -> str:
        return reverse("order", args=[self.pk])

    @property
    def number(self) -> str:
        return f"FQ-{self.pk:05d}"

    @property
    def total(self) -> Decimal:
        return sum((line.amount for line in self.lines.all()), Decimal())


class Line(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.PROTECT)
    quantity = models.PositiveSmallIntegerField()
    price = models.DecimalField(max_digits=7, decimal_places=2)

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.quantity} × {self.product}"

    @property
    def amount(self) -> Decimal:
        return self.quantity * self.price


class Notice(models.Model):
    """A weekly notice, as it was written."""

    subject = models.CharField(max_length=120)
    body = models.TextField("text")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.subject
