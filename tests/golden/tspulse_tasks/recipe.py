"""Makes the goldens of the TSPulse tasks with IBM's own pipelines (see README.md); not run by the tests.

python recipe.py            in an environment with torch==2.13.0, granite-tsfm==0.3.2 and pandas<3
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tsfm_public import TimeSeriesPreprocessor
from tsfm_public.models.tspulse import TSPulseConfig, TSPulseForReconstruction
from tsfm_public.toolkit.time_series_anomaly_detection_pipeline import TimeSeriesAnomalyDetectionPipeline
from tsfm_public.toolkit.time_series_imputation_pipeline import TimeSeriesImputationPipeline

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tspulse"))
import recipe as weights  # noqa: E402  (the recipe of the model goldens: configs, weights, series)

MODES = ("time", "fft", "forecast")


def model(config: dict[str, object], channels: int) -> TSPulseForReconstruction:
    built = TSPulseForReconstruction(TSPulseConfig(**config | {"num_input_channels": channels})).eval()
    state = {name: torch.from_numpy(weights.weight(name, tuple(t.shape))) for name, t in built.state_dict().items()}
    built.load_state_dict(state)
    return built


def frame(series: np.ndarray) -> tuple[pd.DataFrame, list[str]]:
    columns = [f"c{index}" for index in range(series.shape[1])]
    table = pd.DataFrame(series.astype(np.float64), columns=columns)
    table.insert(0, "time", pd.date_range("2024-01-01", periods=len(table), freq="h"))
    return table, columns


def main() -> None:
    found: dict[str, np.ndarray] = {}
    for channels in (1, 2):
        series = weights.series(f"anomaly/{channels}", 1, 600, channels)[0]
        series[560:563, 0] += 6.0
        table, columns = frame(series)
        found[f"anomaly{channels}/series"] = series
        for name, modes in [(mode, [mode]) for mode in MODES] + [("all", list(MODES))]:
            pipeline = TimeSeriesAnomalyDetectionPipeline(
                model(weights.ALLHEAD, channels),
                timestamp_column="time",
                target_columns=columns,
                prediction_mode=modes,
                aggregation_length=32,
                smoothing_length=8,
                aggr_function="max",
            )
            found[f"anomaly{channels}/{name}"] = pipeline(table)["anomaly_score"].to_numpy()
    series = weights.series("imputation", 1, 540, 2)[0].astype(np.float64) * [1.0, 50.0]
    hidden = weights.uniform_pm1("imputation/mask", series.size).reshape(series.shape) > 0.8
    hidden[300:330, 1] = True
    holed = np.where(hidden, np.nan, series)
    table, columns = frame(holed)
    preprocessor = TimeSeriesPreprocessor(
        timestamp_column="time",
        target_columns=columns,
        context_length=512,
        prediction_length=0,
        scaling=True,
        scaler_type="standard",
        encode_categorical=False,
    )
    preprocessor.train(table)
    pipeline = TimeSeriesImputationPipeline(
        model(weights.DUALHEAD, 2), feature_extractor=preprocessor, batch_size=16, add_known_ground_truth=False
    )
    found["impute/holed"] = holed
    found["impute/filled"] = pipeline(table)[columns].to_numpy()
    names = ("torch", "granite-tsfm", "transformers", "pandas", "numpy", "scikit-learn")
    found["versions"] = np.array(json.dumps({name: importlib.metadata.version(name) for name in names}))
    np.savez_compressed(HERE / "pipelines.npz", **found)
    print({name: array.shape for name, array in found.items()})


if __name__ == "__main__":
    main()
