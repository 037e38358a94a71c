"""The shop's three forms."""

from __future__ import annotations

from django import forms
from django.contrib.auth.password_validation import validate_password

from shop import payments
from shop.models import Customer, Notice


class SignUpForm(forms.ModelForm):
    """Makes a customer who cannot log in before the address is confirmed."""

    password = forms.CharField(
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        validators=[validate_password],
    )

    field_order = ("first_name", "last_name", "email", "password")

    class Meta:
        model = Customer
        fields = ("first_name", "last_name", "email", "wants_notice")
        labels = {"wants_notice": "Send me the weekly notice"}

    def save(self, commit: bool = True) -> Customer:
        customer = super().save(commit=False)
        customer.username = customer.email
        customer.is_active = False
        customer.set_password(self.cleaned_data["password"])
        if commit:
            customer.save()
        return customer


class CheckoutForm(forms.Form):
    """Two test cards, as payment providers have them."""

    card = forms.ChoiceField(
        choices=[
            (payments.ACCEPTED, f"{payments.ACCEPTED} (is accepted)"),
            (payments.DECLINED, f"{payments.DECLINED} (is declined)"),
        ],
        initial=payments.ACCEPTED,
        widget=forms.RadioSelect,
    )


class NoticeForm(forms.ModelForm):
    """This week's notice."""

    class Meta:
        model = Notice
        fields = ("subject", "body")
