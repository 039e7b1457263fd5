"""What errors say to programs, in the words of the command line."""

from __future__ import annotations

# Words of the library's errors that name its arguments, and what to say instead.
WORDS = (
    ("sends is empty; pass at least one message, or a NewBatch(open=True)", "the table has no rows"),
    ("leave it out, or pass suppressed='drop' to send to the others", "leave it out, or add --skip-suppressed"),
    ("is missing, and the queue has none; pass unsubscribe_url to the queue, or url with the message",
     "is missing; set SENDQ_UNSUBSCRIBE_URL, or give url with unsubscribe in the message"),
    ("use a new key for new content, or get the existing job with job(key=…)", "use a new key for new content"),
    ("pass one that identifies the content, or None for no key", "give one that identifies the content"),
    ("give a non-empty string of printable characters, or None", "give a non-empty string of printable characters"),
    ("cancel_batch ends what waits of one", "sendq cancel --batch ends what waits of one"),
    ("pass a datetime with a time zone", "give a time like 2026-07-01T09:00:00Z"),
    ("; ask with batch(key=…)", "; see: sendq batch --key KEY"),
    ("; ask with job(key=…)", "; see: sendq why --key KEY"),
    ("is given with every_category", "is given with --every-category"),
)  # fmt: skip


def on_command_line(text: str) -> str:
    """An error in the words of the command line."""
    for words, instead in WORDS:
        text = text.replace(words, instead)
    return text
