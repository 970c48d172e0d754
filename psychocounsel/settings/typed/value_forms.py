"""Messages on values of a wrong type, in the user's words instead of OmegaConf's."""

import re

from omegaconf.errors import OmegaConfBaseException

_FORMS = {
    "is not a ListConfig, list or tuple": ": is a list, written [VALUE,VALUE]",
    "to Dict[str,": ": is a dictionary, written {NAME: VALUE}",
    "' to string": ": is a text; a text in brackets or braces needs quotes of its own, as \"KEY='[VALUE]'\"",
    "Incompatible value 'None'": ": cannot be null; give a value, or leave it out",
}
_TYPED = re.compile(
    r"Value '(?P<value>.*)' (of type '\w+' could not be converted to (?P<type>Integer|Float)$|is not a valid bool)"
)
_TYPES = {"Integer": "a whole number", "Float": "a number", None: "true or false"}


def wrong_value(error: OmegaConfBaseException) -> str:
    """Return the key and what its value must be: `seed=1.5: must be a whole number`."""
    said = str(error).splitlines()[0]
    if found := _TYPED.match(said):
        return f"{error.full_key}={found['value']}: must be {_TYPES[found['type']]}"
    return f"{error.full_key}{next((words for form, words in _FORMS.items() if form in said), f': {said}')}"
