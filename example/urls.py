"""Every address of the shop."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from shop import views

urlpatterns = [
    path("", views.catalogue, name="catalogue"),
    path("sign-up/", views.sign_up, name="sign_up"),
    path("confirm/<str:token>/", views.confirm, name="confirm"),
    path("checkout/", views.checkout, name="checkout"),
    path("orders/<int:pk>/", views.order, name="order"),
    path("orders/<int:pk>/invoice.pdf", views.invoice, name="invoice"),
    path("notice/", views.notice, name="notice"),
    path("unsubscribe/<str:token>/", views.unsubscribe, name="unsubscribe"),
    path("account/", include("django.contrib.auth.urls")),  # log in and out, password reset
    path("admin/", admin.site.urls),
]
