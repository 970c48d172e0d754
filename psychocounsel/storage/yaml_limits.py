"""The loader of YAML files, and limits of those that others give: aliases and nesting must not fill memory or stack."""

import re

import yaml

_ALIAS = re.compile(r"(?:^|[\s\[{,:-])\*[^\s,\]}]", re.MULTILINE)
_LONG = 100_000  # characters; a shorter text is not nested so deep that the C library overflows its stack
_MOST_VALUES = 100_000  # that the aliases of a file may stand for
_DEEPEST = 200
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if PyYAML has it


class Unbounded(yaml.YAMLError):
    """Error: aliases that stand for too many values, or too deep nesting."""


def bounded(text: str) -> str:
    """Return a YAML text whose values are bounded when aliases are replaced by what they stand for.

    Ten lines of aliases of aliases can stand for a billion values, and OmegaConf copies each of them.

    Raises:
        yaml.YAMLError: if they are not (Unbounded), or if the text is not YAML.
    """
    if not _ALIAS.search(text) and len(text) < _LONG:
        return text
    sizes = dict[str, int]()  # number of values of each anchor
    ahead: list[tuple[str | None, int]] = [(None, 0)]  # unfinished mappings and lists: anchor, values so far
    of_aliases = 0
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            ahead.append((event.anchor, 1))
            if len(ahead) > _DEEPEST:
                raise Unbounded(f"it is nested deeper than {_DEEPEST} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = ahead.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise Unbounded("an alias is part of what it stands for, or stands for nothing")
            anchor, size = None, sizes[event.anchor]
            of_aliases += size
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if of_aliases > _MOST_VALUES:
            raise Unbounded(f"its aliases stand for more than {_MOST_VALUES} values")
        ahead[-1] = (ahead[-1][0], ahead[-1][1] + size)
    return text
