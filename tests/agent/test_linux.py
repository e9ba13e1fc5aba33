"""What the agent asks of Linux, and of its C library."""

import platform
import subprocess
import sys

import pytest

from cmdop_appliance.protocol.limits import OUTPUT_BYTES


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc")
@pytest.mark.parametrize(("keeps", "is_costly"), [("keep_heap", False), ("int", True)])
def test_memory_of_pieces_of_output_is_used_again(keeps, is_costly):
    program = f"""if True:
        import resource
        from cmdop_appliance.agent.linux import keep_heap

        def send_pieces():
            for _ in range(200):
                pieces = [bytes({OUTPUT_BYTES}) for _ in range(4)]

        {keeps}()
        send_pieces()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        send_pieces()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (int(said.stdout) > 200) == is_costly
