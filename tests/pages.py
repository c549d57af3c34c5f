"""What our pages show, word for word, so that tests use what a reader would type."""

import re
from pathlib import Path

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"


def yaml_block(page: Path, words: str) -> str:
    """The one block of YAML on this page that has these words.

    Raises:
        ValueError: none has, or several have.
    """
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    [found] = [str(each) for each in blocks if words in each]
    return found
