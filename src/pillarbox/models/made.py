"""Rows of `Message` as objects, made as a query would make them, but quickly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db.models.base import ModelState
from django.db.models.signals import post_init, pre_init
from django.dispatch import Signal

from pillarbox.models.message import Message

_NAMES = tuple(field.attname for field in Message._meta.concrete_fields)


def maker(using: str) -> Callable[[dict[str, Any]], Message]:
    """Return what makes rows of the database ``using`` of a value for each column that was read.

    As Django makes one from a pickle, without its ``__init__``, which costs three times as much,
    unless a project listens to ``pre_init`` or ``post_init``.
    """
    if listens(pre_init) or listens(post_init):
        return partial(_by_django, using)

    def make(columns: dict[str, Any]) -> Message:
        row = Message.__new__(Message)
        row.__dict__ = columns
        row._state = state = ModelState()
        state.adding, state.db = False, using
        return row

    return make


def _by_django(using: str, columns: dict[str, Any]) -> Message:
    names = [name for name in _NAMES if name in columns]
    return Message.from_db(using, names, [columns[name] for name in names])


def listens(signal: Signal) -> bool:
    """Whether somebody listens to a signal of messages; most often nobody does to any."""
    return bool(signal.receivers) and signal.has_listeners(Message)
