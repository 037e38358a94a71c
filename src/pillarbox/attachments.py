"""The bytes of attachments: written with a message, read by a worker, pruned when unused.

They stand in the database, in the caller's transaction, or with
``PILLARBOX["ATTACHMENTS"]["storage"]`` in files of that ``STORAGES`` alias, under
``pillarbox/<database alias>/``. That folder must belong to this database alone: what no row of
it names is removed from there.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Protocol

from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages
from django.db import connections, transaction

from pillarbox.conf import get_settings
from pillarbox.exceptions import AttachmentUnavailable, PillarboxError
from pillarbox.models import Attachment, database_now

FOLDER = "pillarbox"
GRACE = timedelta(days=1)
"""What is younger is never pruned: it may belong to a transaction that has yet to commit."""
REMEMBERED = 10_000
CACHE_BYTES = 32 * 2**20
BATCH = 500


class Writer(Protocol):
    """Takes the bytes of one message after the other and gives each its number."""

    def begin(self) -> None:
        """Begin a message: it uses nothing yet."""

    def put(self, data: bytes) -> int:
        """Keep the bytes and return their number."""

    def digest(self, id: int) -> str:
        """Return the SHA-256 of bytes that the message in hand uses."""


class Reader(Protocol):
    """Gives the bytes back."""

    def get(self, id: int) -> bytes:
        """Return the bytes. Raise PillarboxError if they are gone."""


class BlobWriter:
    """Writes attachments to the database ``using``, the same bytes once for all its messages.

    Use one for a call. Rows go into the caller's transaction. Memory is bounded, whatever the
    number of messages: only hashes are kept, of the latest 10,000.
    """

    def __init__(self, using: str) -> None:
        self.using = using
        self._used: dict[int, str] = {}
        self._known: OrderedDict[str, tuple[int, list[str]]] = OrderedDict()

    def begin(self) -> None:
        """Begin a message: it uses nothing yet."""
        self._used = {}

    def used(self) -> list[int]:
        """Return the ids of the rows that the message in hand uses, each once."""
        return list(self._used)

    def digest(self, id: int) -> str:
        """Return the SHA-256 of bytes that the message in hand uses."""
        return self._used[id]

    def put(self, data: bytes) -> int:
        """Return the id of the `Attachment` with these bytes, writing it if it is new."""
        digest = sha256(data).hexdigest()
        pk = self._find(digest)
        if pk is None:
            pk = self._write(data, digest)
            self._remember(digest, pk)
        self._used[pk] = digest
        return pk

    def _find(self, digest: str) -> int | None:
        """Return a row written before, unless the savepoint that it was written in has ended.

        That one may have been rolled back, and the row with it.
        """
        pk, savepoints = self._known.get(digest, (None, []))
        if savepoints != self._savepoints()[: len(savepoints)]:
            return None
        return pk

    def _remember(self, digest: str, pk: int) -> None:
        self._known[digest] = (pk, list(self._savepoints()))
        self._known.move_to_end(digest)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _savepoints(self) -> list[str]:
        return connections[self.using].savepoint_ids

    def _write(self, data: bytes, digest: str) -> int:
        row = Attachment(sha256=digest, size_bytes=len(data))
        alias = get_settings().attachments_storage
        if alias is None:
            row.data = data
        else:
            unique = uuid.uuid4().hex
            path = f"{FOLDER}/{self.using}/{unique[:2]}/{unique}"
            row.storage, row.name = alias, storages[alias].save(path, ContentFile(data))
        row.save(using=self.using, force_insert=True)
        return int(row.pk)


class BlobReader:
    """Reads attachments from the database ``using``; what a mailing shares is read once."""

    def __init__(self, using: str) -> None:
        self.using = using
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_bytes = 0

    def get(self, id: int) -> bytes:
        """Return the bytes of an `Attachment`. Raise PillarboxError if the row or file is gone."""
        data = self._kept.get(id)
        if data is None:
            data = self._read(id)
            self._keep(id, data)
        return data

    def _read(self, id: int) -> bytes:
        row = Attachment.objects.using(self.using).filter(pk=id).first()
        if row is None:
            raise PillarboxError(f"Attachment {id} is gone from the database.")
        if not row.storage:
            return bytes(row.data or b"")
        try:
            with storages[row.storage].open(row.name) as file:
                return bytes(file.read())
        except FileNotFoundError as error:
            raise PillarboxError(
                f"The file {row.name} of attachment {id} is gone from the storage {row.storage}."
            ) from error
        except Exception as error:
            raise AttachmentUnavailable(
                f"The storage {row.storage} does not give the file of attachment {id} now."
            ) from error

    def _keep(self, id: int, data: bytes) -> None:
        self._kept[id] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > CACHE_BYTES:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= len(old)


class MemoryBlobs:
    """Writer and reader in memory, for content that is not to be stored."""

    def __init__(self) -> None:
        self._data: list[bytes] = []

    def begin(self) -> None:
        """Begin a message."""

    def put(self, data: bytes) -> int:
        """Keep the bytes and return their place."""
        self._data.append(data)
        return len(self._data) - 1

    def digest(self, id: int) -> str:
        """Return the SHA-256 of the bytes at that place."""
        return sha256(self._data[id]).hexdigest()

    def get(self, id: int) -> bytes:
        """Return the bytes at that place."""
        return self._data[id]


def prune(using: str) -> int:
    """Remove rows that no message uses and files that no row names; return how many.

    Nothing younger than a day is touched, so that an enqueue which has not committed yet loses
    nothing. Runs in transactions of its own.
    """
    return prune_rows(using) + prune_files(using)


def prune_rows(using: str) -> int:
    """Remove, with their files, the rows that no message uses; return how many."""
    unused = Attachment.objects.using(using).filter(
        created_at__lt=database_now(using) - GRACE, messages=None
    )
    removed = 0
    while batch := list(unused.values_list("pk", "storage", "name")[:BATCH]):
        with transaction.atomic(using):
            # Without the bytes, which Django would otherwise load in order to delete them.
            unused.filter(pk__in=[pk for pk, _, _ in batch]).only("pk").delete()
            for _, alias, name in batch:
                if alias:
                    # After the commit: a file without a row is found again, the reverse is not.
                    transaction.on_commit(partial(storages[alias].delete, name), using=using)
        removed += len(batch)
    return removed


def prune_files(using: str) -> int:
    """Remove the files that a rollback left without a row; return how many."""
    stored = Attachment.objects.using(using).exclude(storage="")
    aliases = set(stored.values_list("storage", flat=True).distinct())
    if current := get_settings().attachments_storage:
        aliases.add(current)
    return sum(_prune_storage(alias, using) for alias in sorted(aliases))


def _prune_storage(alias: str, using: str) -> int:
    storage = storages[alias]
    removed = 0
    for folder in _subfolders(storage, f"{FOLDER}/{using}"):
        names = [f"{folder}/{file}" for file in storage.listdir(folder)[1]]
        for start in range(0, len(names), BATCH):
            removed += _prune_names(storage, alias, using, names[start : start + BATCH])
    return removed


def _subfolders(storage: Storage, folder: str) -> Iterator[str]:
    try:
        folders = storage.listdir(folder)[0]
    except FileNotFoundError:  # nothing was ever stored
        return
    for name in folders:
        yield f"{folder}/{name}"


def _prune_names(storage: Storage, alias: str, using: str, names: list[str]) -> int:
    rows = Attachment.objects.using(using).filter(storage=alias, name__in=names)
    orphans = set(names).difference(rows.values_list("name", flat=True))
    old = [name for name in orphans if _age(storage, name) > GRACE]
    for name in old:
        storage.delete(name)
    return len(old)


def _age(storage: Storage, name: str) -> timedelta:
    return datetime.now(UTC) - storage.get_modified_time(name)
