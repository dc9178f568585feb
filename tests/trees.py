"""Devices' files and programs for the tests of sensors and meters, laid out as their kernels do.

No board was at hand: what programs print is as its users published it (each with its address), and files follow the
kernel's own documentation of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.devices.programs import Programs

#: A Pi 5 at full load, `vcgencmd pmic_read_adc`, as a benchmark for Raspberry Pis published it in its source: all rails.
PMIC = """\
     3V7_WL_SW_A current(0)=0.05855580A
       3V3_SYS_A current(1)=0.06148359A
       1V8_SYS_A current(2)=0.13272650A
      DDR_VDD2_A current(3)=0.13955800A
      DDR_VDDQ_A current(4)=0.00980400A
       1V1_SYS_A current(5)=0.19811380A
        0V8_SW_A current(6)=0.34157550A
      VDD_CORE_A current(7)=5.03652000A
       3V3_DAC_A current(17)=0.00006105A
       3V3_ADC_A current(18)=0.00054945A
       0V8_AON_A current(16)=0.00531135A
          HDMI_A current(22)=0.02161170A
     3V7_WL_SW_V volt(8)=3.61069200V
       3V3_SYS_V volt(9)=3.29982600V
       1V8_SYS_V volt(10)=1.81684800V
      DDR_VDD2_V volt(11)=1.10109800V
      DDR_VDDQ_V volt(12)=0.60366240V
       1V1_SYS_V volt(13)=1.10292900V
        0V8_SW_V volt(14)=0.80292960V
      VDD_CORE_V volt(15)=0.89369880V
       3V3_DAC_V volt(20)=3.29944700V
       3V3_ADC_V volt(21)=3.30402600V
       0V8_AON_V volt(19)=0.79618980V
          HDMI_V volt(23)=4.92450000V
         EXT5V_V volt(24)=4.92450000V
          BATT_V volt(25)=0.00341880V
"""

#: A Samsung A52 5G, Android 12, `dumpsys thermalservice`: android.stackexchange.com/questions/246774.
THERMALSERVICE = """\
IsStatusOverride: false
ThermalEventListeners:
        callbacks: 1
        killed: false
        broadcasts count: -1
ThermalStatusListeners:
        callbacks: 4
        killed: false
        broadcasts count: -1
Thermal Status: 0
Cached temperatures:
        Temperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
        Temperature{mValue=25.6, mType=0, mName=AP, mStatus=0}
        Temperature{mValue=25.7, mType=5, mName=PA, mStatus=0}
HAL Ready: true
HAL connection:
        ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
        Temperature{mValue=25.6, mType=0, mName=AP, mStatus=0}
        Temperature{mValue=23.8, mType=2, mName=BAT, mStatus=0}
        Temperature{mValue=24.7, mType=3, mName=LRB, mStatus=0}
        Temperature{mValue=25.7, mType=5, mName=PA, mStatus=0}
        Temperature{mValue=0.0, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
"""

CPUFREQ = "sys/devices/system/cpu/cpufreq"
THERMAL = "sys/class/thermal"
RAPL = "sys/class/powercap"

PI5: Mapping[str, str] = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    f"{CPUFREQ}/policy0/scaling_cur_freq": "2400000",
    f"{CPUFREQ}/policy0/scaling_governor": "ondemand",
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal",
    f"{THERMAL}/thermal_zone0/temp": "51800",
    f"{THERMAL}/cooling_device0/type": "pwm-fan",
    f"{THERMAL}/cooling_device0/cur_state": "2",
}

#: A laptop: the zone "acpitz" is the mainboard's and its value no CPU's; two core types have two policies.
LAPTOP: Mapping[str, str] = {
    f"{CPUFREQ}/policy0/scaling_cur_freq": "3400123",
    f"{CPUFREQ}/policy10/scaling_cur_freq": "1900456",
    f"{CPUFREQ}/policy2/scaling_cur_freq": "3399999",
    f"{THERMAL}/thermal_zone0/type": "acpitz",
    f"{THERMAL}/thermal_zone0/temp": "27800",
    f"{THERMAL}/thermal_zone1/type": "x86_pkg_temp",
    f"{THERMAL}/thermal_zone1/temp": "63000",
    f"{THERMAL}/cooling_device0/type": "Processor",
    f"{THERMAL}/cooling_device0/cur_state": "0",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "12",
    f"{RAPL}/intel-rapl:0/name": "package-0",
    f"{RAPL}/intel-rapl:0/energy_uj": "261999000000",
    f"{RAPL}/intel-rapl:0/max_energy_range_uj": "262143328850",
    f"{RAPL}/intel-rapl:0:0/name": "core",
    f"{RAPL}/intel-rapl:0:0/energy_uj": "100",
    f"{RAPL}/intel-rapl:0:1/name": "dram",
    f"{RAPL}/intel-rapl:0:1/energy_uj": "5000000",
    f"{RAPL}/intel-rapl:0:1/max_energy_range_uj": "65712999613",
    f"{RAPL}/intel-rapl:1/name": "psys",
    f"{RAPL}/intel-rapl:1/energy_uj": "42",
}

PHONE: Mapping[str, str] = {
    f"{CPUFREQ}/policy0/scaling_cur_freq": "1804800",
    f"{CPUFREQ}/policy6/scaling_cur_freq": "2208000",
    "sys/class/power_supply/battery/type": "Battery",
    "sys/class/power_supply/battery/status": "Discharging",
    "sys/class/power_supply/battery/current_now": "-412000",
    "sys/class/power_supply/battery/voltage_now": "4012000",
    "sys/class/power_supply/usb/type": "USB",
}


def plant(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def answering(answers: Mapping[str, str]) -> Programs:
    """Programs that print what ``answers`` says for their command line, and are not there otherwise."""

    def programs(command: Sequence[str]) -> str | None:
        return answers.get(" ".join(command))

    return programs


PI5_PROGRAMS = {"vcgencmd get_throttled": "throttled=0x0\n", "vcgencmd pmic_read_adc": PMIC}
PHONE_PROGRAMS = {"dumpsys thermalservice": THERMALSERVICE}
