"""Five hundred that dial within one second, each with a key and a connection of its own."""

from __future__ import annotations

import json
import re

from .test_joining import FIRST_ANSWER

DIALLERS, DIALS_EACH = 4, 125
DIALLER = """
import json, resource, threading
from zray.protocol.records import JoinInfo
from zray.transport.connection import connect
from zray.config import Config
from zray.protocol.messages import DRIVER
from zray.transport.security.keys import KeyDirectory

resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
address, count = sys.argv[1], int(sys.argv[2])
credentials, config = KeyDirectory().client("driver"), Config(connect_timeout_s=20.0)
welcomed, faults, began, lock = [], [], [], threading.Lock()

def dial(delay_s):
    time.sleep(delay_s)
    with lock:
        began.append(time.monotonic())
    try:
        connection = connect(address, DRIVER, os.urandom(16), JoinInfo(os.getpid()), config, credentials)
    except Exception as error:
        faults.append(repr(error))
        return
    with lock:
        welcomed.append((time.monotonic(), connection))

threads = [threading.Thread(target=dial, args=(0.7 * n / count,)) for n in range(count)]
print("loaded")
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
times = [at for at, _ in welcomed]
print("result " + json.dumps([len(welcomed), faults[:3], min(began), max(began), max(times, default=0)]))
sys.stdin.readline()
for _, connection in welcomed:
    connection.close(0)
"""
SERVICE = """
ray.init(sys.argv[1])
count, slowest = 0, 0.0
task = ray.remote(lambda n: n + 1)
ray.get(task.remote(0))
print("serving")
while not os.path.exists(sys.argv[2]):
    began = time.monotonic()
    assert ray.get(task.remote(count), timeout=20) == count + 1
    count, slowest = count + 1, max(slowest, time.monotonic() - began)
print(f"served {count} {slowest:.3f}")
ray.shutdown()
"""


def test_five_hundred_dial_in_one_second(network):
    head, one, laptop, crowd = (network.machine(name) for name in ("head", "one", "laptop", "crowd"))
    network.share_keys(head)
    broker = head.start_broker()
    broker.expect("ready at")
    one.start_worker(head.endpoint).expect("host is ready")
    stop = network.base / "stop"
    service = laptop.start_driver(SERVICE, head.endpoint, str(stop))
    service.expect("serving")
    diallers = [crowd.start_driver(DIALLER, head.endpoint, str(DIALS_EACH)) for _ in range(DIALLERS)]
    for dialler in diallers:
        dialler.expect("loaded")
    for dialler in diallers:
        dialler.say("\n")
    results = [json.loads(dialler.expect("result ", 40).removeprefix("result ")) for dialler in diallers]
    assert [(count, faults) for count, faults, *_ in results] == [(DIALS_EACH, [])] * DIALLERS
    assert max(row[3] for row in results) - min(row[2] for row in results) < 3.0
    assert len(head.sockets("01")) == DIALLERS * DIALS_EACH + 2
    stop.touch()
    count = int(service.expect("served").split()[1])
    assert count > 50
    service.succeed()
    for dialler in diallers:
        dialler.say("\n")
        dialler.succeed()
    assert "answer 42" in laptop.start_driver(FIRST_ANSWER, head.endpoint).succeed()
    # Where the diallers' machine is overloaded, one may hang up and dial anew: the broker counts that, and no more.
    expected = re.compile(r"hung up or silent|zray.broker: (host|driver) .* (joined|left)")
    assert all(map(expected.search, broker.err.splitlines())), broker.err
    print("all welcomed after", round(max(row[4] for row in results) - min(row[2] for row in results), 2), "s")
    print("the slowest task took", service.out.split()[-1], "s")
