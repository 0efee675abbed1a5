"""Patterns become grammars of few means, or are refused with what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from deployments.llm.patterns import choice_grammar, regex_grammar


@pytest.mark.parametrize(
    ("pattern", "grammar"),
    [
        ("ab", '"a" "b"'),
        ("^a$", '"a"'),
        (r"a\$", r'"a" "\u0024"'),
        ("a|", '"a" | ""'),
        ("(a|b)+c?", '(("a" | "b"))+ ("c")?'),
        ("(?:a)(?P<name>b)", '("a") ("b")'),
        (r"\d{3}-\w{2,4}?", r'([0-9]){3} "\u002D" ([a-zA-Z0-9_]){2,4}'),
        ("(a*)?(b?)?", r'((("a")*))? ((("b")?))?'),
        ("a{2,}", '("a"){2,}'),
        (r"\D.", r"[^0-9] [^\n]"),
        (r"[a-f\d_]", "[0-9a-f_]"),
        ("[]a-]", r'([\u005Da] | "\u002D")'),
        (r"[\^a\-f]", r'([af] | "\u005E" | "\u002D")'),
        ("[+-/]", r'([\u002B-\u002C\u002E-\u002F] | "\u002D")'),
        ("[A-z]", r'([A-\u005D_-z] | "\u005E")'),
        ("[^a^-]", r"[^a\u005E\u002D]"),
        ("[-]", r'"\u002D"'),
        (r"[^\]\"]", r"[^\u005D\u0022]"),
        (r"[\s\S]*", r"(([ \t\n\r\u000C\u000B] | [^ \t\n\r\u000C\u000B]))*"),
        ("é🌍", r'"\u00E9" "🌍"'),
        (r"\x41\u00e9\n", r'"A" "\u00E9" "\n"'),
    ],
)
def test_a_regex_becomes_a_grammar(pattern: str, grammar: str) -> None:
    assert regex_grammar(pattern) == f"root ::= {grammar}"


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (7, "1 to 1000 characters"),
        ("", "1 to 1000 characters"),
        ("a" * 1001, "1 to 1000 characters"),
        ("(a", "not closed"),
        ("a)", "closes nothing"),
        ("[a", "an end within"),
        ("[", "an end within"),
        ("a\\", "an end within"),
        ("*a", "behind nothing"),
        ("a**", "repeat of a repeat"),
        ("a*+", "repeat of a repeat"),
        ("(a*)*", "what may be empty"),
        ("(a|)+", "what may be empty"),
        ("(a?){9}", "what may be empty"),
        ("a^b", "a \\^ within"),
        ("a$b", "a \\$ within"),
        ("(?=a)", "looks ahead"),
        ("(?i)a", "sets a flag"),
        ("(?P<1>a)", "proper name"),
        (r"(a)\1", "backslash before 1"),
        (r"\bword", "backslash before b"),
        (r"\p{L}", "backslash before p"),
        (r"\u12", "backslash before u"),
        ("a{1000}", "1 to 256"),
        ("a{0}", "1 to 256"),
        ("a{3,2}", "more than its most"),
        ("a{,2}", "no number"),
        ("a{99999999999}", "no number"),
        ("((a{200}){200}){200}", "more than 2000 parts"),
        ("a?" * 33, "more than 32 parts that may be left out"),
        (".{101}", "more than 2000 parts"),
        (r"[\u4e00-\u9fff]{101}", "more than 2000 parts"),
        (r"(\w{100}){6}", "more than 2000 parts"),
        ("(" * 40 + "a" + ")" * 40, "more than 32"),
        ("[z-a]", "backwards"),
        (r"[^\D]", "negated class"),
        (r"[a-\d]", "up to a class"),
        ("\ud800", "a character that is none"),
    ],
)
def test_a_regex_that_no_grammar_can_be_made_of_is_refused(pattern: Any, says: str) -> None:
    with pytest.raises(errors.BadRequest, match=says):
        regex_grammar(pattern)


def test_choices_become_a_grammar() -> None:
    assert choice_grammar(["yes", 'a "b"', "yes"]) == r'root ::= "yes" | "a \u0022b\u0022"'


@pytest.mark.parametrize("choices", [None, [], "yes", [""], [1], ["a"] * 1001, ["a" * 20_001], ["\ud800"]])
def test_what_is_no_choice_is_refused(choices: Any) -> None:
    with pytest.raises(errors.InvalidBody):
        choice_grammar(choices)
