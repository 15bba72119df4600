"""What stands in messages: values of any length as short texts. A file may hold texts and integers of any length."""

from __future__ import annotations


def shortened(text: str) -> str:
    """A text as part of a message: its beginning, where it is long.

    >>> shortened("0.weight"), len(shortened("x" * 10**6))
    ('0.weight', 226)
    """
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"


def number_text(number: int) -> str:
    """An integer as part of a message; Python writes none of thousands of digits.

    >>> number_text(12), number_text(10**6000)
    ('12', 'an integer of 19,932 bits')
    """
    return str(number) if abs(number) <= 10**20 else f"an integer of {number.bit_length():,} bits"
