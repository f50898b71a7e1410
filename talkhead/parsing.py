"""What the command line says about wrong use: one sentence, in the words of what was typed."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

ALIASES = {"pipeline": ("speaker", "model", "base"), "data.root": ("root", "cache", "caches", "output")}
"""What functions call an argument that the verbs give names of their own, the first that a verb has."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, and name the option that a mistyped one is nearest to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse what is not known here, where the verb can say what is."""
        self._given = list(args or ())
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known, rest

    def error(self, message: str) -> NoReturn:
        """Say it in one sentence, and exit with 2."""
        hints = [mistyped(text, self.options()) for text in self._given] if self._subparsers is None else []
        said = "; ".join([message, *filter(None, hints), f"see `{self.prog} --help`"])
        self.exit(2, f"talkhead: error: {said}\n")

    def options(self) -> list[str]:
        """Return the options that the help shows."""
        shown = (action for action in self._actions if action.help != argparse.SUPPRESS)
        return [option for action in shown for option in action.option_strings]

    def in_its_words(self, message: str) -> str:
        """Name an argument at the start of a function's message as the verb names it.

        Args:
            message: such as "num_inference_steps must be at least 1; got 0".

        Returns:
            The same, such as "--steps must be at least 1; got 0".
        """
        names = {action.dest: action.option_strings[-1] for action in self._actions if action.option_strings}
        names |= {action.dest: str(action.metavar) for action in self._actions if not action.option_strings}
        found = re.match(r"([\w.]+)(?=:| must )", message)
        name = found[0] if found else ""
        own = next((names[known] for known in (name, *ALIASES.get(name, ())) if known in names), name)
        return own + message.removeprefix(name)


def mistyped(text: str, options: Sequence[str]) -> str:
    """Return what an argument that is none of the options was meant for; "" where it is one, or like none."""
    name = text.partition("=")[0]
    if not name.startswith("--") or name in options:
        return ""
    return nearest(name, options)


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the question whether the most alike of some names was meant; "" where none is alike."""
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]} by {name}?" if near else ""


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int], what: str, examples: str = ""
) -> argparse.ArgumentParser:
    """Add one verb whose help ends with its examples, and return its parser."""
    verb = verbs.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"examples:\n{examples}" if examples else None,
    )
    verb.set_defaults(run=run, parser=verb)
    return verb
