"""Attachment rows and files: written with the message, read again, pruned when unused."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from pillarbox import attachments, codec
from pillarbox.attachments import BlobReader, BlobWriter
from pillarbox.exceptions import PillarboxError
from pillarbox.models import Attachment, DatabaseNow, Message
from tests.corpus.builders import plain
from tests.support.delivered import DATE, MESSAGE_ID

LONG_AGO = timedelta(days=-2)


@pytest.fixture(params=["database", "files"])
def store(request: pytest.FixtureRequest, settings: Any, tmp_path: Path) -> Path:
    """Keep attachments in either place; return the folder for the files."""
    if request.param == "files":
        keep_in_files(settings, tmp_path)
    return tmp_path


@pytest.fixture
def files(settings: Any, tmp_path: Path) -> Path:
    keep_in_files(settings, tmp_path)
    return tmp_path


def keep_in_files(settings: Any, folder: Path) -> None:
    settings.STORAGES = {
        **settings.STORAGES,
        "attachments": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": str(folder)},
        },
    }
    settings.PILLARBOX = {"ATTACHMENTS": {"storage": "attachments"}}


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def a_message(**options: Any) -> Message:
    return Message.objects.create(
        message_id="<a@b.c>",
        date=DATE,
        from_email="a@b.c",
        first_recipient="b@b.c",
        recipient_count=1,
        **options,
    )


def put_and_roll_back(blobs: BlobWriter, data: bytes) -> None:
    with transaction.atomic():
        blobs.put(data)
        transaction.set_rollback(True)


def age(*pks: int) -> None:
    Attachment.objects.filter(pk__in=pks).update(created_at=DatabaseNow(LONG_AGO))


@pytest.mark.django_db
@pytest.mark.usefixtures("store")
def test_bytes_come_back_as_they_were() -> None:
    data = bytes(range(256)) * 500

    pk = BlobWriter("default").put(data)

    assert BlobReader("default").get(pk) == data
    row = Attachment.objects.get(pk=pk)
    assert (row.size_bytes, len(row.sha256)) == (128_000, 64)


@pytest.mark.django_db
def test_a_message_comes_back_from_its_row_with_its_attachments() -> None:
    email = plain(body="nul \x00 and \udce9")
    email.attach("a.bin", b"\x00\xff", "application/octet-stream")
    email.attach("b.txt", "Jürgen \x00", "text/plain")
    blobs = BlobWriter("default")

    message = a_message(
        content=codec.encode(email, blobs, message_id=MESSAGE_ID, date=DATE), subject="x"
    )
    message.attachments.set(blobs.used())
    message.refresh_from_db()

    twin = codec.decode(message.content, BlobReader("default"))
    assert twin.attachments == email.attachments
    assert twin.body == email.body
    assert codec.attachment_ids(message.content) == blobs.used()


@pytest.mark.django_db
@pytest.mark.usefixtures("store")
def test_a_mailing_stores_its_attachment_once_and_knows_what_each_message_uses() -> None:
    blobs = BlobWriter("default")
    used = []

    for number in range(3):
        email = plain()
        email.attach("shared.pdf", b"%PDF", "application/pdf")
        email.attach("own.txt", f"number {number}", "text/plain")
        codec.encode(email, blobs, message_id=MESSAGE_ID, date=DATE)
        used.append(blobs.used())

    assert Attachment.objects.count() == 4
    assert len({ids[0] for ids in used}) == 1
    assert len({ids[1] for ids in used}) == 3


@pytest.mark.django_db
def test_memory_does_not_grow_with_the_number_of_attachments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attachments, "REMEMBERED", 2)
    blobs = BlobWriter("default")

    first = blobs.put(b"1")
    blobs.put(b"2")
    assert blobs.put(b"1") == first
    blobs.put(b"3")

    assert blobs.put(b"1") != blobs.put(b"2")
    assert Attachment.objects.count() == 5


@pytest.mark.django_db
def test_a_row_that_a_savepoint_took_back_is_written_again() -> None:
    blobs = BlobWriter("default")
    put_and_roll_back(blobs, b"x")

    with transaction.atomic():
        kept = blobs.put(b"x")
        with transaction.atomic():
            assert blobs.put(b"x") == kept

    assert list(Attachment.objects.values_list("pk", flat=True)) == [kept]
    assert BlobReader("default").get(kept) == b"x"


@pytest.mark.django_db
def test_what_a_mailing_shares_is_read_once(django_assert_num_queries: Any) -> None:
    pk = BlobWriter("default").put(b"shared")
    reader = BlobReader("default")

    with django_assert_num_queries(1):
        assert {reader.get(pk) for _ in range(3)} == {b"shared"}


@pytest.mark.django_db
def test_the_reader_forgets_what_does_not_fit_its_memory(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(attachments, "CACHE_BYTES", 10)
    writer, reader = BlobWriter("default"), BlobReader("default")
    small, other, large = writer.put(b"12345"), writer.put(b"67890x"), writer.put(b"x" * 11)
    for pk in (small, other, large):
        reader.get(pk)

    with django_assert_num_queries(3):
        for pk in (small, other, large):
            reader.get(pk)


@pytest.mark.django_db
def test_an_attachment_that_is_gone_is_named() -> None:
    with pytest.raises(PillarboxError, match="Attachment 404 is gone from the database"):
        BlobReader("default").get(404)


@pytest.mark.django_db
def test_a_file_that_is_gone_is_named(files: Path) -> None:
    pk = BlobWriter("default").put(b"x")
    files_in(files)[0].unlink()

    with pytest.raises(PillarboxError, match=f"of attachment {pk} is gone from the storage"):
        BlobReader("default").get(pk)


@pytest.mark.django_db(transaction=True)
def test_only_old_rows_that_no_message_uses_are_pruned(store: Path) -> None:
    blobs = BlobWriter("default")
    used, unused, young = blobs.put(b"used"), blobs.put(b"unused"), blobs.put(b"young")
    a_message().attachments.set([used])
    a_message().attachments.set([used])
    age(used, unused)

    assert attachments.prune("default") == 1

    assert set(Attachment.objects.values_list("pk", flat=True)) == {used, young}
    assert len(files_in(store)) in {0, 2}
    assert BlobReader("default").get(used) == b"used"


@pytest.mark.django_db(transaction=True)
def test_many_rows_are_pruned_without_reading_their_bytes(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    monkeypatch.setattr(attachments, "BATCH", 2)
    blobs = BlobWriter("default")
    age(*[blobs.put(str(number).encode()) for number in range(5)])

    with django_assert_max_num_queries(50) as captured:
        assert attachments.prune("default") == 5

    quoted = connection.ops.quote_name("data")
    assert not [one for one in captured.captured_queries if quoted in one["sql"]]


@pytest.mark.django_db(transaction=True)
def test_only_old_files_that_no_row_names_are_pruned(files: Path) -> None:
    blobs = BlobWriter("default")
    blobs.put(b"kept")
    (kept,) = files_in(files)
    put_and_roll_back(blobs, b"rolled back")
    assert len(files_in(files)) == 2
    assert attachments.prune("default") == 0  # too young: its transaction might yet commit

    for path in files_in(files):
        two_days_ago = time.time() - 2 * 86_400
        os.utime(path, (two_days_ago, two_days_ago))
    other = files / "pillarbox" / "other" / "aa" / "of-another-database"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    os.utime(other, (0, 0))

    assert attachments.prune("default") == 1
    assert files_in(files) == sorted([kept, other])


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("files")
def test_a_storage_that_never_held_a_file_has_nothing_to_prune() -> None:
    assert attachments.prune("default") == 0
