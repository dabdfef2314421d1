"""What was found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table

#: "leak": a prediction may know what it is to predict. "flaw": wrong, but tells nothing of labels. "skipped": not applicable.
Status = Literal["ok", "leak", "flaw", "skipped"]
STYLES = {"ok": "green", "leak": "bold red", "flaw": "yellow", "skipped": "dim"}


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: What was asked, e.g. "future events".
        status: "ok", "leak", "flaw" or "skipped".
        figure: The finding as a short text, e.g. "0 of 12,000 roots changed".
        meaning: What that says, in a sentence.
        example: The first counter-example: root, time, offending event; None without one.
        value: The finding as a number: a share, or an AUC; NaN where there is none.
    """

    name: str
    status: Status
    figure: str
    meaning: str
    example: str | None = None
    value: float = math.nan


@dataclass
class Report:
    """All answers about one sampler or model.

    Attributes:
        kind: "sampler" or "model".
        subject: What was checked.
        data: On which stream.
        settings: How: semantics, batch size, neighbours, seed.
        checks: The answers.
    """

    kind: str
    subject: str
    data: str
    settings: dict[str, Any]
    checks: list[Check] = field(default_factory=list)

    @property
    def leaks(self) -> list[Check]:
        return [c for c in self.checks if c.status == "leak"]

    @property
    def flaws(self) -> list[Check]:
        return [c for c in self.checks if c.status == "flaw"]

    @property
    def verdict(self) -> str:
        if self.leaks:
            return f"LEAK: {', '.join(c.name for c in self.leaks)}"
        return "no leak found" + (f"; flaws: {', '.join(c.name for c in self.flaws)}" if self.flaws else "")

    def __getitem__(self, name: str) -> Check:
        """The answer of the check `name`."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there is: {', '.join(c.name for c in self.checks)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN becomes None."""
        checks = [{k: None if v != v else v for k, v in asdict(c).items()} for c in self.checks]
        head = {"kind": self.kind, "subject": self.subject, "data": self.data, "settings": self.settings}
        return {**head, "verdict": self.verdict, "leak": bool(self.leaks), "checks": checks}

    def table(self) -> Table:
        """As a table for a terminal."""
        from rich.markup import escape
        from rich.table import Table

        settings = ", ".join(f"{k} {v}" for k, v in self.settings.items())
        table = Table(
            title=f"{self.kind} {escape(self.subject)} on {escape(self.data)}\n{settings}",
            title_justify="left",
            caption=escape(self.verdict),
            caption_justify="left",
            caption_style=STYLES["leak" if self.leaks else "flaw" if self.flaws else "ok"],
            show_lines=True,
        )
        for column in ("check", "verdict", "finding", "what it means"):
            table.add_column(column)
        for c in self.checks:
            meaning = escape(c.meaning) + (f"\n[bold]first:[/bold] {escape(c.example)}" if c.example else "")
            table.add_row(c.name, f"[{STYLES[c.status]}]{c.status}[/]", escape(c.figure), meaning)
        return table
