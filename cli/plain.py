"""Other people's text, made harmless for a terminal."""


def clean(value: object) -> str:
    """One line of what can be printed: no escapes, no line ends, no characters that turn the reading direction."""
    text = " ".join(str(value).split())
    return "".join(each for each in text if each.isprintable())
