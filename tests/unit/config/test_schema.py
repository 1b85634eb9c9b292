"""The tables and the classes say the same."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import get_type_hints

import pytest

from fl_cluster.config import schema
from fl_cluster.config.keys import BLOCKS
from fl_cluster.config.rules import OneOf
from fl_cluster.config.tables import Kind

ROOT = Path(__file__).resolve().parents[3]

CLASSES = {
    "aggregation": schema.AggregationSettings,
    "distributed_cache": schema.CacheSettings,
    "ssl": schema.TlsSettings,
    "round": schema.RoundSettings,
    "summary": schema.SummarySettings,
    "unsupervised": schema.UnsupervisedSettings,
    "encrypt": schema.EncryptSettings,
    "encrypt.pw_encrypt": schema.MaskingSettings,
    "encrypt.secure_aggregation": schema.RingSettings,
    "encrypt.dp_encrypt": schema.PrivacySettings,
    "encrypt.signds": schema.SignSettings,
    "compression": schema.CompressionSettings,
    "client_verify": schema.VerifySettings,
    "client": schema.DeviceSettings,
    "privacy": schema.NoiseSettings,
    "cluster": schema.ClusterSettings,
    "": schema.JobSettings,
}

MADE_FROM_SEVERAL_KEYS = {
    "distributed_cache": {"address"},
    "ssl": {"enabled"},
    "encrypt": {"masking", "ring", "privacy", "signs"},
    "": {"file", "aggregation", "cache", "tls", "cluster", "warnings"},
}

TYPES = {Kind.STR: str, Kind.INT: int, Kind.FLOAT: float, Kind.BOOL: bool}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name or "file")
def test_every_field_is_filled_by_one_key_of_its_type(block):
    section = CLASSES[block.name]
    hints = get_type_hints(section)
    filled = {key.attribute: key for key in block.keys if key.attribute}

    fields = {field.name for field in dataclasses.fields(section)}
    assert fields - MADE_FROM_SEVERAL_KEYS.get(block.name, set()) == set(filled)
    for attribute, key in filled.items():
        expected = key.rule.words if isinstance(key.rule, OneOf) else TYPES[key.kind]
        assert hints[attribute] is expected, attribute


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name or "file")
def test_a_key_that_is_not_required_has_a_default_of_its_type(block):
    for key in block.keys:
        if not key.required:
            assert type(key.default) is TYPES[key.kind], key.name


def test_words_become_members(bench):
    settings = bench.server()

    assert isinstance(settings.server_mode, StrEnum)
    assert settings.encrypt.kind is schema.EncryptType.NOT_ENCRYPT
    assert settings.cluster.log_format is schema.LogFormat.TEXT


def test_the_documentation_of_the_configuration_is_up_to_date():
    tool = ROOT / "tools" / "document_configuration.py"

    outcome = subprocess.run([sys.executable, str(tool), "--check"], check=False)

    assert outcome.returncode == 0, "run tools/document_configuration.py"
