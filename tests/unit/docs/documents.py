"""The documents that people read, taken apart for the tests.

Rule: it only reads them; what must be true of the parts is said in the tests.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "ROOT", "Document", "commands"]

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Document:
    """One Markdown file."""

    path: Path

    @property
    def text(self) -> str:
        """The whole file."""
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return re.sub(r"^```.*?^```", "", self.text, flags=re.DOTALL | re.MULTILINE)

    def fences(self, language: str) -> list[str]:
        """Return the contents of the fenced blocks in that language."""
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE)

    @property
    def code_spans(self) -> list[str]:
        """What stands in backticks within the prose."""
        return re.findall(r"`([^`\n]+)`", self.prose)

    @property
    def links(self) -> list[str]:
        """The addresses that the prose links to."""
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @property
    def anchors(self) -> set[str]:
        """The names of the headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def table(self, head: str) -> list[list[str]]:
        """Return the rows of the first table whose head begins so."""
        after = self.text.partition(f"\n| {head}")[2].partition("\n\n")[0]
        rows = after.splitlines()[2:]
        return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def commands(fence: str) -> list[list[str]]:
    """Return the commands of a shell block as argvs; a quoted text may go over lines."""
    argvs: list[list[str]] = []
    pending = ""
    for line in fence.splitlines():
        pending += f"{line}\n"
        try:
            argv = shlex.split(pending, comments=True)
        except ValueError:
            continue
        pending = ""
        if argv:
            argvs.append(argv)
    assert not pending, f"a quote is not closed in {pending!r}"
    return argvs


#: By their path from the root, for test ids.
DOCUMENTS = {
    str(path.relative_to(ROOT)): Document(path)
    for pattern in ("*.md", "docs/*.md", "deploy/*.md")
    for path in sorted(ROOT.glob(pattern))
}
