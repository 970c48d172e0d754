"""CPU tests of attention on GPU: the chosen implementation, the number of compilations, and the kernel's substitute."""

import os
import stat
from pathlib import Path

import pytest
import torch

from psychocounsel.data.batch import build_batch
from psychocounsel.data.layout import Layout
from psychocounsel.errors import UserError
from psychocounsel.model import attention
from psychocounsel.model import attention as ways
from psychocounsel.model.attention import by_sequence
from psychocounsel.model.packed import Policy
from tests.support.harness import random_groups, small_lm


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the graphs into which FlexAttention was traced, one per compilation; they run uncompiled."""
    graphs = list[object]()

    def keep(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    attention._compiled.cache_clear()
    monkeypatch.setattr(ways, "require_compiler", lambda *_: None)
    monkeypatch.setattr(attention, "BACKEND", keep)
    return graphs


@pytest.mark.slow
@torch.no_grad()
def test_rows_of_other_widths_are_not_compiled_again(compilations: list[object]) -> None:
    policy = Policy(small_lm(), "m", attention="flex", device="cuda")
    for count in (12, 24, 36, 60, 90):
        batch = build_batch([random_groups(count, 3, seed=count)], multiple=128)
        policy(batch)
        assert batch.input_ids.shape[1] >= 256
    assert len(compilations) == 1


@torch.no_grad()
def test_at_the_limit_of_compilations_a_line_ends_the_run(
    compilations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MOST_FORMS", 1)
    batch = build_batch([random_groups(24, 3)], multiple=128)
    Policy(small_lm(), "m", attention="flex", device="cuda")(batch)
    with pytest.raises(
        UserError, match="model.attention=flex: torch has compiled 1 forms of its kernel.*use model.attention="
    ):
        Policy(small_lm(num_attention_heads=6), "m", attention="flex", device="cuda")(batch)
    assert len(compilations) == 1


def compiler_in(folder: Path) -> None:
    program = folder / "gcc"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)


@pytest.mark.parametrize(
    ("kind", "has_compiler", "device", "way"),
    [
        ("llama", False, "cuda", "varlen"),
        ("llama", True, "cuda", "varlen"),
        ("mistral", True, "cuda", "varlen"),
        ("gemma2", True, "cuda", "flex"),
        ("gemma2", False, "cuda", "dense"),
        ("llama", True, "cpu", "varlen"),
        ("gemma2", True, "cpu", "dense"),
    ],
)
def test_auto(
    kind: str, has_compiler: bool, device: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = tmp_path / "include"
    headers.mkdir()
    (headers / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(headers)})
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if has_compiler:
        compiler_in(tmp_path)
    assert Policy(small_lm(kind), kind, device=device).attention.way == way


def test_flex_without_a_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind, instead in (("llama", "varlen"), ("gemma2", "dense")):
        with pytest.raises(UserError, match=rf"C compiler \(gcc\) is missing: .* use model.attention={instead}"):
            Policy(small_lm(kind), kind, attention="flex", device="cuda")
    assert "gcc" not in os.listdir(tmp_path)


@pytest.mark.parametrize("window", [None, 5])
def test_sequences_one_by_one_are_those_of_a_mask(window: int | None) -> None:
    """A GPU does this in fp32, or with heads that the kernel does not support, forward and backward."""
    batch = build_batch([random_groups(3, 3, seed=2)])
    layout, width = batch.layout, batch.input_ids.shape[1]
    assert isinstance(layout, Layout)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, width, 12, requires_grad=True) for heads in (4, 2, 2))
    sees = attention.visible(batch, window)
    index = torch.arange(width)
    mask = sees(torch.zeros((), dtype=torch.long), None, index[:, None], index[None, :])
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    found = by_sequence(query, key, value, layout, 0.3, window)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weights = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
