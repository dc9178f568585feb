"""Targets: the profiles that ship, the user's own, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.devices.host import host_facts, name_cpu, parse_cpuinfo
from edge.devices.targets import PROFILES, load_target, target_names
from edge.errors import ConfigError, UsageError
from edge.runtimes.base import usable_cores
from edge.spec import Scheme

PI5 = """\
processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Revision\t: c04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES.glob("*.toml")))
def test_shipped_profile_loads_and_gives_its_sources(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.description
    assert target.threads <= target.cores
    figures = ["bandwidth_gbs", "peak_gflops", "cache_kb"]
    if name != "cpu":  # which is detected
        figures += ["cpu", "features", "cores", "ram_mb", "page_size"]
    for figure in figures:
        if getattr(target, figure) is not None and not (name == "android" and figure == "features"):
            assert len(target.sources[figure]) > 20, figure


def test_these_targets_ship() -> None:
    assert target_names() == ["android", "cpu", "pixel-4a", "pixel-8", "poco-f7", "rpi", "rpi-zero2w", "rpi4", "rpi5"]


def test_rpi_is_the_current_board_under_its_own_name() -> None:
    alias, board = load_target("rpi"), load_target("rpi5")
    assert alias.name == "rpi"
    assert alias.cpu == board.cpu == "cortex-a76"
    assert alias.sources == board.sources


def test_peaks_are_what_their_sources_compute() -> None:
    assert load_target("rpi5").peak_gflops == pytest.approx(4 * 2.4 * 16)
    assert load_target("rpi4").peak_gflops == pytest.approx(4 * 1.8 * 8)
    assert load_target("rpi-zero2w").peak_gflops == pytest.approx(4 * 1.0 * 8)


def test_cpu_is_this_machine() -> None:
    target = load_target("cpu")
    assert target.cores == usable_cores()
    assert target.arch == host_facts().arch
    assert target.transport == "local"


def test_unknown_target_names_the_known_and_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no target 'rpy4': did you mean rpi4\?.*android, cpu, pixel-4a, pixel-8, poco-f7, rpi, rpi-zero2w, rpi4, rpi5"):
        load_target("rpy4")
    with pytest.raises(UsageError, match=r"no target '\.\.': "):
        load_target("..")


def test_a_file_starts_from_another_target(tmp_path: Path) -> None:
    profile = tmp_path / "my-board.toml"
    profile.write_text('same_as = "rpi5"\nram_mb = 8192\n[sources]\nram_mb = "mine"\n')
    target = load_target(str(profile))
    assert (target.name, target.ram_mb, target.cpu) == ("my-board", 8192, "cortex-a76")
    assert target.sources["ram_mb"] == "mine"
    assert target.sources["cpu"] == load_target("rpi5").sources["cpu"]


def test_a_folder_of_profiles_adds_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench.toml").write_text('same_as = "cpu"\nscheme = "int8"\n')
    monkeypatch.setenv("EDGE_TARGETS", str(tmp_path))
    assert "bench" in target_names()
    assert load_target("bench").scheme is Scheme.INT8
    monkeypatch.setenv("EDGE_TARGETS", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="not a folder"):
        load_target("bench")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cores = 4", "missing required field"),
        ('same_as = "rpi5"\nclock = 3', "unknown field `clock`"),
        ('same_as = "rpi5"\ncores = "four"', "Expected `int`"),
        ('same_as = "rpi5"\nscheme = "int3"', "Invalid enum value 'int3'"),
        ('same_as = "rpi5"\nthreads = 9', "9 threads on 4 cores"),
        ('same_as = "rpi5"\ncores = 0', "cores = 0"),
        ('same_as = "rpi5"\npage_size = 5000', "power of two"),
        ('same_as = "rpi5"\npeak_gflops = -1.0', "above 0"),
        ('same_as = "board.toml"', "same as itself"),
        ('same_as = "gone.toml"', "does not exist"),
        ('same_as = "rpi5"\ndetect = "host"', "keep one"),
        ('detect = "phone"', "detect is"),
        ("sources = 3\nsame_as = 'rpi5'", "Expected `str`|Expected `object`"),
        ("cores = ", "not TOML"),
    ],
)
def test_a_profile_that_is_wrong_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    profile = tmp_path / "board.toml"
    profile.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as refusal:
        load_target(str(profile))
    assert "\n" not in str(refusal.value)


def test_a_name_that_would_leave_the_folder_of_a_bundle_is_refused(tmp_path: Path) -> None:
    profile = tmp_path / "My Board.toml"
    profile.write_text('same_as = "rpi5"')
    with pytest.raises(ConfigError, match="small letters"):
        load_target(str(profile))


def test_arm_cores_are_named_by_part() -> None:
    processors = parse_cpuinfo(PI5)
    assert len(processors) == 2
    assert name_cpu("aarch64", processors) == ("cortex-a76", ("+neon", "+dotprod", "+fullfp16"))


def test_big_and_little_cores_get_only_what_both_have() -> None:
    little = PI5.split("\n\n")[0].replace("0xd0b", "0xd03").replace(" asimddp", "")
    processors = parse_cpuinfo(PI5 + "\n" + little)
    assert name_cpu("aarch64", processors) == ("generic", ("+neon", "+fullfp16"))


def test_x86_levels_follow_the_flags() -> None:
    v2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
    v3 = f"{v2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
    v4 = f"{v3} avx512f avx512bw avx512cd avx512dq avx512vl"
    assert name_cpu("x86_64", [{"flags": "cx16"}]) == ("x86-64", ())
    assert name_cpu("x86_64", [{"flags": f"{v2} avx512_vnni"}]) == ("x86-64-v2", ())
    assert name_cpu("x86_64", [{"flags": f"{v3} avx_vnni"}]) == ("x86-64-v3", ("+avxvnni",))
    assert name_cpu("x86_64", [{"flags": f"{v4} avx512_vnni amx_int8"}]) == ("x86-64-v4", ("+avx512vnni",))
    assert name_cpu("riscv64", [])[0] == "generic"


def test_a_small_boards_memory_is_not_rounded_away(capsys: pytest.CaptureFixture[str]) -> None:
    from edge import cli

    assert cli.invoke(["targets"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "512 MB" in rows["rpi-zero2w"] and " 4 GB" in rows["rpi5"]
