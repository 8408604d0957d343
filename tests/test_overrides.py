"""Overrides as text: keys, lists in brackets and quotes, against a plain scan and against what Hydra reads."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given, settings
from hypothesis import strategies as st

from trust_exp.errors import UserError
from trust_exp.messages import sentence_for
from trust_exp.overrides import Key, key_of, overrides_in, quote_runs, split

PAIRS = {"[": "]", "{": "}", "(": ")"}
NAMES = ("source", "ranking", "run")


def scan(text: str) -> list[str]:
    """Split at top-level commas, character by character."""
    parts, begin, closing, quote = [], 0, [], ""
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[at - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char in PAIRS:
            closing.append(PAIRS[char])
        elif closing and char == closing[-1]:
            closing.pop()
        elif char == "," and not closing:
            parts.append(text[begin:at])
            begin = at + 1
    return [*parts, text[begin:]]


words = st.from_regex(r"[a-z0-9./_+~@$%*-]{0,6}", fullmatch=True)
texts = st.from_regex(r"'([a-z ,=\[\]{}\"]|\\')*[a-z]'", fullmatch=True)
interpolations = st.from_regex(r"\$\{[a-z.]{1,4}(:[a-z0-9,]{0,4})?\}", fullmatch=True)
values = st.recursive(
    words | texts | interpolations,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(inner, min_size=1, max_size=3).map(lambda items: f"f({', '.join(items)})")
        | st.lists(inner, max_size=3).map(lambda items: f"{{{', '.join(f'k: {item}' for item in items)}}}")
    ),
    max_leaves=6,
)
keys = st.from_regex(
    r"(\+{0,2}|~)[a-z]{1,4}((\.[a-z][a-z0-9]{0,2}){0,2}|(/[a-z]{1,3}){1,2})(@[a-z]{1,3}(\.[a-z]{1,3})?)?",
    fullmatch=True,
)
overrides = st.tuples(keys, values).map("=".join)


@settings(max_examples=40)
@given(st.lists(values, min_size=1, max_size=4))
def test_values_are_split_at_their_own_commas(parts):
    text = ",".join(parts)
    assert split(text) == scan(text) == parts


@given(st.text(alphabet="ab=,'\"[]{}()$\\~ +.é\n", max_size=12))
def test_no_text_loses_a_character(text):
    assert ",".join(split(text)) == text


@settings(max_examples=40)
@given(st.lists(overrides, min_size=1, max_size=4))
def test_overrides_in_brackets_are_found_bare_and_quoted(parts):
    assert overrides_in(f"[{','.join(parts)}]") == parts
    assert overrides_in(f" [ {' , '.join(parts)} ] ") == parts
    plain = [part for part in parts if "'" not in part and "\\" not in part]
    if plain:
        assert overrides_in("[" + ",".join(f"'{part}'" for part in plain) + "]") == plain


@settings(max_examples=25)
@given(st.lists(st.lists(overrides, min_size=1, max_size=3), min_size=1, max_size=3))
def test_hydra_reads_quoted_lists_as_the_texts_that_they_were(sources):
    written = [f"[{','.join(source)}]" for source in sources]
    argument = quote_runs(f"model.source={','.join(written)}", NAMES)
    assert quote_runs(argument, NAMES) == argument
    value = OverridesParser.create().parse_override(argument).value()
    read = [item.text for item in value.list] if len(written) > 1 else [value]
    assert read == written
    assert [overrides_in(text) for text in read] == sources


@pytest.mark.parametrize("text", ["[a='b\\'c']", "[a='b\\\\']", '[a="it\'s"]', "[dataset.path='a b',x={k: 'v,w'}]"])
def test_quotes_and_backslashes_within_a_source_survive(text):
    argument = quote_runs(f"source={text}", NAMES)
    assert OverridesParser.create().parse_override(argument).value() == text


@settings(max_examples=40)
@given(st.lists(st.from_regex(r"[0-9a-f]{4,10}", fullmatch=True), min_size=1, max_size=3))
def test_an_id_is_read_as_the_text_that_it_is(ids):
    value = OverridesParser.create().parse_override(quote_runs(f"run={','.join(ids)}", NAMES)).value()
    read = value.list if len(ids) > 1 else [value]
    assert [str(getattr(item, "text", item)) for item in read] == ids


@pytest.mark.parametrize("argument", ["lr=1e5", "x=1234567e10", "setup=[a=b]", "~source", "-m", "a b=[c=d]", "source"])
def test_what_names_no_run_is_left_alone(argument):
    assert quote_runs(argument, NAMES) == argument


@pytest.mark.parametrize(
    ("override", "key", "part"),
    [
        ("seed=3", Key("seed"), "seed"),
        ("+a.b@c.d=1", Key("a.b", "c.d"), "c"),
        ("dataset@eval.clean.data=svhn", Key("dataset", "eval.clean.data"), "eval"),
        ("++method.subset.ranking=[a=[b,c],d='e=f']", Key("method.subset.ranking"), "method"),
        ("~fit.epochs", Key("fit.epochs"), "fit"),
        ("~fit.epochs=3", Key("fit.epochs"), "fit"),
        ("hydra/launcher=slurm", Key("hydra/launcher"), "hydra"),
        ("+experiments/cll/table_4_2=glob(*)", Key("experiments/cll/table_4_2"), "experiments"),
        ("source=[a=${b:c,d}", Key("source"), "source"),
        ("x=", Key("x"), "x"),
    ],
)
def test_the_key_of_an_override(override, key, part):
    assert key_of(override) == key
    assert key_of(override).part == part


@settings(max_examples=40)
@given(overrides)
def test_a_key_is_what_hydra_reads(override):
    key = override.partition("=")[0]
    parsed = OverridesParser.create().parse_override(f"{key}=1")
    assert key_of(override) == (parsed.key_or_group, parsed.package)


@pytest.mark.parametrize("override", ["digits", "a b=1", "a@b@c=1", "seed:3", ""])
def test_what_is_no_override_has_no_key(override):
    with pytest.raises(OverrideParseException) as error:
        key_of(override)
    assert repr(override) in (sentence_for(error.value) or "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "[] describes no run; write overrides in brackets, such as '[method=standard,dataset=digits]'"),
        ("[method=standard", "[method=standard describes no run"),
        ("[ , ]", "describes no run"),
        ("[digits,seed=1]", "'digits' is not key=value"),
        ("[=1]", "'=1' is not key=value"),
        ("[method=standard,seed=0,1]", "'1' is not key=value"),
        ("['method=standard','digits']", "'digits' is not key=value"),
        ("['method=standard' 'seed=1']", "is not key=value"),
    ],
)
def test_what_describes_no_run_is_one_sentence(text, sentence):
    with pytest.raises(UserError) as error:
        overrides_in(text)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
