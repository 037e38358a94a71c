"""The back office; the mails have their own section there."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin

from shop.models import Customer, Line, Notice, Order, Product


@admin.register(Customer)
class CustomerAdmin(UserAdmin):
    list_display = ("email", "first_name", "last_name", "is_active", "wants_notice")
    ordering = ("email",)


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ("name", "price", "stock")


class LineInline(admin.TabularInline):
    model = Line
    extra = 0


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("number", "customer", "total", "created_at")
    inlines = (LineInline,)


@admin.register(Notice)
class NoticeAdmin(admin.ModelAdmin):
    list_display = ("subject", "created_at")
