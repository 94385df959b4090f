"""Settings of all tests: one thread, which is what makes runs bit-identical, and no network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is first imported

import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--write-objectives", action="store_true", help="rewrite book/reference/objectives.md")
    parser.addoption("--write-bad-input", action="store_true", help="rewrite book/reference/bad-input.md")
    parser.addoption("--write-sandbox", action="store_true", help="rewrite book/reference/sandbox.md")
    parser.addoption("--write-faults", action="store_true", help="rewrite book/reference/faults.md")
    parser.addoption("--write-supply", action="store_true", help="rewrite book/reference/supply.md")
