"""Patterns of personal data: e-mail addresses, telephone numbers, payment cards with a valid check digit, keys.

Patterns, not understanding: names and postal addresses are not found, and numbers of the right shape are.
"""

import re
import unicodedata
from collections.abc import Iterator

EMAIL = re.compile(r"[\w.+-]+ ?@ ?[\w-]+(?: ?\. ?[\w-]+)+")
# The digits are counted afterwards; without a plus or a bracket they must be more than those of a date.
# Blanks may stand around each sign, as tokenized text has them.
MARKED_PHONE = re.compile(r"(?<!\w)(?:\+ ?\d|\( ?\d{2,5} ?\))[\d ()./-]{4,22}\d(?!\w)")
PLAIN_PHONE = re.compile(r"(?<![\w.-])\d{2,5} ?[./-] ?\d{2,5} ?[./-] ?\d{2,5}(?: ?[./-] ?\d{2,5})?(?![\w-])")
SPACED_PHONE = re.compile(r"(?<![\w.-])\d{3} \d{3} \d{4}(?![\w.-])")
DIGIT_GROUPS = re.compile(r"\d+(?:[ -]{1,3}\d+)*")
CARD_DIGITS, LEAST_CARD_GROUP = range(13, 20), 3
CARD_STARTS = ("2", "3", "4", "5", "6")  # of the industries that issue payment cards (ISO/IEC 7812)
KEY = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[0-9A-Za-z]{36,}|\bgithub_pat_[0-9A-Za-z_]{22,}"
    r"|\bsk-[0-9A-Za-z_-]{20,}|\b[rs]k_live_[0-9A-Za-z]{16,}|\bxox[abpr]-[0-9A-Za-z-]{10,}"
    r"|\bAIza[0-9A-Za-z_-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}"
)
KEY_BEGINNINGS = (
    *("AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "sk-", "k_live_", "xox", "AIza"),
    *("-----BEGIN", "eyJ"),
)
DIGIT, DIGITS = re.compile(r"\d"), re.compile(r"\d+")
MARKED_DIGITS, PLAIN_DIGITS = range(8, 16), range(9, 16)


def has_personal_data(text: str) -> bool:
    """Whether any of the patterns occurs."""
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    # What each pattern needs is looked for first: most texts have none of it.
    if "@" in text and EMAIL.search(text):
        return True
    if any(beginning in text for beginning in KEY_BEGINNINGS) and KEY.search(text):
        return True
    return DIGIT.search(text) is not None and (_has_phone(text) or _has_card(text))


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812)."""
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * (1 + place % 2)
        total += doubled - 9 * (doubled > 9)
    return total % 10 == 0


def _digits(text: str) -> str:
    return "".join(character for character in text if character in "0123456789")


def _has_phone(text: str) -> bool:
    return any(
        len(_digits(found.group())) in digits
        for pattern, digits in (
            (MARKED_PHONE, MARKED_DIGITS),
            (PLAIN_PHONE, PLAIN_DIGITS),
            (SPACED_PHONE, PLAIN_DIGITS),
        )
        for found in pattern.finditer(text)
    )


def _has_card(text: str) -> bool:
    return any(
        passes_luhn(number)
        for found in DIGIT_GROUPS.finditer(text)
        for number in _card_numbers(DIGITS.findall(found.group()))
    )


def _card_numbers(groups: list[str]) -> Iterator[str]:
    """What may be a card's number among groups of digits: a group, or several one after the other. An expiry date or
    another number may stand beside it."""
    for first, number in enumerate(groups):
        for following in range(first + 1, len(groups) + 1):
            if len(number) > CARD_DIGITS[-1]:
                break
            if len(number) in CARD_DIGITS and number.startswith(CARD_STARTS):
                yield number
            if following == len(groups) or min(len(groups[following - 1]), len(groups[following])) < LEAST_CARD_GROUP:
                break
            number += groups[following]
