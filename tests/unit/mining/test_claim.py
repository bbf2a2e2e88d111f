from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from torch import nn

from convscope.errors import Refused
from convscope.mining.claim import claimed
from convscope.mining.mine import mine
from convscope.network.network import Network
from convscope.store import Store

HOLD = """
import sys
from convscope.mining.claim import claimed
from convscope.store import Store

with Store.open(sys.argv[1]) as store, claimed(store):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_cannot_mine_into_one_study(tmp_path):
    network = Network.from_module(nn.Sequential(nn.Conv2d(1, 2, 3)), image_size=8)
    photos = [np.full((8, 8), shade, np.uint8) for shade in (0, 100)]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Refused, match="being mined already"):
            mine(network, photos, study=tmp_path, executor="serial")
        # However it ends, the study is free again.
        holder.kill()
    assert mine(network, photos, study=tmp_path, executor="serial").finished


def test_a_claim_ends_with_its_block_also_after_an_exception(tmp_path):
    with Store.open(tmp_path) as store:
        with pytest.raises(ZeroDivisionError), claimed(store):
            raise ZeroDivisionError
        with claimed(store), pytest.raises(Refused), claimed(store):
            pass
        with claimed(store):
            pass


def test_a_read_only_study_needs_no_claim(tmp_path):
    with Store.open(tmp_path) as store:
        store.writable = False
        with claimed(store), claimed(store):
            pass
