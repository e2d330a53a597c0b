"""A word said in one place: Python's keyword, the command's option, the file's key, the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
import typer
from typer.testing import CliRunner

import orthwrap
from orthwrap.rules import words
from orthwrap.rules.file import read_rules
from orthwrap.rules.rule import AttachWords, Rule, RuleWords
from orthwrap.rules.words import Said, Word, documented, words_of
from orthwrap.training.settings import Settings, TrainingWords
from orthwrap_cli.reference import page
from orthwrap_cli.word_options import with_words
from tests.conftest import REPOSITORY


@documented()
class ToyWords(TypedDict, total=False):
    """Words of a table from outside.

    Attributes:
        {words}
    """

    warmth: Annotated[
        float | None,
        Word("How warm it gets. Default: 2.", words.positive, 2.0, "Toys", metavar="T"),
    ]
    colour: Annotated[
        str | None, Word("Which colour.", words.choice("red", "blue"), None, "Toys", flags=("-c",))
    ]


class Toy(Said):
    TABLE = ToyWords


def test_one_word_makes_check_default_option_and_docs() -> None:
    assert (Toy().warmth, Toy(warmth=3).warmth, Toy(warmth=None).warmth) == (2.0, 3.0, 2.0)
    with pytest.raises(orthwrap.ValueFault, match="warmth -1 must be a finite number above 0"):
        Toy(warmth=-1)
    with pytest.raises(orthwrap.ValueFault, match="'green' is not known; choose one of: red, blue"):
        Toy(colour="green")
    assert "`warmth`: How warm it gets. Default: 2." in str(ToyWords.__doc__)

    said: list[Any] = []
    app = typer.Typer()

    @app.command()
    @with_words(toys=ToyWords)
    def play(toys: Any = None) -> None:
        said.append(toys)

    told = CliRunner().invoke(app, ["--help"]).output
    assert "--warmth" in told
    assert "How warm it gets." in told
    assert CliRunner().invoke(app, ["--warmth", "3", "-c", "red"]).exit_code == 0
    assert said == [{"warmth": 3.0, "colour": "red"}]
    # What cannot be read is handed on, and said with all else that is wrong.
    assert CliRunner().invoke(app, ["-c", "green", "--warmth", "hot"]).exit_code == 0
    with pytest.raises(orthwrap.UsageError) as raised:
        Toy(**said[-1])
    assert raised.value.args == (
        "--warmth 'hot' is not a number",
        "--colour 'green' is not known; choose one of: red, blue",
    )


@pytest.mark.parametrize("table", [RuleWords, TrainingWords])
def test_every_word_says_what_it_takes(table: type) -> None:
    for name, word in words_of(table).items():
        assert word.help.endswith("."), name
        assert word.panel, name
        if word.default is not None:
            assert word.kind.check(name, word.default) == word.default, name


def test_what_was_said_never_changes() -> None:
    settings = Settings(epochs=3)
    with pytest.raises(AttributeError, match="replace"):
        settings.epochs = 4
    with pytest.raises(AttributeError):
        del settings.epochs
    with pytest.raises(AttributeError, match="no word 'epcohs'"):
        settings.epcohs  # noqa: B018
    assert settings.replace(seed=1) == Settings(epochs=3, seed=1)
    assert settings == Settings(epochs=3) != Settings()
    assert repr(settings) == "Settings(epochs=3)"


def test_rule_knows_its_words_alone() -> None:
    own = {*words_of(AttachWords), "schedule", "pull"}
    assert set(vars(Rule())) == set(words_of(RuleWords)) == own
    with pytest.raises(TypeError, match="unexpected keyword 'targt'"):
        Rule(targt="conv")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("targt = ['a']", "unknown key 'targt'"),
        ("target = 3", "target must be a list of patterns"),
        ("target = [3]", "target must be a list of patterns"),
        ("exclude = {}", "exclude must be a list of patterns"),
        ("regularizer = 3", "regularizer must be a text"),
        ("factor = true", "factor must be a number, or auto"),
        ("factor = [1]", "factor must be a number, or auto"),
        ("factor = 'x'", "factor 'x' is not a number"),
        ("factor_for = 'x=1'", "factor_for must be a table"),
        ("options = 3", "options must be a table"),
        ("scale = 'huge'", "scale 'huge' is not known; choose one of: auto, unit, preserve"),
        ("on = 1", "on must be a text"),
        ("schedule = 1", "schedule must be a text"),
        ("schedule = 'sine'", "schedule 'sine'"),
    ],
)
def test_wrong_values_in_a_rules_file_are_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(f"[[rule]]\n{line}\n")
    with pytest.raises(orthwrap.ValueFault, match=said):
        read_rules(path)


def test_keys_of_a_rules_file_may_have_hyphens(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text("[[rule]]\ntarget = 'a'\nfactor-for = {'b*' = 'auto', c = 2}\n")
    (rule,) = read_rules(path)
    assert (rule.target, rule.factor_for) == (("a",), (("b*", "auto"), ("c", 2.0)))


def test_page_of_words_is_what_the_code_makes() -> None:
    written = REPOSITORY / "docs" / "words.md"
    assert written.read_text(encoding="utf-8") == page()
