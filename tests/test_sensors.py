"""Sensors and energy meters, read from devices' own files and programs; what is not there is said to be."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import (
    CPUFREQ,
    LAPTOP,
    PHONE,
    PHONE_PROGRAMS,
    PI5,
    PI5_PROGRAMS,
    PMIC,
    RAPL,
    THERMAL,
    THERMALSERVICE,
    answering,
    plant,
)

from edge.conditions import NOT_READABLE
from edge.devices import energy
from edge.devices.energy import Rapl, Sampled, find_meter, pmic_watts
from edge.devices.programs import local_programs, no_programs
from edge.devices.resident import proportional, resident, resident_now
from edge.devices.sensors import Sensors, cpu_temperatures, parse_get_throttled, thermal_status

# --- clock, temperature, throttling


def test_a_pi_5_says_all_of_it(tmp_path: Path) -> None:
    reading = Sensors(plant(tmp_path, PI5), answering(PI5_PROGRAMS)).read(5.0, 10)
    assert reading.frequencies_mhz == (2400.0,)
    assert reading.temperature_c == 51.8
    assert reading.throttled == ()
    assert (reading.at_us, reading.rss_bytes) == (5.0, 10)


def test_the_bits_of_a_pi_are_named_now_and_since(tmp_path: Path) -> None:
    answers = dict(PI5_PROGRAMS)
    sensors = Sensors(plant(tmp_path, PI5), answering(answers))
    before = sensors.throttling()
    answers["vcgencmd get_throttled"] = "throttled=0x20000\n"  # capped at some time since, not now
    between = sensors.throttling()
    answers["vcgencmd get_throttled"] = "throttled=0x5000a\n"
    after = sensors.throttling()
    assert before is not None and between is not None and after is not None
    assert before.since(before) == ()
    assert between.active == () and between.since(before) == ("frequency capped",)
    assert after.active == ("frequency capped", "soft temperature limit")
    assert set(after.since(before)) == {"frequency capped", "soft temperature limit", "under-voltage", "throttled"}


def test_older_kernels_have_the_bits_in_a_file(tmp_path: Path) -> None:
    root = plant(tmp_path, {**PI5, "sys/devices/platform/soc/soc:firmware/get_throttled": "50005"})
    found = Sensors(root, no_programs).throttling()
    assert found is not None and found.active == ("under-voltage", "throttled")


def test_a_laptop_counts_events_and_its_mainboard_is_no_cpu(tmp_path: Path) -> None:
    root = plant(tmp_path, LAPTOP)
    sensors = Sensors(root, no_programs)
    reading = sensors.read(0.0)
    assert reading.frequencies_mhz == pytest.approx((3400.123, 3399.999, 1900.456))  # in the order of policies
    assert reading.temperature_c == 63.0
    before = sensors.throttling()
    plant(tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "13"})
    after = sensors.throttling()
    assert before is not None and after is not None and after.since(before) == ("thermal event",)
    plant(tmp_path, {f"{THERMAL}/cooling_device0/cur_state": "3"})
    capped = sensors.throttling()
    assert capped is not None and capped.active == ("frequency capped by the kernel's thermal governor",)


def test_a_phone_is_asked_by_its_own_service(tmp_path: Path) -> None:
    answers = dict(PHONE_PROGRAMS)
    sensors = Sensors(plant(tmp_path, PHONE), answering(answers))
    assert sensors.read(0.0).temperature_c == 25.6  # the CPU's, not the power amplifier's
    assert sensors.read(0.0).throttled == ()
    assert sensors.glance(0.0).temperature_c is None  # a program is not asked in between
    answers["dumpsys thermalservice"] = THERMALSERVICE.replace("Status: 0", "Status: 3")
    assert sensors.read(0.0).throttled == ("Android's thermal status severe",)


def test_what_is_not_there_is_not_readable(tmp_path: Path) -> None:
    sensors = Sensors(tmp_path, no_programs)
    reading = sensors.read(0.0)
    assert reading.frequencies_mhz == () and reading.temperature_c is None and reading.throttled is None
    assert all(source.startswith(NOT_READABLE) for source in sensors.sources.values())


@pytest.mark.parametrize(
    "files",
    [
        {f"{THERMAL}/thermal_zone0/type": "acpitz", f"{THERMAL}/thermal_zone0/temp": "27800"},
        {f"{THERMAL}/thermal_zone0/type": "cpu-thermal", f"{THERMAL}/thermal_zone0/temp": "-274000"},
        {f"{THERMAL}/thermal_zone0/type": "cpu-thermal", f"{THERMAL}/thermal_zone0/temp": "0"},
        {f"{THERMAL}/thermal_zone0/type": "cpu-thermal", f"{THERMAL}/thermal_zone0/temp": "hot"},
        {f"{CPUFREQ}/policy0/scaling_cur_freq": "<unknown>"},
        {"proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2100.000\n"},  # what a virtual machine says, whatever the clock
    ],
)
def test_what_cannot_be_true_is_not_readable_either(tmp_path: Path, files: dict[str, str]) -> None:
    reading = Sensors(plant(tmp_path, files), no_programs).read(0.0)
    assert reading.frequencies_mhz == () and reading.temperature_c is None


@given(st.text())
def test_programs_may_print_anything(output: str) -> None:
    assert parse_get_throttled(output) is None or output.strip().startswith("throttled=0x")
    assert pmic_watts(output) is None
    assert thermal_status(output) is None
    assert cpu_temperatures(output) == []


@given(st.integers(0, 2**32 - 1))
def test_every_value_of_the_bits_is_read(bits: int) -> None:
    assert parse_get_throttled(f"throttled=0x{bits:x}\n") == bits


def test_this_machine_answers_without_an_error() -> None:
    reading = Sensors().read(0.0)
    assert reading.temperature_c is None or 1 <= reading.temperature_c <= 130
    assert local_programs(("no-such-program-here",)) is None
    assert local_programs(("false",)) is None
    assert local_programs(("echo", "$HOME; ls")) == "$HOME; ls\n"  # no shell reads it


# --- memory


def test_shared_pages_are_counted_by_their_part() -> None:
    now, peak = resident()
    share = proportional()
    assert share is not None and 0 < share <= now * 1.05 <= peak * 1.1
    assert resident_now() == pytest.approx(now, rel=0.2)


# --- energy


def test_rapl_counts_packages_and_memory_once_and_wraps(tmp_path: Path) -> None:
    root = plant(tmp_path, LAPTOP)
    meter = find_meter(root, no_programs)
    assert isinstance(meter, Rapl) and meter.method == "RAPL counters (package-0, dram)"
    meter.start()
    plant(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": "1000000", f"{RAPL}/intel-rapl:0:1/energy_uj": "5500000"})
    assert meter.stop() == pytest.approx((262143328850 - 261999000000 + 1000000) / 1e6 + 0.5)


def test_rapl_for_root_alone_is_said(tmp_path: Path) -> None:
    (plant(tmp_path, LAPTOP) / f"{RAPL}/intel-rapl:0/energy_uj").unlink()
    (tmp_path / f"{RAPL}/intel-rapl:0:1/energy_uj").unlink()
    found = find_meter(tmp_path, no_programs)
    assert isinstance(found, str) and found.startswith(NOT_READABLE) and "root" in found


def test_the_rails_of_a_pi_5_are_summed() -> None:
    watts = pmic_watts(PMIC)
    assert watts is not None
    assert watts == pytest.approx(5.92, abs=0.01)  # the core's 4.50 W and what is around it; the 5 V input has no current
    assert pmic_watts('error=1 error_msg="Command not registered"\n') is None  # a Pi 4


def test_a_steady_draw_gives_watts_times_seconds(tmp_path: Path) -> None:
    meter = find_meter(plant(tmp_path, PI5), answering(PI5_PROGRAMS))
    assert isinstance(meter, Sampled) and "PMIC" in meter.method
    meter.start()
    begun = time.perf_counter()
    time.sleep(0.35)
    took = time.perf_counter() - begun
    joules = meter.stop()
    assert joules is not None
    assert joules == pytest.approx(5.92 * took, rel=0.05)


def test_a_battery_must_be_discharging(tmp_path: Path) -> None:
    meter = find_meter(plant(tmp_path, PHONE), no_programs)
    assert isinstance(meter, Sampled)
    assert meter.watts() == pytest.approx(0.412 * 4.012)
    plant(tmp_path, {"sys/class/power_supply/battery/status": "Charging"})
    found = find_meter(tmp_path, no_programs)
    assert isinstance(found, str) and "unplug" in found


def test_a_meter_that_fails_gives_nothing() -> None:
    answers = iter([1.0, None, 1.0, 1.0, 1.0])
    meter = energy.Sampled(lambda: next(answers, 1.0), "test", period=0.01, least_seconds=0.0)
    meter.start()
    time.sleep(0.05)
    assert meter.stop() is None
