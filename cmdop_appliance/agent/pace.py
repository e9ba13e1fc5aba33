"""How fast the agent's link goes: its deadlines, and its patience between attempts."""

from dataclasses import dataclass

from cmdop_appliance.protocol.limits import HANDSHAKE_S, HEARTBEAT_S, SEND_S, SILENT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Times in seconds; a test may run faster."""

    handshake_s: float = HANDSHAKE_S
    heartbeat_s: float = HEARTBEAT_S
    first_sample_s: float = 1.0  # over which the first load of the processor is measured
    sample_s: float = 15.0  # between two samples
    background_s: float = 60.0  # the same in the background
    silent_s: float = SILENT_S
    send_s: float = SEND_S
    close_s: float = 5.0  # for the answer to a close frame (stack.md, decision 3)
    retry_least_s: float = 0.5  # semantics.md, Agents
    retry_most_s: float = 30.0


def retry_delay(attempt: int, pace: Pace, dice: float) -> float:
    """Seconds to wait before attempt number `attempt`, from 0; `dice` is uniform in [0, 1).

    Full jitter: the whole delay is random, so that the agents of a restarted hub come back spread
    over it. It doubles up to a bound, and never gives up.
    """
    doublings = min(attempt, 32)  # beyond the bound, and far below what a float holds
    return dice * min(pace.retry_most_s, pace.retry_least_s * 2.0**doublings)
