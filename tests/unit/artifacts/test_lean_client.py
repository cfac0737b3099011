"""What is kept of botocore's descriptions: all that a client of S3 reads, and little else."""

from __future__ import annotations

import pytest

from worker.artifacts.s3 import S3Artifacts, _lean


def test_documentation_goes_and_what_is_only_named_so_stays() -> None:
    described = {
        "documentation": "long",
        "members": {"documentation": {"shape": "Text", "documentation": "long"}},
        "list": [{"documentation": "long", "shape": "A"}],
    }

    assert _lean(described) == {
        "documentation": "",
        "members": {"documentation": {"shape": "Text", "documentation": ""}},
        "list": [{"documentation": "", "shape": "A"}],
    }


def test_only_the_addresses_that_a_client_of_s3_needs_are_kept() -> None:
    assert _lean({"services": {"s3": {"x": 1}, "sts": {}, "ec2": {}}}) == {
        "services": {"s3": {"x": 1}, "sts": {}}
    }


@pytest.mark.parametrize(
    ("region", "address"),
    [
        ("us-east-1", "https://s3.amazonaws.com"),
        ("eu-central-1", "https://s3.eu-central-1.amazonaws.com"),
        ("cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_aws_is_found_by_its_regions(region: str, address: str) -> None:
    artifacts = S3Artifacts("b", region=region, access_key="k", secret_key="s")

    assert artifacts._s3.meta.endpoint_url == address
    artifacts.close()
