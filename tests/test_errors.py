import pytest

from trust_exp.errors import UserError, check_range


@pytest.mark.parametrize(
    ("value", "most", "sentence"),
    [
        (1.0000001, 1, "x must be at most 1; got 1.0000001"),
        (4294967296, 4294967295, "x must be at most 4294967295; got 4294967296"),
        (0.5, 8 / 255, "x must be at most 0.03137254901960784; got 0.5"),
        (3, 2.5, "x must be at most 2.5; got 3"),
    ],
)
def test_a_limit_is_told_exactly(value, most, sentence):
    with pytest.raises(UserError) as error:
        check_range("x", value, most=most)
    assert str(error.value) == sentence
