"""What everybody reads as a number."""


def is_plain(text: str) -> bool:
    """Whether a number so written is one to everybody: to Python alone `1_0` and digits of other scripts are, too."""
    return text.isascii() and "_" not in text
