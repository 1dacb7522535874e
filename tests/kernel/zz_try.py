import time, os, subprocess
from tests.kernel import guest, killed
def prepare():
    guest.load_drivers(); guest.load_tbmdev(); guest.make_tree(); guest.install()
def setup(): guest.reset_machine()
def test_hook():
    guest.vm(100, "machine: q35\nhostpci0: 0000:03:00.0,mdev=tbmdev-1\n")
    for phase in ("pre-start","post-start","pre-stop","post-stop"):
        t=time.monotonic(); r=guest.hook(100, phase); print(phase, r.returncode, r.stdout, os.listdir(guest.MDEVS), round(time.monotonic()-t,2))
    t=time.monotonic(); seen=killed.changes(guest.HOOK,"100","pre-start",python="/usr/bin/python3") if False else None
    r=subprocess.run(killed.command(guest.HOOK,"100","pre-start",python="/usr/bin/python3",log="/tmp/log")); print(r.returncode, time.monotonic()-t); print(open("/tmp/log").read())
    r=subprocess.run(killed.command(guest.HOOK,"100","post-stop",python="/usr/bin/python3",before=3)); print(r.returncode); print(os.listdir(guest.MDEVS))
    r=guest.hook(100,"post-stop"); print(r.returncode,r.stdout); print(os.listdir(guest.MDEVS), os.listdir("/run/pvepassthru"))
