"""Checked values -> the frozen settings."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar

from fl_cluster.config import legacy, schema
from fl_cluster.config.addresses import parse_cache_address
from fl_cluster.config.extension import CLUSTER, NOISE, RING
from fl_cluster.config.rules import OneOf, Value
from fl_cluster.config.tables import Block, Key, Values

T = TypeVar("T")


def _member(key: Key, value: Value) -> Value | StrEnum:
    return key.rule.words(str(value)) if isinstance(key.rule, OneOf) else value


def _fields(block: Block, values: Values) -> dict[str, Any]:
    return {
        key.attribute: _member(key, values[block.path(key)]) for key in block.keys if key.attribute
    }


def _section(section: type[T], block: Block, values: Values, **others: object) -> T:
    return section(**_fields(block, values), **others)


def _cache(values: Values) -> schema.CacheSettings:
    address = parse_cache_address(str(values["distributed_cache.address"])).with_login(
        str(values["distributed_cache.username"]), str(values["distributed_cache.password"])
    )
    if values["enable_ssl"]:
        address = address.encrypted()
    return _section(schema.CacheSettings, legacy.CACHE, values, address=address)


def _job_fields(values: Values) -> dict[str, Any]:
    tls = bool(values["enable_ssl"])
    return {
        **_fields(legacy.JOB, values),
        "aggregation": _section(schema.AggregationSettings, legacy.AGGREGATION, values),
        "cache": _cache(values),
        "tls": _section(schema.TlsSettings, legacy.TLS, values, enabled=tls),
        "cluster": _section(schema.ClusterSettings, CLUSTER, values),
    }


def build_job(values: Values, file: str, warnings: tuple[str, ...]) -> schema.JobSettings:
    """What a scheduler gets."""
    return schema.JobSettings(file=file, warnings=warnings, **_job_fields(values))


def build_settings(values: Values, file: str, warnings: tuple[str, ...]) -> schema.Settings:
    """What a server gets."""
    encrypt = _section(
        schema.EncryptSettings,
        legacy.ENCRYPT,
        values,
        masking=_section(schema.MaskingSettings, legacy.MASKING, values),
        ring=_section(schema.RingSettings, RING, values),
        privacy=_section(schema.PrivacySettings, legacy.PRIVACY, values),
        signs=_section(schema.SignSettings, legacy.SIGNS, values),
    )
    return schema.Settings(
        file=file,
        warnings=warnings,
        rounds=_section(schema.RoundSettings, legacy.ROUND, values),
        summary=_section(schema.SummarySettings, legacy.SUMMARY, values),
        unsupervised=_section(schema.UnsupervisedSettings, legacy.UNSUPERVISED, values),
        encrypt=encrypt,
        noise=_section(schema.NoiseSettings, NOISE, values),
        compression=_section(schema.CompressionSettings, legacy.COMPRESSION, values),
        verify=_section(schema.VerifySettings, legacy.VERIFY, values),
        device=_section(schema.DeviceSettings, legacy.DEVICE, values),
        **_job_fields(values),
    )
