"""The pages of the documentation, taken apart: headings, links, tables and blocks of code."""

import re
from functools import cache
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[2]
NAMES = ("README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


@frozen
class Block:
    """A fenced block of code."""

    language: str
    text: str
    line: int


@frozen
class Table:
    """A table, with the headings that it stands under, the outermost first."""

    headings: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def heading(self) -> str:
        return self.headings[-1]


@frozen
class Page:
    """One page."""

    name: str
    text: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def blocks(self) -> list[Block]:
        found = re.finditer(r"^```(\w*)\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)
        return [Block(m[1], m[2], self.text[: m.start()].count("\n") + 1) for m in found]

    @property
    def prose(self) -> str:
        """The text without its blocks of code."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures."""
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @property
    def anchors(self) -> set[str]:
        """Names that a link may point to within the page, as forges make them of headings."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}

    @property
    def tables(self) -> list[Table]:
        headings: list[tuple[int, str]] = []
        tables: list[Table] = []
        lines: list[str] = []
        for line in [*self.prose.splitlines(), ""]:
            if line.startswith("|"):
                lines.append(line)
                continue
            if lines:
                columns, _, *rows = map(_cells, lines)
                tables.append(Table(tuple(text for _, text in headings), columns, tuple(rows)))
                lines = []
            if heading := re.match(r"(#+) (.*)", line):
                level = len(heading[1])
                headings = [*(h for h in headings if h[0] < level), (level, heading[2])]
        return tables

    def table(self, heading: str) -> Table:
        """The one table directly under a heading."""
        (found,) = (table for table in self.tables if table.heading == heading)
        return found


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])


def code(cell: str) -> str:
    """The text of a cell that is code and nothing else."""
    assert re.fullmatch(r"`[^`]+`", cell), f"{cell!r} is not code"
    return cell[1:-1]


def words_of_code(text: str) -> set[str]:
    """Everything in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


@cache
def page(name: str) -> Page:
    return Page(name, (ROOT / name).read_text(encoding="utf-8"))
