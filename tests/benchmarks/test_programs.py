"""The description of a compiled program, against numbers counted by hand in its text."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import absent_device, programs, targets
from benchmarks.hlo import Program, layer_of
from configs import cifar10

# A loop whose body has a fusion that reads 4 of its operand's 8 rows, a convolution, a collective
# and three instructions that do nothing; and a copy of 8 x 16 numbers before it.
TEXT = """
HloModule jit_steps

%fused_slice (param_0: f32[8,16], param_1: f32[16]) -> f32[4,16] {
  %param_0 = f32[8,16]{1,0} parameter(0)
  %part = f32[4,16]{1,0} slice(%param_0), slice={[0:4], [0:16]}
  %param_1 = f32[16]{0} parameter(1)
  %spread = f32[4,16]{1,0} broadcast(%param_1), dimensions={1}
  ROOT %sum = f32[4,16]{1,0} add(%part, %spread)
}

%body (state: (s32[], f32[8,16], f32[16])) -> (s32[], f32[8,16], f32[16]) {
  %state = (s32[], f32[8,16]{1,0}, f32[16]{0}) parameter(0)
  %rows = f32[8,16]{1,0} get-tuple-element(%state), index=1
  %bias = f32[16]{0} get-tuple-element(%state), index=2
  %loop_add_fusion.3 = f32[4,16]{1,0} fusion(%rows, %bias), kind=kLoop, calls=%fused_slice, metadata={op_name="jit(steps)/while/body/jvp(inception3a)/conv3x3/add"}, backend_config={"estimated_cycles":"700"}
  %conv.1 = (bf16[2,16]{1,0}, u8[0]{0}) custom-call(%loop_add_fusion.3), custom_call_target="__cudnn$convForward", metadata={op_name="jit(steps)/while/body/transpose(jvp(fc))/dot"}
  %all-reduce.1 = f32[16]{0} all-reduce(%bias), to_apply=%add
  ROOT %next = (s32[], f32[8,16]{1,0}, f32[16]{0}) tuple(%state, %rows, %all-reduce.1)
}

ENTRY %main (a: s32[], b: f32[8,16], c: f32[16]) -> (s32[], f32[8,16], f32[16]) {
  %a = s32[] parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  %c = f32[16]{0} parameter(2)
  %copy.1 = f32[8,16]{1,0} copy(%b), backend_config={"estimated_cycles":"90"}
  %begin = (s32[], f32[8,16]{1,0}, f32[16]{0}) tuple(%a, %copy.1, %c)
  ROOT %while.1 = (s32[], f32[8,16]{1,0}, f32[16]{0}) while(%begin), condition=%until, body=%body
}
"""  # noqa: E501


def test_the_data_are_described_from_the_config():
    config = cifar10.get_config()
    config.data.downscale, config.data.valid_examples = 2, 1000
    info, counts = absent_device.describe_data(config)
    assert info.image_shape == (16, 16, 3)
    assert counts == {"train": 49_000, "test": 10_000}
    config.data.max_train_examples = 10_000
    assert absent_device.describe_data(config)[1] == {"train": 10_000, "test": 10_000}


def test_kernels_bytes_and_cycles_by_hand():
    program = Program(TEXT)
    fusion, conv, reduce = program.loop
    assert (fusion.kind, fusion.cycles) == ("fusion:loop_add_fusion", 700)
    assert fusion.layer == "inception3a/conv3x3"
    assert fusion.bytes == 4 * (4 * 16 + 4 * 16 + 16)  # result written, rows read, bias read
    assert (conv.kind, conv.layer) == ("custom-call:__cudnn$convForward", "fc backward")
    assert conv.bytes == 2 * 2 * 16 + 4 * 4 * 16
    assert reduce.bytes == 2 * 4 * 16
    assert sum(kernel.cycles for kernel in program.entry) == 90
    assert programs.collectives(program.loop) == {"all-reduce": {"number": 1, "bytes": 128}}
    costliest = programs.costliest(program.loop)
    assert [row["layer"] for row in costliest] == ["inception3a/conv3x3", "fc backward", ""]


def test_the_largest_branch_of_a_conditional_counts():
    """A streamed step is such a conditional: it is skipped after a step that is not finite."""

    def step(x, is_sound):
        return jax.lax.cond(is_sound, lambda x: jnp.tanh(x @ x) @ x, lambda x: x, x)

    program = Program(jax.jit(step).lower(jnp.ones((64, 64)), True).compile().as_text())
    assert not program.loop
    assert sum(kernel.bytes for kernel in program.entry) >= 5 * 64 * 64 * 4


def test_layers_are_read_from_operation_names():
    path = "jit(train_steps)/while/body/transpose(jvp(inception4e))/reduce/cond/branch_0_fun/add"
    assert layer_of(path) == "inception4e/reduce backward"
    assert layer_of("jit(train_steps)/while/body/jvp(conv1)/convert_element_type") == "conv1"
    assert layer_of("jit(train_steps)/while/body/reduce_sum") == ""


def test_a_program_of_the_installed_compiler():
    """The text format is not stable across compiler versions."""

    def steps(x):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ x), x)

    program = Program(jax.jit(steps).lower(jnp.ones((64, 64))).compile().as_text())
    assert program.loop
    assert sum(kernel.bytes for kernel in program.loop) >= 3 * 64 * 64 * 4


def test_a_missing_compiler_is_a_one_line_error(monkeypatch, capsys):
    monkeypatch.setitem(targets.COMPILERS, "tpu", ("no_such_package", "tpu"))
    assert programs.main(["--target", "v5e", "--config", "digits"]) == 2
    assert capsys.readouterr().err == "error: TPU v5e: needs pip install 'jax[tpu]'\n"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["h100", "v5e"])
@pytest.mark.parametrize(("devices", "work"), [(1, "training"), (8, "training"), (1, "evaluation")])
def test_a_small_network_is_compiled_for_absent_devices(tmp_path, target, devices, work):
    """Needs libtpu or JAX's CUDA plugin."""
    command = ["--target", target, "--devices", str(devices), "--work", work, "--config", "digits"]
    small = ["--config.model.width_multiplier=0.0625", "--json", str(tmp_path / "found.json")]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.programs", *command, *small],
        capture_output=True,
        text=True,
    )
    if run.returncode == 2 and "needs pip install" in run.stderr:
        pytest.skip(run.stderr)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fits"]
    assert 1e6 < found["bytes"] < 1e9
    assert (found["kernels"] if target == "h100" else found["cycles"]) > 100
    assert ("all-reduce" in found["collectives"]) == (devices > 1)
    assert any(row["layer"].startswith("inception") for row in found["costliest"])
