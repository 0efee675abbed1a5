"""Regular expressions and choices as grammars that the engines read: an engine that meets what it cannot read may end,
so what reaches it is written here, of few means."""

from __future__ import annotations

from typing import NoReturn

from cluster import errors
from cluster.names import cut

MOST_CHARACTERS = 1_000
MOST_DEPTH = 32
#: Of one part; and of all parts together, with repeats counted out and each part as much as it weighs: the engine
#: compares all of its vocabulary with each, between the steps of everybody's answers.
MOST_REPEATS = 256
MOST_PARTS = 2_000
CLASS_WEIGHT = 4
#: Of a class that has almost all letters: measured, 30 ms each where others take up to 4.
WIDE_WEIGHT = 20
#: Parts that may be left out: llama.cpp follows each way through them, 50 in a row took two seconds.
MOST_OPTIONAL = 32
MOST_CHOICES = 1_000
MOST_CHOICE_CHARACTERS = 20_000

CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": " \\t\\n\\r\\u000C\\u000B"}
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
#: Behind a backslash, these stand for themselves.
SIGNS = frozenset("\\^$.|?*+()[]{}-/ \"'#&~@!%,:;<=>_`")


def choice_grammar(choices: object) -> str:
    if not isinstance(choices, list) or not choices or not all(isinstance(each, str) and each for each in choices):
        raise errors.InvalidBody("A choice is a list of the texts that the answer may be.", "choice")
    if len(choices) > MOST_CHOICES or sum(map(len, choices)) > MOST_CHOICE_CHARACTERS:
        raise errors.InvalidBody(
            f"A choice has up to {MOST_CHOICES} texts of {MOST_CHOICE_CHARACTERS} characters together.", "choice"
        )
    return "root ::= " + " | ".join(literal(each, "choice") for each in dict.fromkeys(choices))


def regex_grammar(pattern: object) -> str:
    """The whole answer is held to the pattern."""
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MOST_CHARACTERS:
        raise errors.InvalidBody(f"A regex is a text of 1 to {MOST_CHARACTERS} characters.", "regex")
    return f"root ::= {_Pattern(pattern).grammar()}"


def literal(text: str, param: str) -> str:
    return f'"{"".join(_escaped(letter, param) for letter in text)}"'


def _escaped(letter: str, param: str = "regex") -> str:
    """As it stands between quotes or brackets of a grammar."""
    code = ord(letter)
    if 0xD800 <= code <= 0xDFFF or not code:
        raise errors.InvalidBody("There is a character that is none.", param)
    if letter in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[letter]
    if letter.isascii() and letter.isalnum() or letter in " _":
        return letter
    # Of always four digits: how many follow a \x differs between the engines.
    return f"\\u{code:04X}" if code < 0x10000 else letter


class _Part:
    """A part of a grammar: whether it may be empty, and how much there is of it, with what is repeated counted out."""

    def __init__(self, text: str, may_be_empty: bool, size: int) -> None:
        self.text, self.may_be_empty, self.size = text, may_be_empty, size


class _Pattern:
    def __init__(self, pattern: str) -> None:
        # The whole answer matches anyway.
        self._text = pattern.removeprefix("^")
        if self._text.endswith("$") and (len(self._text) - len(self._text[:-1].rstrip("\\"))) % 2:
            self._text = self._text[:-1]
        self._at = 0
        self._depth = 0
        self._optional = 0

    def grammar(self) -> str:
        part = self._alternatives()
        if self._at < len(self._text):
            self._refuse("a ) that closes nothing")
        return part.text

    def _refuse(self, what: str) -> NoReturn:
        raise errors.BadRequest(
            f"Answers cannot be held to this regex: it has {what}. Classes, groups, alternatives and repeats up to "
            f"{MOST_REPEATS} can be used.",
            "regex",
        )

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _pop(self) -> str:
        letter = self._next()
        if not letter:
            self._refuse("an end within a part")
        self._at += 1
        return letter

    def _meets(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _alternatives(self) -> _Part:
        parts = [self._sequence()]
        while self._meets("|"):
            parts.append(self._sequence())
        return self._sized(" | ".join(part.text for part in parts), any(p.may_be_empty for p in parts), parts)

    def _sequence(self) -> _Part:
        parts = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        text = " ".join(part.text for part in parts) or '""'
        return self._sized(text, all(part.may_be_empty for part in parts), parts)

    def _sized(self, text: str, may_be_empty: bool, parts: list[_Part]) -> _Part:
        size = sum(part.size for part in parts)
        if size > MOST_PARTS:
            self._refuse(
                f"more than {MOST_PARTS} parts, where a class counts as {CLASS_WEIGHT} and a wide one as {WIDE_WEIGHT}"
            )
        return _Part(text, may_be_empty, size)

    def _atom(self) -> _Part:
        letter = self._pop()
        if letter == "(":
            return self._group()
        if letter == "[":
            return self._weighed(self._class())
        if letter == ".":
            return self._weighed("[^\\n]")
        if letter == "\\":
            kind = self._next()
            if kind.lower() in CLASSES:
                self._at += 1
                return self._weighed(f"[{'^' if kind.isupper() else ''}{CLASSES[kind.lower()]}]")
            return _Part(literal(self._escape(), "regex"), False, 1)
        if letter in "^$":
            self._refuse(f"a {letter} within it")
        if letter in "*+?{":
            self._refuse(f"a {letter} behind nothing that it could repeat")
        return _Part(literal(letter, "regex"), False, 1)

    def _weighed(self, text: str) -> _Part:
        # A range up to letters beyond ASCII is written with them.
        is_wide = "[^" in text or "-\\u" in text or not text.isascii()
        return _Part(text, False, WIDE_WEIGHT if is_wide else CLASS_WEIGHT)

    def _group(self) -> _Part:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            self._refuse(f"groups within more than {MOST_DEPTH} others")
        if self._meets("?P<"):
            name = self._text[self._at :].partition(">")[0]
            if not name.isidentifier():
                self._refuse("a group without a proper name")
            self._at += len(name) + 1
        elif not self._meets("?:") and self._next() == "?":
            self._refuse("a group that looks ahead or behind, or sets a flag")
        part = self._alternatives()
        if not self._meets(")"):
            self._refuse("a ( that is not closed")
        self._depth -= 1
        return _Part(f"({part.text})", part.may_be_empty, part.size)

    def _repeated(self, part: _Part) -> _Part:
        least, most = self._repeats()
        if (least, most) == (1, 1):
            return part
        # Whether few or many are preferred means nothing for a grammar.
        self._meets("?")
        if self._next() and self._next() in "*+?{":
            self._refuse("a repeat of a repeat")
        if part.may_be_empty and most != 1:
            self._refuse("a repeat of what may be empty")
        self._optional += not least
        if self._optional > MOST_OPTIONAL:
            self._refuse(f"more than {MOST_OPTIONAL} parts that may be left out")
        signs = {(0, None): "*", (1, None): "+", (0, 1): "?"}
        braces = f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"
        text = f"({part.text}){signs.get((least, most), braces)}"
        size = part.size * max(1, least, most or 0)
        return self._sized(text, not least, [_Part(text, not least, size)])

    def _repeats(self) -> tuple[int, int | None]:
        for sign, repeats in {"*": (0, None), "+": (1, None), "?": (0, 1)}.items():
            if self._meets(sign):
                return repeats
        if not self._meets("{"):
            return 1, 1
        inner, closed, _ = self._text[self._at :].partition("}")
        first, comma, last = inner.partition(",")
        numbers = [first, *([last] if last else [])]
        if not closed or not all(each.isascii() and each.isdigit() and len(each) < 5 for each in numbers):
            self._refuse("a { that says no number of repeats")
        self._at += len(inner) + 1
        least = int(first)
        most = (int(last) if last else None) if comma else least
        if not 0 < (least if most is None else max(least, most)) <= MOST_REPEATS and (least, most) != (0, None):
            self._refuse(f"a repeat that is not of 1 to {MOST_REPEATS} times")
        if most is not None and most < least:
            self._refuse("a repeat of more than its most")
        return least, most

    def _class(self) -> str:
        is_negated = self._meets("^")
        ranges: list[tuple[str, str]] = []
        named: list[str] = []
        negated: list[str] = []
        is_first = True
        while is_first or self._next() != "]":
            is_first = False
            letter = self._pop()
            if letter == "[":
                self._refuse("a [ within a class without a backslash")
            if letter == "\\" and self._next().lower() in CLASSES:
                kind = self._pop()
                (negated if kind.isupper() else named).append(CLASSES[kind.lower()])
                continue
            low = high = self._escape() if letter == "\\" else letter
            if self._next() == "-" and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._range_end()
            if high < low:
                self._refuse("a range that runs backwards")
            ranges.append((low, high))
        self._at += 1
        if is_negated and negated:
            self._refuse("a negated class within one")
        return _class_grammar(is_negated, ranges, named, negated)

    def _range_end(self) -> str:
        letter = self._pop()
        if letter == "\\" and self._next().lower() in CLASSES:
            self._refuse("a range up to a class")
        return self._escape() if letter == "\\" else letter

    def _escape(self) -> str:
        """What is written behind a backslash."""
        kind = self._pop()
        if kind in CONTROLS:
            return CONTROLS[kind]
        if kind in SIGNS:
            return kind
        length = {"x": 2, "u": 4}.get(kind, 0)
        digits = self._text[self._at : self._at + length]
        if not length or len(digits) < length or not all(each in "0123456789abcdefABCDEF" for each in digits):
            self._refuse(f"a backslash before {cut(kind)}, which cannot be used")
        self._at += length
        return chr(int(digits, 16))


def _class_grammar(is_negated: bool, ranges: list[tuple[str, str]], named: list[str], negated: list[str]) -> str:
    """Some engines take ^ and - for signs of a class even where they are escaped: they stand where they cannot be, or
    beside it."""
    signs = [sign for sign in "^-" if any(low <= sign <= high for low, high in ranges)]
    inner = "".join(named) + "".join(_range(low, high) for each in ranges for low, high in _without_signs(*each))
    if is_negated:
        return f"[^{inner}{''.join(map(_escaped, signs))}]"
    parts = [f"[{inner}]"] if inner else []
    parts += [literal(sign, "regex") for sign in signs] + [f"[^{each}]" for each in negated]
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def _without_signs(low: str, high: str) -> list[tuple[str, str]]:
    """The ranges that are left of one without ^ and -."""
    ranges = [(ord(low), ord(high))]
    for sign in map(ord, "^-"):
        cut_up = [part for a, b in ranges for part in ((a, min(b, sign - 1)), (max(a, sign + 1), b))]
        ranges = [(a, b) for a, b in dict.fromkeys(cut_up) if a <= b]
    return [(chr(a), chr(b)) for a, b in ranges]


def _range(low: str, high: str) -> str:
    return _escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}"
