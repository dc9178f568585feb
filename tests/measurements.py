"""Measurements of a size to read, for the tests of what is made of them."""

from __future__ import annotations

import msgspec
import numpy as np

from edge.conditions import Block, Conditions, Energy, Figure, IdleBand, Reading
from edge.manifest import Cost, ErrorStats, MetricRecord
from edge.measurement import (
    Bound,
    BundleFacts,
    DeviceFacts,
    EntryMeasurement,
    Latency,
    Measurement,
    Memory,
    Phase,
    Roof,
    Run,
    Settings,
)
from edge.runtimes.base import OperatorTime

EVIL = '<script>alert("x")</script> & co'
MB = 10**6


def operator(name: str, start: float, mean: float, share: float) -> OperatorTime:
    return OperatorTime(
        name=name, kind="MatMul", provider="CPUExecutionProvider", module="layers.0", calls_per_run=1.0, mean_us=mean,
        share=share, start_us=start,
    )


def entry(
    name: str, durations: list[float], operators: tuple[OperatorTime, ...] = (), start: float = 1e6
) -> EntryMeasurement:
    starts = start + np.concatenate([[0.0], np.cumsum(durations)[:-1]])
    return EntryMeasurement(
        entry=name,
        inputs={"x": (1, 8)},
        bind_us=12.0,
        first_us=900.0,
        warmup_runs=5,
        latency=Latency.of(durations),
        runs=tuple(Run(float(at), one) for at, one in zip(starts, durations, strict=True)),
        operators=operators,
        cost=Cost(flops=2_000_000, weight_bytes=4_000_000, activation_bytes=5000, operators=3),
        bound=Bound(memory_us=None, arithmetic_us=20.0, kind="arithmetic", share=0.2, note="It fits in the cache."),
        errors=(ErrorStats(output="y", max_abs=1e-5, relative=2e-5, cosine=0.999999, passed=True),),
    )


def measurement(*entries: EntryMeasurement) -> Measurement:
    phases = [
        Phase(name="import", start_us=0.0, duration_us=2e5, rss_bytes=60 * MB),
        Phase(name="load", start_us=2e5, duration_us=1e5, rss_bytes=80 * MB),
    ]
    for number, one in enumerate(entries):
        at = one.runs[0].start_us
        total = sum(run.duration_us for run in one.runs)
        phases.append(Phase(
            name="runs", entry=one.entry, start_us=at, duration_us=total, rss_bytes=90 * MB, calls=len(one.runs)
        ))
        if one.operators:
            phases.append(Phase(
                name="operators", entry=one.entry, start_us=9e6 + number * 1e6, duration_us=5e5, rss_bytes=99 * MB
            ))
    return Measurement(
        edge_version="0",
        created="2026-01-02T03:04:05+00:00",
        bundle=BundleFacts(
            name="demo.edge", model="demo", runtime="onnx", runtime_version="1.32.0", scheme="fp32", target="cpu",
            manifest_sha256="ab" * 32, artifact_bytes=4 * MB, total_bytes=5 * MB,
            metrics=(MetricRecord(name="accuracy", higher_is_better=True, eager=0.98, bundle=0.975, data="digits"),),
        ),
        device=DeviceFacts(
            device="local", system="Linux 6", arch="x86_64", cpu="A CPU", cores=2, governor=None, frequency_mhz=None,
            max_frequency_mhz=None, temperature_c=None, caches={"L2": 2**20}, ram_bytes=2**32,
            load_average=(0.1, 0.2, 0.3), busy=0.01, python="3.11.7", versions={"numpy": "2"},
        ),
        settings=Settings(threads=2, runs=5, seconds=0.1),
        phases=tuple(phases),
        memory=Memory(
            baseline=30 * MB, imported=60 * MB, loaded=80 * MB, load_peak=85 * MB, run_peak=92 * MB, peak=92 * MB,
            resets=True,
        ),
        entries=entries,
        roof=Roof(
            threads=2, bandwidth_gbs=20.0, peak_gflops=100.0, bandwidth_method="reads", peak_method="products",
            last_level_cache=32 * 2**20,
        ),
        warnings=("the machine was busy.",),
    )


def full_measurement() -> Measurement:
    """Two entries: a short one with dots, a long one with stretches; overlapping and oddly named operators."""
    generator = np.random.default_rng(0)
    first = entry(
        "forward", [float(value) for value in 100 + 10 * generator.standard_exponential(40)],
        (operator("/up/MatMul", 0.0, 40.0, 0.4), operator(EVIL, 35.0, 30.0, 0.3), operator("/down", 70.0, 30.0, 0.3)),
    )
    second = entry("decode", [float(v) for v in 10 + generator.standard_exponential(1500)] + [500.0], start=2e6)
    blocks = (
        Block(start_us=9e5, duration_us=4000.0, runs=40, spoiled=("throttled",), kept=False),
        Block(start_us=1e6, duration_us=4000.0, runs=40, waited_s=4.0),
    )
    energy = Energy(method="RAPL counters (package-0)", joules=0.0123, net_joules=0.004, watts=9.0, idle_watts=6.0, runs=9, seconds=1.0)
    first = msgspec.structs.replace(first, blocks=blocks, energy=energy)
    return msgspec.structs.replace(
        measurement(first, second),
        conditions=Conditions(
            readings=(
                Reading(at_us=-5.0, frequencies_mhz=(1800.0, 2400.0), temperature_c=45.0, throttled=()),
                Reading(at_us=1e6, frequencies_mhz=(1800.0, 2400.0), temperature_c=47.0, rss_bytes=85 * MB),
                Reading(at_us=2e6, frequencies_mhz=(1800.0, 2400.0), temperature_c=61.0, throttled=("throttled",)),
            ),
            sources={
                "frequency": "cpufreq", "temperature": "cpu-thermal", "throttling": "vcgencmd get_throttled",
                "energy": "RAPL counters (package-0)",
            },
            idle=IdleBand(low_c=44.0, high_c=47.0), waited_s=4.0, repeated=1,
        ),
        figures=(Figure(name="decode", value=12345.6, unit="tokens/s", higher_is_better=True, method="one over the median"),),
    )
