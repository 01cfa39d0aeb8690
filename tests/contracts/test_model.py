from __future__ import annotations

from typing import Any

from gristmill.models import Family, family, linear, perceptron, trees
from gristmill.testing.model import FamilyContract, NetworkContract, OneShotContract


class TestConstant(FamilyContract):
    def family(self) -> Family:
        return family("constant")


class TestFeatures(OneShotContract):
    def family(self) -> Family:
        return family("features")

    def learner(self) -> Any:
        return linear


class TestFeaturesMLP(TestFeatures):
    def learner(self) -> Any:
        return perceptron


class TestLinear(OneShotContract):
    def family(self) -> Family:
        return family("linear")

    def learner(self) -> Any:
        return linear


class TestTrees(OneShotContract):
    def family(self) -> Family:
        return family("trees")

    def learner(self) -> Any:
        return trees


class TestConvStack(NetworkContract):
    def family(self) -> Family:
        return family("convstack")


class TestResNet(NetworkContract):
    def family(self) -> Family:
        return family("resnet")


class TestConvNeXt(NetworkContract):
    def family(self) -> Family:
        return family("convnext")


class TestMBConv(NetworkContract):
    def family(self) -> Family:
        return family("mbconv")


class TestMLP(NetworkContract):
    def family(self) -> Family:
        return family("mlp")
