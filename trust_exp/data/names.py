"""Names from the disk as text that every program can write, draw and compare. No torch."""

import unicodedata


def shown(name: str) -> str:
    r"""The name of a file as text: bytes that are not UTF-8, and control characters, as they are escaped: ``\xe9``."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(one):02x}" if unicodedata.category(one) == "Cc" else one for one in text)


def class_name(folder: str) -> str:
    """The name of the class in a folder of that name, in Unicode's normal form C: macOS writes an é as two characters.

    So a folder that came from macOS and one that did not are the same class.
    """
    return unicodedata.normalize("NFC", shown(folder))
