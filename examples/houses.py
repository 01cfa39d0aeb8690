"""A table through scikit-learn's manners, beside boosted trees on the same split.

python examples/houses.py houses.csv --target price --time 3m
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from gristmill.sklearn import Regressor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("--target", required=True)
    parser.add_argument("--time", default="3m")
    options = parser.parse_args()

    table = pd.read_csv(options.table).dropna(subset=[options.target])
    X, y = table.drop(columns=options.target), table[options.target]
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

    words = X.select_dtypes(exclude="number").columns
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((encode, words), remainder="passthrough")
    trees = make_pipeline(columns, HistGradientBoostingRegressor(random_state=0)).fit(X_train, y_train)
    ours = Regressor(time=options.time).fit(X_train, y_train)
    for name, model in (("boosted trees", trees), ("gristmill", ours)):
        error = float(np.sqrt(np.mean((model.predict(X_test) - y_test) ** 2)))
        print(f"{name}: RMSE {error:.4g}")


if __name__ == "__main__":
    main()
