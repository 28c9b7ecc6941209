"""Patterns of personal data: e-mail addresses, telephone numbers, payment cards with a valid check digit, keys.

Patterns, not understanding: names and postal addresses are not found, and numbers of the right shape are.
"""

import re

EMAIL = re.compile(r"[\w.+-]+ ?@ ?[\w-]+(?: ?\. ?[\w-]+)+")
# The digits are counted afterwards; without a plus or a bracket they must be more than those of a date.
MARKED_PHONE = re.compile(r"(?<!\w)(?:\+ ?\d|\(\d{2,5}\))[\d ()./-]{4,18}\d(?!\w)")
PLAIN_PHONE = re.compile(r"(?<![\w.-])\d{2,5}[./-]\d{2,5}[./-]\d{2,5}(?:[./-]\d{2,5})?(?![\w-])")
CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
KEY = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[0-9A-Za-z]{36,}|\bsk-[0-9A-Za-z_-]{20,}|\bxox[abpr]-[0-9A-Za-z-]{10,}"
    r"|\bAIza[0-9A-Za-z_-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}"
)
KEY_BEGINNINGS = ("AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "sk-", "xox", "AIza", "-----BEGIN", "eyJ")
DIGIT = re.compile(r"\d")
MARKED_DIGITS, PLAIN_DIGITS = range(8, 16), range(9, 16)


def has_personal_data(text: str) -> bool:
    """Whether any of the patterns occurs."""
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
        for pattern, digits in ((MARKED_PHONE, MARKED_DIGITS), (PLAIN_PHONE, PLAIN_DIGITS))
        for found in pattern.finditer(text)
    )


def _has_card(text: str) -> bool:
    return any(passes_luhn(_digits(found.group())) for found in CARD.finditer(text))
