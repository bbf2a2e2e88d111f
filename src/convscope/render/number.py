"""Numbers as people read them: three significant digits, a true minus, an exponent where needed. Never "0.000"."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"


def format_number(value: float | int | None, digits: int = 3) -> str:
    """A number in at most a few characters; None is a dash.

    >>> [format_number(value) for value in (371.7, 0.01234, 14208, 0.0, None)]
    ['372', '0.0123', '14208', '0', '–']
    >>> format_number(1.234e-7).isascii()  # its minus is a minus, not a hyphen
    False
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else f"{MINUS}Inf"
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 1e5 or magnitude < 1e-3:
        if float(value).is_integer() and magnitude < 1e7:
            return _true_minus(f"{int(value):,}")
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return _true_minus(f"{mantissa}e{int(exponent)}")
    if magnitude >= 10**digits:
        return _true_minus(f"{value:.0f}")
    decimals = max(0, digits - 1 - math.floor(math.log10(float(f"{magnitude:.{digits - 1}e}"))))
    return _true_minus(f"{value:.{decimals}f}")


def format_cell(value: float | int) -> str:
    """What fits a small cell: two digits, no leading zero.

    >>> [format_cell(value) for value in (0.047, 371.7, 1.5, 0.0)]
    ['.047', '372', '1.5', '0']
    """
    magnitude = abs(value)
    if value == 0 or not math.isfinite(value):
        return format_number(value)
    if magnitude >= 1e4 or magnitude < 1e-2:
        mantissa, exponent = f"{value:.0e}".split("e")
        return _true_minus(f"{mantissa}e{int(exponent)}")
    text = f"{value:.0f}" if magnitude >= 100 else f"{value:.2g}"
    return _true_minus(text.replace("0.", ".", 1) if magnitude < 1 else text)


def format_signed(value: float | int) -> str:
    """Like :func:`format_number`, with a plus sign where it is one."""
    return f"+{format_number(value)}" if value > 0 else format_number(value)


def _true_minus(text: str) -> str:
    return text.replace("-", MINUS)
