"""One place on the screen that changes: a notebook output updated in place, or lines in a terminal."""

from __future__ import annotations

import sys
import uuid
from typing import Any

from labkit.render import note_html

__all__ = ["Card", "Shown", "interactive_shell"]


def interactive_shell() -> Any:
    """The IPython shell this runs in, or None in plain Python. Never imports IPython: where it runs, it is loaded."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


class Card:
    """Filled with :meth:`note`, then replaced by each later note and by :meth:`show`."""

    def __init__(self, shell: Any) -> None:
        # Only a kernel can update what is already on the screen; a terminal gets line after line.
        self._publisher = shell.display_pub if getattr(shell, "kernel", None) is not None else None
        self._id = uuid.uuid4().hex
        self._text: str | None = None

    def note(self, sentence: str, *, save: str | None = None) -> None:
        """Show progress. ``save`` asks the page that ran the cell to save its notebook under this request id."""
        self._put(note_html(sentence), sentence, {"gradlab_save": save} if save is not None else {})

    def show(self, html: str, text: str) -> None:
        self._put(html, text, {})

    def _put(self, html: str, text: str, transient: dict[str, str]) -> None:
        if text == self._text:
            return
        first, self._text = self._text is None, text
        if self._publisher is None:
            print(text)
            return
        data = {"text/html": html, "text/plain": text}
        self._publisher.publish(data, {}, transient={"display_id": self._id, **transient}, update=not first)


class Shown:
    """A value that its function has already displayed: as the last value of that cell it is not displayed again."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._cell = getattr(shell, "execution_count", None)

    def display(self, card: Card) -> None:
        card.show(self._repr_html_(), repr(self))

    def _ipython_display_(self) -> None:
        if self._shell is None or self._shell.execution_count != self._cell:
            self.display(Card(self._shell))

    def _repr_html_(self) -> str:
        raise NotImplementedError
