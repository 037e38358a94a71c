"""The Django project of a process that the benchmark starts: the least, and the subject's own."""

from __future__ import annotations

from benchmarks import subjects
from benchmarks.place import Place

place = Place.from_environment()

SECRET_KEY = "of no worth: the benchmarks use it"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DEFAULT_FROM_EMAIL = "shop@example.org"
DATABASES = {"default": place.database_settings()}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {}}
]
# The older spelling, which every supported Django and every subject understands.
EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
globals().update({f"EMAIL_{key.upper()}": value for key, value in place.smtp_options().items()})
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = (
    place.smtp_options().get("username", ""),
    place.smtp_options().get("password", ""),
)

_given = subjects.find(place.subject).settings(place)
INSTALLED_APPS += _given.pop("INSTALLED_APPS", [])
globals().update(_given)
