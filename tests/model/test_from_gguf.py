"""Conversion of GGUF files, and the real model that `make smollm2` makes of one."""

import zipfile
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.model.from_gguf import convert
from tests.support.real_model import smollm2


def test_what_cannot_be_converted_is_said_in_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.whl", "w") as archive:
        archive.writestr("a.gguf", "")
        archive.writestr("b.gguf", "")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (tmp_path / "there").mkdir()
    cases = {
        ("missing.gguf", "new"): "missing.gguf: there is no such file",
        ("broken.gguf", "there"): "there: exists already; give another folder",
        ("two.whl", "new"): "two.whl: contains 2 GGUF files, and one is needed",
        ("broken.gguf", "new"): "cannot be loaded",
    }
    for (file, folder), message in cases.items():
        with pytest.raises(UserError, match=message):
            convert(tmp_path / file, tmp_path / folder)
    assert {path.name for path in tmp_path.iterdir()} == {"two.whl", "broken.gguf", "there"}


@pytest.mark.slow
def test_the_real_model_continues_a_sentence() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm, tokenizer = (kind.from_pretrained(smollm2()) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert sum(parameter.numel() for parameter in lm.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(lm(ids).logits[0, -1].argmax()).strip() == "Paris"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}], tokenize=False).endswith(
        "Hi.<|im_end|>\n"
    )
